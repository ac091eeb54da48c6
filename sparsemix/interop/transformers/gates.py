"""What stands between the projections of a family's experts: ours where we have it, else the family's own function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import activations
from transformers.integrations.moe import _default_apply_gate

from sparsemix.checks import check
from sparsemix.kernels import Activation, ActivationName, ClampedGated, Custom, Gated, Plain

NAMES: dict[Any, ActivationName] = {
    nn.SiLU: "silu",
    activations.SiLUActivation: "silu",
    F.silu: "silu",
    activations.GELUActivation: "gelu",
    activations.GELUTanh: "gelu_tanh",
    activations.NewGELUActivation: "gelu_tanh",
    nn.ReLU: "relu",
    activations.ReLUSquaredActivation: "relu2",
    nn.Sigmoid: "sigmoid",
    torch.sigmoid: "sigmoid",
    activations.LinearActivation: "identity",
}
"""Of activations that we have too: the class of a module, or the function itself."""

STORED = ("gate_up_proj", "up_proj", "down_proj", "gate_up_proj_bias", "up_proj_bias", "down_proj_bias")
"""Where experts keep what the kernels read."""
BESIDE_GATES = (*STORED, "post_expert_norm", "parametrizations")
"""What holds parameters of experts that a gate has nothing to do with."""


def activation_of(experts: Any) -> Activation:
    """The activation of a module under transformers' `use_experts_implementation`.

    Raises:
        ValueError: it learns parameters of its own, or its layout contradicts its gate; names its class.
    """
    if not experts.has_gate:
        name = name_of(experts.act_fn)
        return Plain(name) if name else _custom(experts, experts.act_fn, width=1)
    gate = getattr(experts._apply_gate, "__func__", experts._apply_gate)
    if gate is _default_apply_gate:
        rule = "must have its gates before the up projections, as transformers' own gate splits them"
        check_served(experts, experts.is_concatenated, rule, "is_concatenated=False")
        name = name_of(experts.act_fn)
        found = Gated(name) if name else None
    else:
        found = OWN_GATES.get(gate.__module__, _unknown)(experts)
    return found or _custom(experts, experts._apply_gate, width=2)


def name_of(act_fn: Any) -> ActivationName | None:
    """What an activation of transformers is called here; None: not here."""
    return NAMES.get(type(act_fn) if isinstance(act_fn, nn.Module) else act_fn)


def check_served(experts: nn.Module, condition: bool, rule: str, seen: Any) -> None:
    """Raise `ValueError` naming the class of the experts unless the condition holds."""
    check(condition, type(experts).__name__, rule, seen, "use another experts_implementation for this model")


def _custom(experts: Any, function: Callable[..., Any], width: int) -> Custom:
    learned = [name for name, _ in experts.named_parameters() if name.split(".")[0] not in BESIDE_GATES]
    rule = "must learn nothing between its projections, whose derivatives by it the kernels do not give"
    check_served(experts, not learned, rule, ", ".join(learned))
    return Custom(function, width)


def _unknown(experts: Any) -> None:
    """Nothing of ours: the family's function runs as it is."""


def _clamped_swiglu(experts: Any) -> ClampedGated:
    return ClampedGated(experts.swiglu_limit, alpha=1.0, offset=0.0, interleaved=False)


def _clamped_act(experts: Any) -> ClampedGated | None:
    if name_of(experts.act_fn) != "silu":
        return None
    return ClampedGated(experts.limit, alpha=1.0, offset=0.0, interleaved=False)


def _wide(experts: Any) -> Gated | None:
    """The family computes it in float32 whatever the dtype; of narrower ones ours rounds the activation once more."""
    name = name_of(experts.act_fn)
    return Gated(name) if name else None


OWN_GATES: dict[str, Callable[[Any], Activation | None]] = {
    f"transformers.models.{family}.modeling_{family}": activation
    for family, activation in {
        "beam": _wide,
        "deepseek_v4": _clamped_act,
        "glm5_next": _clamped_swiglu,
        "gpt_oss": lambda experts: ClampedGated(experts.limit, experts.alpha),
        "hy_v4": _clamped_swiglu,
        "minimax_m3_vl": lambda experts: ClampedGated(experts.swiglu_limit, experts.swiglu_alpha, interleaved=False),
        "openai_privacy_filter": lambda experts: ClampedGated(experts.limit, experts.alpha, interleaved=False),
    }.items()
}
"""What the gates of families that bring one compute, by the module that defines them; others run as they are."""
