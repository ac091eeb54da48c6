"""Twins: an MoE language model and the dense one that does the same arithmetic a token."""

from __future__ import annotations

from dataclasses import replace

from sparsemix.checks import check
from sparsemix.experts import GLUExpertsConfig, MLPExpertsConfig
from sparsemix.layer import MoEConfig
from sparsemix.models import DecoderConfig


def dense_twin(model: DecoderConfig) -> DecoderConfig:
    """The decoder whose every mixture is one FFN as wide as the experts that a token goes to, shared ones included.

    All else is equal, the seeds of the initial weights too; the router's few operations are the MoE's alone.

    Raises:
        ValueError: the model has no mixture, or a shared expert of another kind than the routed ones.
        TypeError: one FFN cannot stand for such experts.
    """
    moe = model.moe
    check(moe is not None, "moe", "must be there to have a dense twin", "none", "give the model a mixture")
    assert moe is not None
    if not isinstance(moe.experts, GLUExpertsConfig | MLPExpertsConfig):
        raise TypeError(f"experts: must be glu or mlp to have a dense twin, got {moe.experts.type}; use one of these")
    if moe.shared is not None and moe.shared.type != moe.experts.type:
        raise ValueError(f"shared: must be {moe.experts.type} as the experts, got {moe.shared.type}; use the same kind")
    shared = 0 if moe.shared is None else moe.shared.hidden
    return replace(model, moe=None, ffn=replace(moe.experts, hidden=_width(moe, moe.experts.hidden) + shared))


def _width(moe: MoEConfig, hidden: int) -> int:
    """Of the experts that a token goes to together, on average."""
    return max(1, round(moe.router.edges_per_token(moe.num_experts) * hidden))
