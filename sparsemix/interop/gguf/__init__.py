"""GGUF, the file that llama.cpp and what is built on it run models from."""

from sparsemix.interop.gguf.write import FileType, write_gguf

__all__ = ["FileType", "write_gguf"]
