"""The activations of `sparsemix.kernels.activations` and their derivatives, on a tile in float32."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def pointwise(x, NAME: tl.constexpr):
    """The activation of x."""
    value, _ = pointwise_and_slope(x, NAME)  # the compiler drops the slope
    return value


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
    else:
        tl.static_assert(NAME == "identity", "an activation that this file does not know")
        value = x
        slope = tl.full(x.shape, 1.0, tl.float32)
    return value, slope
