"""A training step of every family's experts by our back end, by transformers' own loop and by its grouped products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from families import Family, families
from harness import arguments, claim, differences, must_agree, ratio, save, spread, take_turns
from ours import LayerShape, tokens
from torch import Tensor, nn

from sparsemix.interop.transformers import register

THEIRS = ("eager", "grouped_mm")
TOKENS = 2048
MOST = LayerShape(tokens=TOKENS, dim=1024, hidden=512, experts=32, k=4)
"""Larger ones are scaled down to as much work, keeping what an expert is shaped like."""
TOY = LayerShape(tokens=32, dim=16, hidden=8, experts=4, k=2)
TOLERANCE = 1e-3


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every family and write interop.json."""
    chosen = {"nargs": "+", "metavar": "NAME", "help": "of transformers' models; else all"}
    settings = arguments("Training steps of the experts of transformers' families", argv, rounds=7, families=chosen)
    register()
    wanted = [family for family in families() if family.name in (settings.families or [family.name])]
    parts = []
    for family in wanted:
        torch.manual_seed(0)
        parts.append(measure(family, TOY if settings.toy else scaled(family), settings.rounds))
    save("interop", {"claims": [overall(parts)], "parts": parts}, settings.out)


def overall(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The claim about all families together."""
    times = [part["claims"][0]["median"] for part in parts]
    text = f"{len(times)} kinds of experts, a training step: times as fast as the better of transformers' two"
    return claim(text, spread(times), at_least=1.3)


def scaled(family: Family) -> LayerShape:
    """The experts of its config as it comes, so far as that says, with at most so many and so much work."""
    config = family.model.config_class()
    names = ("num_experts_per_tok", "top_k_experts", "moe_k", "moe_topk")
    k = next((value for name in names if (value := getattr(config, name, None))), MOST.k)
    try:
        with torch.device("meta"):
            experts = getattr(family.module, family.experts)(config)
    except TypeError:  # sizes that this config leaves open
        return MOST._replace(k=min(k, MOST.k))
    dim, hidden = experts.down_proj.shape[1:][:: -1 if experts.is_transposed else 1]
    num_experts, k = min(max(experts.num_experts, 8), MOST.experts), min(k, MOST.k)
    work = MOST.k * MOST.dim * MOST.hidden / k
    new_dim = min(MOST.dim, rounded((work * dim / hidden) ** 0.5))
    return LayerShape(TOKENS, new_dim, rounded(new_dim * hidden / dim), num_experts, k)


def rounded(size: float) -> int:
    """To a multiple of 64."""
    return max(64, round(size / 64) * 64)


def measure(family: Family, shape: LayerShape, rounds: int) -> dict[str, Any]:
    """Times of all three on the same module, once they have been found to agree."""
    print(f"{family.name}: {shape}", flush=True)
    experts = resized(family, shape)
    (x_TD, dy_TD), index_TK = tokens(shape), torch.randn(shape.tokens, shape.experts).topk(shape.k).indices
    weight_TK = torch.rand(shape.tokens, shape.k).requires_grad_()

    def step(implementation: str) -> list[Tensor]:
        experts.config._experts_implementation = implementation
        inputs = [x_TD, weight_TK, *experts.parameters()]
        for tensor in inputs:
            tensor.grad = None
        y_TD = experts(x_TD, index_TK, weight_TK)
        y_TD.backward(dy_TD)
        return [y_TD.detach(), *(tensor.grad for tensor in inputs if tensor.grad is not None)]

    ours = step("sparsemix")
    for name in THEIRS:
        found = differences(ours, step(name))
        must_agree(f"y and gradients of {name}", found, [0.0] * len(found), TOLERANCE)
    del ours
    seconds = take_turns({name: lambda name=name: step(name) for name in ("sparsemix", *THEIRS)}, rounds)
    return {"family": family.name, "experts": family.experts, "shape": shape._asdict(), **compared(family, seconds)}


def compared(family: Family, seconds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The claim against the better one, both ratios, and all times."""
    faster = {name: ratio(seconds[name], seconds["sparsemix"]) for name in THEIRS}
    better = min(THEIRS, key=lambda name: faster[name]["median"])
    text = f"{family.name}: experts, a training step: times as fast as {better}, the better of transformers' two"
    return {
        "claims": [claim(text, faster[better], at_least=1.0)],
        "times_as_fast_as": faster,
        "seconds": {name: spread(taken) for name, taken in seconds.items()},
    }


@torch.no_grad()
def resized(family: Family, shape: LayerShape) -> Any:
    """The family's module of experts with random parameters of another size."""
    experts: Any = family.mixtures(family.tiny())[0]
    wide = (2 if experts.has_gate else 1) * shape.hidden
    for name in list(experts._parameters):
        out, columns = (shape.dim, shape.hidden) if name.startswith("down") else (wide, shape.dim)
        matrix = (columns, out) if experts.is_transposed else (out, columns)
        size = (out,) if name.endswith("bias") else matrix
        setattr(experts, name, nn.Parameter(torch.randn(shape.experts, *size) / columns**0.5))
    if experts.has_post_expert_norm:
        experts.post_expert_norm.weight = nn.Parameter(torch.zeros(shape.dim))
    for name in {"limit", "swiglu_limit"} & set(vars(experts)):
        setattr(experts, name, 7.0)  # which few numbers reach: next to it, a last digit decides about a derivative
    experts.num_experts = shape.experts
    return experts


if __name__ == "__main__":
    main()
