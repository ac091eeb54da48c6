"""The layer of st-moe-pytorch, if that is installed: it is no dependency, and has its own rules."""

from __future__ import annotations

import importlib.util
import warnings

from ours import Contestant, LayerShape

CAPACITY = 1.25
"""Places of an expert over its even share of the choices; what comes later is dropped."""
ROW = 512
"""Tokens that compete for the places of an expert; its dispatch grows with the square of this."""
DISPATCH_BYTES = 2**28
"""The largest one-hot dispatch worth waiting for."""
DIFFERS = f"GEGLU experts with biases, capacity {CAPACITY} in rows of {ROW} tokens with dropping, own balance losses"


def refuses(shape: LayerShape) -> str:
    """Why it cannot be timed at this shape; empty if it can."""
    if importlib.util.find_spec("st_moe_pytorch") is None:
        return "not installed (pip install st-moe-pytorch)"
    if shape.k < 2:
        return "needs k of 2 or more"
    needed = 4 * shape.k * shape.tokens * round(ROW * CAPACITY * shape.k)
    if needed > DISPATCH_BYTES:
        return f"a copy of its one-hot dispatch takes {needed / 2**20:.0f} MiB"
    return ""


def layer(shape: LayerShape) -> Contestant:
    """Its MoE with experts of the same width, and every choice of every token routed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its type hints, which a library that it uses thinks old
        from st_moe_pytorch import MoE

    moe = MoE(
        dim=shape.dim,
        num_experts=shape.experts,
        gating_top_n=shape.k,
        expert_hidden_mult=1.5 * shape.hidden / shape.dim,  # it makes 2/3 of this
        capacity_factor_train=CAPACITY * shape.k,  # its even share is that of one choice a token
        threshold_train=0.0,
    )
    row = min(ROW, shape.tokens)
    return Contestant(moe, lambda x_TD: moe(x_TD.view(-1, row, shape.dim))[0].flatten(0, 1))
