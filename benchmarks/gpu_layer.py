"""One layer on one GPU in bfloat16, forward and backward: against cuBLAS on a dense FFN and the kernels of others."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from dense import dense
from gpu_contestants import OPTIONAL
from harness import arguments, claim, must_agree, ratio, save, spread, take_turns
from ours import Contestant, LayerShape, our_layer, our_moe, tokens
from torch import Tensor

from sparsemix import MoE
from sparsemix.kernels import BackendName, ExpertWeights, triton

SHAPE = LayerShape(tokens=32_768, dim=2048, hidden=1024, experts=64, k=8)
TARGETS = {
    "dense": ("share of cuBLAS's TFLOP/s on a dense FFN of equal FLOPs", 0.75),
    "transformers grouped_mm": ("times as fast as transformers' grouped_mm", 1.5),
}
"""Against whom there is a target, of what, and which; on an H100."""
OURS: dict[str, BackendName] = {"sparsemix": "auto", "sparsemix triton": "triton"}
"""Our own contestants: what everybody gets, and the back end that `auto` passes over where grouped_mm can serve."""
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
    return {
        "shape": shape._asdict(),
        "seconds": {name: spread(taken) for name, taken in seconds.items()},
        "tflops": {name: spread([3 * shape.flops / one / 1e12 for one in taken]) for name, taken in seconds.items()},
        "not_run": not_run,
        "claims": claims(shape, seconds),
    }


def claims(shape: LayerShape, seconds: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Each of ours against each of the others."""
    return [
        claim(sentence(shape, backend, other), ratio(seconds[other], seconds[own]), at_least=target(other))
        for own, backend in OURS.items()
        for other in seconds
        if own in seconds and other not in OURS
    ]


def sentence(shape: LayerShape, backend: BackendName, other: str) -> str:
    """What is claimed."""
    words, _ = TARGETS.get(other, (f"times as fast as {other}", None))
    return f"layer ({shape}), bfloat16, forward and backward, backend {backend}: {words}"


def target(other: str) -> float | None:
    """How much, if anything."""
    return TARGETS[other][1] if other in TARGETS else None


def not_measured() -> dict[str, Any]:
    """What stands in the place of a result until there is one: the claims that have a target."""
    why = "no GPU was at hand"
    claims = [
        {
            "claim": sentence(SHAPE, backend, other),
            "limit": f"at least {target(other)}",
            "holds": None,
            "not_measured": why,
        }
        for backend in OURS.values()
        for other in TARGETS
    ]
    return {"not_measured": f"{why}; the targets are for an H100", "claims": claims}


def build(shape: LayerShape, moe: MoE) -> tuple[dict[str, Contestant], dict[str, str]]:
    """Those whose values are right, ours necessarily; why the others are not among them."""
    contestants, not_run, expected = {"sparsemix": our_layer(moe)}, {}, reference(shape, moe)
    refusal = triton_refuses(shape, moe)
    if refusal:
        not_run["sparsemix triton"] = refusal
    else:
        contestants["sparsemix triton"] = our_layer(by_triton(shape, moe))
    for name, one in contestants.items():
        check_values(name, one, expected, shape, moe)
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


def triton_refuses(shape: LayerShape, moe: MoE) -> str:
    """Why our Triton back end cannot serve here; empty if it can."""
    named = dict(moe.named_parameters())
    x_TD, _ = few_tokens(shape, moe)
    return triton.refuses(x_TD, ExpertWeights(named["experts.gate_up_EFD"], named["experts.down_EDF"]))


def by_triton(shape: LayerShape, moe: MoE) -> MoE:
    """The same layer, computed by our Triton back end."""
    copy = our_moe(shape, "triton").to(dict(moe.named_parameters())["experts.down_EDF"])
    copy.load_state_dict(moe.state_dict())
    return copy


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
