"""Text becomes batches: corpora, tokenizers, memory-mapped token stores, sampling (numpy, `tokenizers`)."""

from sparsemix.data.batches import Batch, Sampler, held_out_batches
from sparsemix.data.build import build_store
from sparsemix.data.corpus import Document, read_documents
from sparsemix.data.prepare import prepare
from sparsemix.data.shards import TokenStore
from sparsemix.data.tokenizer import (
    BPETokenizerConfig,
    ByteTokenizerConfig,
    TextStream,
    Tokenizer,
    TokenizerConfig,
)

__all__ = [
    "BPETokenizerConfig",
    "Batch",
    "ByteTokenizerConfig",
    "Document",
    "Sampler",
    "TextStream",
    "TokenStore",
    "Tokenizer",
    "TokenizerConfig",
    "build_store",
    "held_out_batches",
    "prepare",
    "read_documents",
]
