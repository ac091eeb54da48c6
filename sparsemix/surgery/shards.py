"""FFNs and stacked experts as their tensors: what they are called, and how hidden units are cut into shards."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sparsemix.checks import check
from sparsemix.experts import ClampedGLUExpertsConfig, DenseConfig, ExpertsConfig, GLUExpertsConfig, MLPExpertsConfig
from sparsemix.layer import MoEExpertsConfig


class Parts(NamedTuple):
    """The names of the tensors of an FFN, or of stacked experts."""

    up: str
    down: str
    up_bias: str
    down_bias: str


DENSE_GLU = Parts("gate_up_FD", "down_DF", "gate_up_bias_F", "down_bias_D")
DENSE_MLP = Parts("up_FD", "down_DF", "up_bias_F", "down_bias_D")
GLU = Parts("experts.gate_up_EFD", "experts.down_EDF", "experts.gate_up_bias_EF", "experts.down_bias_ED")
MLP = Parts("experts.up_EFD", "experts.down_EDF", "experts.up_bias_EF", "experts.down_bias_ED")


def dense_parts(kind: DenseConfig) -> Parts:
    """What the tensors of an FFN are called."""
    return DENSE_MLP if isinstance(kind, MLPExpertsConfig) else DENSE_GLU


def stacked_parts(kind: DenseConfig) -> Parts:
    """What the tensors of experts of that kind are called."""
    return MLP if isinstance(kind, MLPExpertsConfig) else GLU


def stacked_names(kind: DenseConfig) -> tuple[str, ...]:
    """The names of all tensors that experts of that kind have, in the order of `Parts`."""
    parts = stacked_parts(kind)
    return tuple(parts) if kind.bias else (parts.up, parts.down)


def halves(kind: DenseConfig) -> int:
    """How many rows of the up matrix make a hidden unit: 2 with a gate."""
    return 1 if isinstance(kind, MLPExpertsConfig) else 2


def stacked_kind(experts: ExpertsConfig | MoEExpertsConfig, verb: str) -> DenseConfig:
    """The kind of experts that lie in stacked matrices.

    Raises:
        TypeError: they are others.
    """
    if isinstance(experts, GLUExpertsConfig | ClampedGLUExpertsConfig | MLPExpertsConfig):
        return experts
    raise TypeError(f"experts: must be glu, clamped_glu or mlp for {verb}, got {experts.type}; edit another model")


def check_divides(num_shards: int, hidden: int) -> None:
    """Raise `ValueError` unless hidden units can be dealt to so many shards evenly."""
    check(hidden % num_shards == 0, "num_shards", f"must divide the {hidden} hidden units", num_shards, "change it")


def cut_up(up: Tensor, halves: int, num_shards: int) -> Tensor:
    """Rows of E up matrices, or entries of their biases, by shards: (E, halves F, ...) to (E, G, halves F / G, ...)."""
    return up.unflatten(1, (halves, num_shards, -1)).transpose(1, 2).flatten(2, 3)


def cut_down(down: Tensor, num_shards: int) -> Tensor:
    """Columns of E down matrices by shards: (E, D, F) to (E, G, D, F / G)."""
    return down.unflatten(2, (num_shards, -1)).transpose(1, 2)


def scaled(x: Tensor, factor: float) -> Tensor:
    """x times a factor, rounded once; x itself where that is 1."""
    return x if factor == 1 else (x.double() * factor).to(x.dtype)
