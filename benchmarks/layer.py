"""One layer, forward and backward: against dense FFNs of equal FLOPs, other libraries, and the peak of the products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import st_moe
import torch
from dense import dense
from harness import Spread, arguments, claim, differences, must_agree, ratio, save, spread, take_turns
from ours import Contestant, LayerShape, all_to_one_expert, our_experts, our_layer, our_moe, tokens
from rates import GEMMS, TOY_GEMMS, Rate, calls, fastest, gemm_rates, seconds_at_best
from torch import Tensor
from transformers_layer import transformers_layer

ONE_EXPERT = LayerShape(tokens=4096, dim=512, hidden=2048, experts=1, k=1)
FEW_LARGE = LayerShape(tokens=4096, dim=512, hidden=1024, experts=8, k=2)
MANY_SMALL = LayerShape(tokens=4096, dim=512, hidden=256, experts=64, k=8)
OF_DENSE = {FEW_LARGE: 0.75, MANY_SMALL: 0.65}
"""The most of the dense FFN's time that each shape may take."""
IMPLEMENTATIONS = ("grouped_mm", "eager")
"""transformers' others: `batched_mm` copies a whole expert for each edge, 6 and more GB here."""
TOLERANCE = 1e-3

Seconds = dict[str, list[float]]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every shape and write layer.json."""
    settings = arguments("A layer against dense FFNs, other libraries and the peak", argv, rounds=10)
    torch.manual_seed(0)
    gemms = gemm_rates(TOY_GEMMS if settings.toy else GEMMS)
    parts = [one_expert(toy(ONE_EXPERT) if settings.toy else ONE_EXPERT, gemms, settings.rounds)]
    for shape, of_dense in OF_DENSE.items():
        parts.append(mixture(toy(shape) if settings.toy else shape, of_dense, gemms, settings.rounds))
    parts.append(forward(toy(FEW_LARGE) if settings.toy else FEW_LARGE, gemms, settings.rounds))
    save("layer", {"peak": "the fastest of these products in the same turns", "parts": parts}, settings.out)


def toy(shape: LayerShape) -> LayerShape:
    """The same, too small to say anything."""
    return shape._replace(tokens=32, dim=16, hidden=24)


def one_expert(shape: LayerShape, gemms: Mapping[str, Rate], rounds: int) -> dict[str, Any]:
    """The kernel with one expert is a dense FFN: how good is it as that?"""
    print(f"one expert: {shape}", flush=True)
    moe, plain, (x_TD, dy_TD) = our_moe(shape), dense(shape.dim, shape.hidden), tokens(shape)
    ours = our_experts(moe, all_to_one_expert(shape.tokens))
    gate_up_EGD, down_EDF = ours.layer.parameters()
    gate_FD, up_FD = gate_up_EGD[0].detach().chunk(2)
    plain.layer.load_state_dict({"gate.weight": gate_FD, "up.weight": up_FD, "down.weight": down_EDF[0].detach()})
    y_TD, dx_TD, dgate_up_EGD, ddown_EDF = ours.results(x_TD, dy_TD)
    agree("one expert", [y_TD, dx_TD, *dgate_up_EGD[0].chunk(2), ddown_EDF[0]], plain.results(x_TD, dy_TD))
    seconds = in_turns({"sparsemix": ours, "dense": plain}, gemms, x_TD, dy_TD, rounds)
    found = ratio(seconds["sparsemix"], seconds["dense"])
    text = f"one expert ({shape}), forward and backward: time over a dense FFN of equal FLOPs"
    return part(shape, "kernel, one expert", 3, gemms, seconds, [claim(text, found, at_most=0.85)])


def mixture(shape: LayerShape, of_dense: float, gemms: Mapping[str, Rate], rounds: int) -> dict[str, Any]:
    """The layer against a dense FFN of equal active FLOPs and the layers of other libraries."""
    print(f"mixture: {shape}", flush=True)
    moe, (x_TD, dy_TD) = our_moe(shape), tokens(shape)
    contestants = {"sparsemix": our_layer(moe), "dense": dense(shape.dim, shape.k * shape.hidden)}
    expected = contestants["sparsemix"].results(x_TD, dy_TD)
    for name in IMPLEMENTATIONS:
        theirs = transformers_layer(shape, moe, name)
        agree(f"transformers {name}", expected, theirs.results(x_TD, dy_TD))
        contestants[f"transformers {name}"] = theirs
    refusal = st_moe.refuses(shape)
    if refusal:
        print(f"st-moe-pytorch: not timed, {refusal}", flush=True)
    else:
        contestants["st-moe-pytorch"] = st_moe.layer(shape)
    seconds = in_turns(contestants, gemms, x_TD, dy_TD, rounds)
    text = f"layer ({shape}), forward and backward: time over"
    claims = [claim(f"{text} a dense FFN of equal active FLOPs", over(seconds, "dense"), at_most=of_dense)]
    for name in IMPLEMENTATIONS:
        found = over(seconds, f"transformers {name}")
        claims.append(claim(f"{text} transformers' {name}, same weights", found, at_most=0.7))
    if not refusal:
        claims.append(claim(f"{text} st-moe-pytorch ({st_moe.DIFFERS})", over(seconds, "st-moe-pytorch")))
    return part(shape, "layer", 3, gemms, seconds, claims)


def forward(shape: LayerShape, gemms: Mapping[str, Rate], rounds: int) -> dict[str, Any]:
    """The layer's forward pass against the peak: without a graph, and with all that backward needs kept."""
    print(f"forward: {shape}", flush=True)
    moe, (x_TD, _) = our_moe(shape), tokens(shape)

    def inference() -> None:
        with torch.no_grad():
            moe(x_TD)

    training = "sparsemix, graph kept"
    seconds = take_turns({"sparsemix": inference, training: lambda: moe(x_TD), **calls(gemms)}, rounds)
    best = seconds_at_best(shape.flops, gemms, seconds)
    text = f"layer ({shape}), forward: share of the peak of large products"
    claims = [
        claim(text, ratio(best, seconds["sparsemix"]), at_least=0.85),
        claim(f"{text}, with what backward needs kept", ratio(best, seconds[training])),
    ]
    return part(shape, "layer, forward", 1, gemms, seconds, claims)


def agree(name: str, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    """y and all gradients are the same."""
    found = differences(ours, theirs)
    must_agree(f"y and gradients of {name}", found, [0.0] * len(found), TOLERANCE)


def in_turns(
    contestants: Mapping[str, Contestant], gemms: Mapping[str, Rate], x_TD: Tensor, dy_TD: Tensor, rounds: int
) -> Seconds:
    """Seconds of forward and backward of each, and of each product."""
    steps = {name: lambda one=one: one.train_step(x_TD, dy_TD) for name, one in contestants.items()}
    return take_turns({**steps, **calls(gemms)}, rounds)


def over(seconds: Seconds, other: str) -> Spread:
    """Our time over another's."""
    return ratio(seconds["sparsemix"], seconds[other])


def part(
    shape: LayerShape, what: str, passes: int, gemms: Mapping[str, Rate], seconds: Seconds, claims: list[dict[str, Any]]
) -> dict[str, Any]:
    """What is written down of one comparison; `passes` is 3 with backward, whose FLOPs are twice those of forward."""
    best = seconds_at_best(passes * shape.flops, gemms, seconds)
    layers = {name: taken for name, taken in seconds.items() if name not in gemms}
    peak = fastest(gemms, seconds)
    return {
        "what": what,
        "shape": shape._asdict(),
        "claims": claims,
        "seconds": {name: spread(taken) for name, taken in seconds.items()},
        "peak": {"at": peak, "gflops": spread([gemms[peak].work / taken / 1e9 for taken in seconds[peak]])},
        "share_of_peak": {name: ratio(best, taken) for name, taken in layers.items()},
    }


if __name__ == "__main__":
    main()
