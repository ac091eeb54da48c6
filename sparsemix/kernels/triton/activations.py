"""The activations of `sparsemix.kernels.activations` and their derivatives, on a tile in float32."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from sparsemix.kernels.activations import Activation, ClampedGated, Gated, Plain


def constants(activation: Activation, hidden: int) -> dict[str, Any]:
    """What kernels are compiled for. Column f STEP of h is the gate's f-th, UP further is its up column; 0: no gate."""
    name, limit, alpha, offset = "clamped", 0.0, 0.0, 0.0
    if isinstance(activation, ClampedGated):
        limit, alpha, offset = activation.limit, activation.alpha, activation.offset
    else:
        assert isinstance(activation, Plain | Gated), "there are no others"
        name = activation.name
    step, up = (2, 1) if activation.interleaved else (1, hidden if activation.width == 2 else 0)
    return {"STEP": step, "UP": up, "NAME": name, "LIMIT": limit, "ALPHA": alpha, "OFFSET": offset}


@triton.jit
def gated_and_slopes(gate, up, NAME: tl.constexpr, LIMIT: tl.constexpr, ALPHA: tl.constexpr, OFFSET: tl.constexpr):
    """(value, derivative by gate, derivative by up)."""
    if NAME == "clamped":
        gate_inside = tl.where(gate <= LIMIT, 1.0, 0.0)
        up_inside = tl.where((up <= LIMIT) & (up >= -LIMIT), 1.0, 0.0)
        gate = tl.where(gate > LIMIT, LIMIT, gate)
        up = tl.where(up > LIMIT, LIMIT, tl.where(up < -LIMIT, -LIMIT, up)) + OFFSET
        s = tl.sigmoid(ALPHA * gate)
        act = gate * s
        slope = (s + ALPHA * act * (1 - s)) * gate_inside
        by_up = act * up_inside
    else:
        act, slope = pointwise_and_slope(gate, NAME)
        by_up = act
    return act * up, slope * up, by_up


@triton.jit
def pointwise_and_slope(x, NAME: tl.constexpr):
    """(value, derivative); relu and its square are written so that NaN stays NaN."""
    if NAME == "silu":
        s = tl.sigmoid(x)
        value = x * s
        slope = s * (1 + x * (1 - s))
    elif NAME == "gelu":
        below = 0.5 * (1 + tl.erf(x * 0.7071067811865476))
        value = x * below
        slope = below + x * tl.exp(-0.5 * x * x) * 0.3989422804014327
    elif NAME == "gelu_tanh":  # (1 + tanh z) / 2 = sigmoid(2 z), with 2 z = c (x + 0.044715 x^3), c = sqrt(8 / pi)
        s = tl.sigmoid(1.5957691216057308 * x * (1 + 0.044715 * x * x))
        value = x * s
        slope = s + value * (1 - s) * 1.5957691216057308 * (1 + 0.134145 * x * x)
    elif NAME == "relu":
        value = tl.where(x <= 0, 0.0, x)
        slope = tl.where(x <= 0, 0.0, 1.0)
    elif NAME == "relu2":
        r = tl.where(x <= 0, 0.0, x)
        value = r * r
        slope = 2 * r
    elif NAME == "sigmoid":
        value = tl.sigmoid(x)
        slope = value * (1 - value)
    elif NAME == "cubic":
        value = x * x * x
        slope = 3 * x * x
    else:
        tl.static_assert(NAME == "identity", "an activation that this file does not know")
        value = x
        slope = tl.full(x.shape, 1.0, tl.float32)
    return value, slope
