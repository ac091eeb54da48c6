"""One layer on one GPU in bfloat16, forward and backward: against cuBLAS on a dense FFN and the kernels of others."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from dense import dense
from gpu_contestants import OPTIONAL
from harness import arguments, claim, must_agree, ratio, save, spread, take_turns
from ours import Contestant, LayerShape, our_layer, our_moe, tokens
from torch import Tensor

from sparsemix import MoE

SHAPE = LayerShape(tokens=32_768, dim=2048, hidden=1024, experts=64, k=8)
CHECKED_TOKENS = 512
"""As many are computed by a plain loop in float32 before anything is timed."""
TOLERANCE = 0.05
"""Relative to that loop, in the norm: bfloat16 has 8 bits, and a token near a tie may choose another last expert."""


def main(argv: Sequence[str] | None = None) -> None:
    """Check values, measure, and write gpu_layer.json; without a GPU, say so."""
    if not torch.cuda.is_available():
        print("no GPU: nothing to measure")
        return
    settings = arguments("A layer on a GPU", argv, rounds=30)
    shape = SHAPE._replace(tokens=1024, dim=256, hidden=128) if settings.toy else SHAPE
    device = torch.device("cuda")
    result = measure(shape, device, torch.bfloat16, settings.rounds)
    save("gpu_layer", result, settings.out, device=torch.cuda.get_device_name(device), dtype="bfloat16")


def measure(shape: LayerShape, device: torch.device, dtype: torch.dtype, rounds: int) -> dict[str, Any]:
    """Seconds, TFLOP/s and ratios of all that can run here and compute the same."""
    torch.manual_seed(0)
    moe = our_moe(shape).to(device, dtype)
    with torch.no_grad():  # ours stays in float32; the others' is rounded, and would choose other experts
        router_ED = dict(moe.named_parameters())["router.weight_ED"]
        router_ED.copy_(router_ED.to(dtype))
    contestants, not_run = build(shape, moe)
    contestants["dense"] = dense(shape.dim, shape.k * shape.hidden)
    contestants["dense"].layer.to(device, dtype)
    x_TD, dy_TD = on_device(shape, device, dtype)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    steps = {name: lambda one=one: one.train_step(x_TD, dy_TD) for name, one in contestants.items()}
    seconds = take_turns(steps, rounds, warmup=5, wait=wait)
    text = f"layer ({shape}), bfloat16, forward and backward:"
    targets = {"dense": ("share of cuBLAS's TFLOP/s on a dense FFN of equal FLOPs", 0.75)}
    targets["transformers grouped_mm"] = ("times as fast as transformers' grouped_mm", 1.5)
    claims = []
    for name in contestants:
        if name != "sparsemix":
            words, target = targets.get(name, (f"times as fast as {name}", None))
            found = ratio(seconds[name], seconds["sparsemix"])
            claims.append(claim(f"{text} {words}", found, at_least=target))
    return {
        "shape": shape._asdict(),
        "seconds": {name: spread(taken) for name, taken in seconds.items()},
        "tflops": {name: spread([3 * shape.flops / one / 1e12 for one in taken]) for name, taken in seconds.items()},
        "not_run": not_run,
        "claims": claims,
    }


def build(shape: LayerShape, moe: MoE) -> tuple[dict[str, Contestant], dict[str, str]]:
    """Those whose values are right, ours necessarily; why the others are not among them."""
    contestants, not_run, expected = {"sparsemix": our_layer(moe)}, {}, reference(shape, moe)
    check_values("sparsemix", contestants["sparsemix"], expected, shape, moe)
    for name, make in OPTIONAL.items():
        if importlib.util.find_spec(name.partition(" ")[0]) is None:
            not_run[name] = "not installed"
            continue
        try:
            one = make(shape, moe)
            check_values(name, one, expected, shape, moe)
            contestants[name] = one
        except Exception as error:  # other people's kernels refuse devices and versions in many ways
            not_run[name] = f"{type(error).__name__}: {error}".partition("\n")[0]
    for name, reason in not_run.items():
        print(f"{name}: not timed, {reason}", flush=True)
    return contestants, not_run


def few_tokens(shape: LayerShape, moe: MoE) -> tuple[Tensor, Tensor]:
    """Those that are checked, on the device and in the dtype of the experts."""
    like = dict(moe.named_parameters())["experts.down_EDF"]
    return on_device(shape._replace(tokens=CHECKED_TOKENS), like.device, like.dtype)


def on_device(shape: LayerShape, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x and the gradient of y there."""
    x_TD, dy_TD = tokens(shape)
    return x_TD.detach().to(device, dtype).requires_grad_(), dy_TD.to(device, dtype)


def reference(shape: LayerShape, moe: MoE) -> list[Tensor]:
    """y and dx of a few tokens, by a loop over the experts in float32."""
    weights = {name: parameter.detach().float() for name, parameter in moe.named_parameters()}
    gate_up_EGD, down_EDF = weights["experts.gate_up_EFD"], weights["experts.down_EDF"]
    x_TD, dy_TD = (tensor.detach().float() for tensor in few_tokens(shape, moe))
    x_TD.requires_grad_()
    weight_TK, chosen_TK = F.linear(x_TD, weights["router.weight_ED"]).topk(shape.k)
    weight_TK = weight_TK.softmax(1)
    y_TD = torch.zeros_like(x_TD)
    for e in range(shape.experts):
        token_R, choice_R = (chosen_TK == e).nonzero(as_tuple=True)
        gate_RF, up_RF = F.linear(x_TD[token_R], gate_up_EGD[e]).chunk(2, dim=1)
        y_RD = F.linear(F.silu(gate_RF) * up_RF, down_EDF[e]) * weight_TK[token_R, choice_R, None]
        y_TD = y_TD.index_add(0, token_R, y_RD)
    y_TD.backward(dy_TD)
    assert x_TD.grad is not None
    return [y_TD.detach(), x_TD.grad]


def check_values(name: str, one: Contestant, expected: Sequence[Tensor], shape: LayerShape, moe: MoE) -> None:
    """y and dx are those of the loop, up to the rounding of the dtype.

    Raises:
        ValueError: they are not.
    """
    found = one.results(*few_tokens(shape, moe))[:2]
    off = [((a.float() - b).norm() / b.norm()).item() for a, b in zip(found, expected, strict=True)]
    must_agree(f"y and dx of {name}", off, [0.0] * len(off), TOLERANCE)


if __name__ == "__main__":
    main()
