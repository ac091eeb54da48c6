"""Experts as transformers' models have them, in any layout, and what they compute as a loop over edges."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from cases import numbers
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.integrations.moe import use_experts_implementation

EXPERTS, DIM, HIDDEN = 5, 8, 12


def experts_of(
    act: str = "silu",
    *,
    gate: bool = True,
    bias: bool = False,
    transposed: bool = False,
    norm: nn.Module | None = None,
    members: dict[str, Any] | None = None,
    **layout: Any,
) -> Any:
    """A module under transformers' decorator, with random float64 parameters, by our back end."""

    def init(self, config):
        nn.Module.__init__(self)
        self.num_experts, self.act_fn = EXPERTS, ACT2FN[act]
        up, wide = ("gate_up_proj", 2 * HIDDEN) if gate else ("up_proj", HIDDEN)
        self.register_parameter(up, _matrices(0, wide, DIM, transposed))
        self.down_proj = _matrices(1, DIM, HIDDEN, transposed)
        if bias:
            self.register_parameter(f"{up}_bias", nn.Parameter(numbers(2, EXPERTS, wide)))
            self.down_proj_bias = nn.Parameter(numbers(3, EXPERTS, DIM))
        if norm is not None:
            self.post_expert_norm = norm

    made = type("MadeUpExperts", (nn.Module,), {"__init__": init, "forward": None, **(members or {})})
    kinds = {"has_gate": gate, "has_bias": bias, "is_transposed": transposed, "has_post_expert_norm": norm is not None}
    decorated = use_experts_implementation(made, **kinds, **layout)
    return decorated(SimpleNamespace(_experts_implementation="sparsemix"))


def _matrices(seed: int, rows: int, columns: int, transposed: bool) -> nn.Parameter:
    shape = (columns, rows) if transposed else (rows, columns)
    return nn.Parameter(numbers(seed, EXPERTS, *shape) / columns**0.5)


def loop(experts: Any, x_TD: Tensor, index_TK: Tensor, weight_TK: Tensor) -> Tensor:
    """Edge by edge; what transformers' contract says, with experts elsewhere left out."""
    up = experts.gate_up_proj if experts.has_gate else experts.up_proj
    up_bias = None
    if experts.has_bias:
        up_bias = experts.gate_up_proj_bias if experts.has_gate else experts.up_proj_bias
    rows = []
    for x_D, index_K, weight_K in zip(x_TD, index_TK.tolist(), weight_TK):
        y_D = torch.zeros_like(x_D)
        for e, w in zip(index_K, weight_K):
            if e >= experts.num_experts:
                continue
            h = x_D @ (up[e] if experts.is_transposed else up[e].T) + (0 if up_bias is None else up_bias[e])
            a = experts._apply_gate(h[None])[0] if experts.has_gate else experts.act_fn(h)
            down = experts.down_proj[e] if experts.is_transposed else experts.down_proj[e].T
            one = a @ down + (experts.down_proj_bias[e] if experts.has_bias else 0)
            y_D = y_D + w * (experts.post_expert_norm(one) if experts.has_post_expert_norm else one)
        rows.append(y_D)
    return torch.stack(rows)


def tokens(num_tokens: int = 7, k: int = 2, idle: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """x, and for each token k different experts but the idle one, with weights."""
    choice_TE = numbers(5, num_tokens, EXPERTS)
    choice_TE[:, idle] = -torch.inf
    weight_TK = numbers(6, num_tokens, k).sigmoid()
    return numbers(4, num_tokens, DIM).requires_grad_(), choice_TE.topk(k).indices, weight_TK.requires_grad_()
