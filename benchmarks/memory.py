"""Memory of a training step: saved activations against their formula, what is alive, and the peak."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from harness import arguments, claim, save, spread
from ours import LayerShape, our_moe, tokens
from saved_tensors import saved_bytes, saved_storages

from sparsemix import moe_forward

COARSE = LayerShape(tokens=4096, dim=512, hidden=1024, experts=8, k=2)
GRANULARITIES = (1, 2, 4, 8)
"""Each splits the coarse experts into so many, of which a token visits as many times more: the same N F."""
WIDE = LayerShape(tokens=512, dim=512, hidden=512, experts=64, k=2)
"""Weights much larger than activations, so that a temporary of their size stands out."""
NO_POOL = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
"""glibc hands memory back at once, so that what a process holds is what it uses."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, in processes of their own what the system must tell, and write memory.json."""
    settings = arguments("Memory of a training step", argv, rounds=1)
    torch.manual_seed(0)
    coarse = COARSE._replace(tokens=256, dim=32, hidden=64) if settings.toy else COARSE
    wide = WIDE._replace(tokens=64, dim=32, hidden=32) if settings.toy else WIDE
    grains = [finer(coarse, granularity) for granularity in GRANULARITIES]
    saved = [saved_activations(shape) for shape in grains]
    activations = [one["activation_bytes"] for one in saved]
    flat = spread([max(activations) / min(activations)])
    result = {
        "saved": saved,
        "claims": [
            claim(f"saved activations, most over least of granularities {GRANULARITIES}, N F fixed", flat, at_most=1.05)
        ],
        "live": list(map(live_memory, grains, in_own_process("live", grains, settings.threads))),
        "step": step_memory(wide, *in_own_process("step", [wide], settings.threads)),
    }
    save("memory", result, settings.out)


def finer(shape: LayerShape, granularity: int) -> LayerShape:
    """Experts cut into `granularity` parts, and as many times more of them, also for each token."""
    return shape._replace(
        hidden=shape.hidden // granularity, experts=shape.experts * granularity, k=shape.k * granularity
    )


def saved_activations(shape: LayerShape) -> dict[str, Any]:
    """Bytes that autograd is given to keep: by the router, by the experts, and what the formula says of the latter."""
    moe, (x_TD, _) = our_moe(shape), tokens(shape)
    parameters = list(moe.parameters())
    routing, router = saved_storages(lambda: moe.router(x_TD), without=[x_TD, *parameters])
    _, experts = saved_storages(lambda: moe_forward(x_TD, routing, moe.experts), without=parameters)
    num_edges = shape.tokens * shape.k
    activations = saved_bytes(tensor for tensor in experts if is_activation(tensor, num_edges))
    beside = saved_bytes(tensor for tensor in experts if not is_activation(tensor, num_edges))
    formula = 4 * (shape.tokens * shape.dim + 2 * num_edges * shape.hidden)
    text = f"saved activations ({shape}) over 4 (T d + 2 N F) + indices and weights"
    found = spread([(activations + beside) / (formula + beside)])
    return {
        "shape": shape._asdict(),
        "activation_bytes": activations,
        "formula_bytes": formula,
        "index_and_weight_bytes": beside,
        "index_and_weight_bytes_per_edge": beside / num_edges,
        "router_bytes": saved_bytes(router),
        **claim(text, found, at_least=0.95, at_most=1.05),
    }


def is_activation(tensor: torch.Tensor, num_edges: int) -> bool:
    """Neither an index nor one number an edge."""
    return tensor.is_floating_point() and tensor.untyped_storage().nbytes() > num_edges * tensor.element_size()


def in_own_process(what: str, shapes: Sequence[LayerShape], threads: int) -> list[dict[str, int]]:
    """What memory_probe.py finds for each shape."""
    command = (sys.executable, Path(__file__).with_name("memory_probe.py"), what, json.dumps(shapes), str(threads))
    done = subprocess.run(command, env=os.environ | NO_POOL, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def live_memory(shape: LayerShape, found: dict[str, int]) -> dict[str, Any]:
    """Between forward and backward, against the tensors that are known to be alive then."""
    text = f"live memory between forward and backward ({shape}) over saved tensors, output and routing"
    agreeing = spread([found["grown"] / found["accounted"]])
    return {"shape": shape._asdict(), **found, **claim(text, agreeing, at_least=0.95, at_most=1.05)}


def step_memory(shape: LayerShape, found: dict[str, int]) -> dict[str, Any]:
    """The peak of forward, backward and AdamW over what stays, in units that a bad temporary would show in."""
    matrix = 4 * shape.experts * shape.hidden * shape.dim
    beyond = found["peak"] - found["gradients"]
    held = found["parameters"] + found["gradients"] + found["optimizer"]
    kept = found["held_before"] - found["parameters"] - found["optimizer"] - found["tokens"]
    text = f"training step ({shape}): peak beyond parameters, gradients and AdamW's state"
    return {
        "shape": shape._asdict(),
        **found,
        "beyond": beyond,
        "claims": [
            claim(f"{text}, over one E x F x d matrix", spread([beyond / matrix]), at_most=0.5),
            claim(f"{text}, over their sum", spread([beyond / held])),
            claim(f"{text}: what stays of it between steps, over one E x F x d matrix", spread([kept / matrix])),
        ],
    }


if __name__ == "__main__":
    main()
