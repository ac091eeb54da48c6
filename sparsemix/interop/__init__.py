"""In and out of the ecosystem: models of other libraries here, and ours there."""

from sparsemix.interop.decoders import build, cast, model_dtype
from sparsemix.interop.export import export_model
from sparsemix.interop.families import matching_family, theirs
from sparsemix.interop.opening import open_model, open_run
from sparsemix.interop.own import write_own
from sparsemix.interop.stored import StoredModel

__all__ = [
    "StoredModel",
    "build",
    "cast",
    "export_model",
    "matching_family",
    "model_dtype",
    "open_model",
    "open_run",
    "theirs",
    "write_own",
]
