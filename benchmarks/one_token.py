"""One token at a time: how near the layer comes to reading its experts' weights at the speed of memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from harness import arguments, claim, ratio, save, spread, take_turns
from ours import LayerShape, our_moe
from rates import calls, fastest, read_rates, seconds_at_best
from torch import Tensor

from sparsemix import MoE
from sparsemix.checks import check

SHAPE = LayerShape(tokens=1, dim=1024, hidden=1024, experts=64, k=2)
TOY = LayerShape(tokens=1, dim=32, hidden=16, experts=8, k=2)
CACHES = 4
"""How many times the last-level cache the weights must fill, so that no token finds its experts there."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure a token that finds its experts in memory, and write one_token.json."""
    settings = arguments("The layer on one token", argv)
    torch.manual_seed(0)
    shape = TOY if settings.toy else SHAPE
    cache = last_level_cache()
    if not settings.toy:
        room = f"must be at least {CACHES} times the last-level cache of {cache} bytes"
        check(shape.weight_bytes >= CACHES * cache, "weights", room, f"{shape.weight_bytes} bytes", "raise experts")
    moe = our_moe(shape).eval()
    rotation = tokens_in_rotation(moe, shape)

    @torch.no_grad()
    def rotate() -> None:
        for x_1D in rotation:
            moe(x_1D)

    reads = read_rates(next(moe.experts.parameters()).detach())  # pyright: ignore[reportAttributeAccessIssue]
    seconds = take_turns({"sparsemix": rotate, **calls(reads)}, settings.rounds)
    best = fastest(reads, seconds)
    found = ratio(seconds["sparsemix"], seconds_at_best(shape.weight_bytes, reads, seconds))
    text = f"one token ({shape}), forward, experts in rotation: time over bytes of weights at the rate of reading"
    result = {
        "shape": shape._asdict(),
        "last_level_cache_bytes": cache,
        "weight_bytes_in_rotation": shape.weight_bytes,
        "microseconds_per_token": spread([1e6 * taken / len(rotation) for taken in seconds["sparsemix"]]),
        "read_gigabytes_per_second": {
            name: spread([rate.work / taken / 1e9 for taken in seconds[name]]) for name, rate in reads.items()
        },
        "fastest_read": best,
        "claims": [claim(text, found, at_most=1.25)],
    }
    save("one_token", result, settings.out)


@torch.no_grad()
def tokens_in_rotation(moe: MoE, shape: LayerShape) -> list[Tensor]:
    """E / k tokens that among them visit every expert once; the router reads the choice off their first E numbers."""
    router_ED = dict(moe.named_parameters())["router.weight_ED"]
    router_ED.copy_(torch.eye(shape.experts, shape.dim))
    rotation = []
    for chosen_K in torch.randperm(shape.experts).view(-1, shape.k):
        x_1D = torch.randn(1, shape.dim)
        x_1D[:, : shape.experts] = 0
        x_1D[:, chosen_K] = 4
        rotation.append(x_1D)
        visited = moe(x_1D)[1].expert_N
        assert set(visited.tolist()) == set(chosen_K.tolist()), "the router must choose what was meant"
    return rotation


def last_level_cache() -> int:
    """Bytes of the largest cache that the system tells of; 64 MiB where it tells of none."""
    folder = Path("/sys/devices/system/cpu/cpu0/cache")
    sizes = [path.read_text(encoding="utf-8").strip() for path in folder.glob("index*/size")]
    units = {"K": 2**10, "M": 2**20}
    return max((int(size[:-1]) * units[size[-1]] for size in sizes), default=2**26)


if __name__ == "__main__":
    main()
