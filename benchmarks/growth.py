"""What more experts cost: time against the bound that arithmetic and memory set, from 4 experts to 256."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from harness import arguments, claim, ratio, save, spread, take_turns
from ours import LayerShape, our_experts, our_layer, our_moe, tokens
from rates import COPIED, GEMMS, TOY_GEMMS, Rate, calls, copy_rates, gemm_rates, seconds_at_best

SHAPE = LayerShape(tokens=4096, dim=384, hidden=256, experts=0, k=1)
SETTLED = 6
"""Rounds after which gradients of up to 300 MB lie in memory that was there before."""
EXPERTS = (4, 8, 16, 32, 64, 128, 256)
TOY = LayerShape(tokens=32, dim=16, hidden=8, experts=0, k=1)
TOY_EXPERTS = (2, 4)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure each number of experts and write growth.json."""
    settings = arguments("Time against the number of experts", argv, rounds=10)
    torch.manual_seed(0)
    gemms = gemm_rates(TOY_GEMMS if settings.toy else GEMMS)
    copies = copy_rates(2**16 if settings.toy else COPIED)
    shapes = [
        (TOY if settings.toy else SHAPE)._replace(experts=experts)
        for experts in (TOY_EXPERTS if settings.toy else EXPERTS)
    ]
    measured = [measure(shape, gemms, copies, settings.rounds) for shape in shapes]
    bound = "max(FLOPs / peak of the products, bytes / copy rate); weights read twice, gradients written once"
    save("growth", {"bound": bound, "measured": measured}, settings.out)


def at_most(experts: int) -> float:
    """The target of the time over the bound."""
    return 1.5 if experts <= 64 else 2.0


def measure(shape: LayerShape, gemms: Mapping[str, Rate], copies: Mapping[str, Rate], rounds: int) -> dict[str, Any]:
    """Forward and backward of the layer and of its experts alone, in turns with products and copies."""
    moe, (x_TD, dy_TD) = our_moe(shape), tokens(shape)
    with torch.no_grad():
        routing = moe.router(x_TD)
    layer, experts = our_layer(moe), our_experts(moe, routing)
    ours = {
        "layer": lambda: layer.train_step(x_TD, dy_TD),
        "experts alone": lambda: experts.train_step(x_TD, dy_TD),
    }
    seconds = take_turns({**ours, **calls(gemms), **calls(copies)}, rounds, warmup=SETTLED)
    memory = seconds_at_best(3 * shape.weight_bytes, copies, seconds)
    flops = {"layer": 3 * (shape.flops + shape.router_flops), "experts alone": 3 * shape.flops}
    arithmetic = {name: seconds_at_best(count, gemms, seconds) for name, count in flops.items()}
    bounds = {name: list(map(max, taken, memory)) for name, taken in arithmetic.items()}
    text = f"({shape}), forward and backward: time over the bound of FLOPs and bytes"
    return {
        "shape": shape._asdict(),
        "seconds": {name: spread(taken) for name, taken in seconds.items()},
        "bound_arithmetic": spread(arithmetic["layer"]),
        "bound_memory": spread(memory),
        "claims": [
            claim(f"layer {text}", ratio(seconds["layer"], bounds["layer"]), at_most=at_most(shape.experts)),
            claim(f"experts alone {text}", ratio(seconds["experts alone"], bounds["experts alone"])),
        ],
    }


if __name__ == "__main__":
    main()
