"""Proof that a layer, a run or a model of another library computes what it should."""

from sparsemix.verify.checkpoint import check_metrics, check_tensors
from sparsemix.verify.finding import Finding
from sparsemix.verify.proof import subjects, verify_decoder, verify_layer
from sparsemix.verify.situations import Subject
from sparsemix.verify.step import Step
from sparsemix.verify.text import some_tokens

__all__ = [
    "Finding",
    "Step",
    "Subject",
    "check_metrics",
    "check_tensors",
    "some_tokens",
    "subjects",
    "verify_decoder",
    "verify_layer",
]
