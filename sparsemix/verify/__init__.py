"""Proof that a layer, a run or a model of another library computes what it should."""

from sparsemix.verify.blocks import check_room, verify_blocks
from sparsemix.verify.checkpoint import check_metrics, check_tensors
from sparsemix.verify.counterpart import check_experts, check_logits, reach
from sparsemix.verify.finding import Finding
from sparsemix.verify.proof import subjects, verify_decoder, verify_layer
from sparsemix.verify.situations import Subject
from sparsemix.verify.step import Step
from sparsemix.verify.text import some_tokens

__all__ = [
    "Finding",
    "Step",
    "Subject",
    "check_experts",
    "check_logits",
    "check_metrics",
    "check_room",
    "check_tensors",
    "reach",
    "some_tokens",
    "subjects",
    "verify_blocks",
    "verify_decoder",
    "verify_layer",
]
