"""In and out of the ecosystem: models of other libraries here, and ours there."""

from sparsemix.interop.decoders import build, cast, fill, model_dtype
from sparsemix.interop.export import export_model
from sparsemix.interop.families import matching_family, theirs
from sparsemix.interop.opening import last_step, open_model, open_run, tokenizer_of
from sparsemix.interop.own import write_own
from sparsemix.interop.stored import StoredModel

__all__ = [
    "StoredModel",
    "build",
    "cast",
    "export_model",
    "fill",
    "last_step",
    "matching_family",
    "model_dtype",
    "open_model",
    "open_run",
    "theirs",
    "tokenizer_of",
    "write_own",
]
