"""Run folders and checkpoints: JSON and safetensors, complete or absent, never a pickle."""

from sparsemix.runs.checkpoint import Checkpoint, Checkpoints
from sparsemix.runs.errors import RunError
from sparsemix.runs.folder import RunFolder, is_run
from sparsemix.runs.metrics import MetricsWriter, read_metrics
from sparsemix.runs.versions import FORMAT_VERSION

__all__ = [
    "FORMAT_VERSION",
    "Checkpoint",
    "Checkpoints",
    "MetricsWriter",
    "RunError",
    "RunFolder",
    "is_run",
    "read_metrics",
]
