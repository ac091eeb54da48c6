"""What stands between an expert's two projections: an activation, plain or gated, and its derivative."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

ActivationName = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2", "sigmoid", "identity", "cubic"]


class Activation(Protocol):
    """Maps the pre-activation h to the F numbers that the down projection reads."""

    @property
    def width(self) -> int:
        """Size of h over F: 2 for gated, 1 for plain."""
        ...

    @property
    def interleaved(self) -> bool:
        """Whether the rows of h lie gate, up, gate, up, ..., rather than all gates first."""
        ...

    def forward(self, h: Tensor) -> Tensor:
        """a, differentiable by autograd."""
        ...

    def recompute(self, h: Tensor, da: Tensor) -> tuple[Tensor, Tensor]:
        """(a, dh): the forward value again, and the gradient of h given that of a; what backward needs of h.

        Overwrites `da`: fresh memory costs more than the arithmetic on it.
        """
        ...


class Plain(NamedTuple):
    """a = act(h)."""

    name: ActivationName

    width = 1
    interleaved = False

    def forward(self, h: Tensor) -> Tensor:
        return pointwise(self.name, h)

    def recompute(self, h: Tensor, da: Tensor) -> tuple[Tensor, Tensor]:
        return pointwise(self.name, h), pointwise_backward(self.name, da, h, out=da)


class Gated(NamedTuple):
    """a = act(g) * u with h = [g, u] (SwiGLU where act is silu). Source: Shazeer 2020, 2002.05202."""

    name: ActivationName
    interleaved: bool = False

    width = 2

    def forward(self, h: Tensor) -> Tensor:
        gate, up = gate_and_up(h, self.interleaved)
        return pointwise(self.name, gate) * up

    def recompute(self, h: Tensor, da: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = gate_and_up(h, self.interleaved)
        dh = torch.empty_like(h)
        dgate, dup = gate_and_up(dh, self.interleaved)
        act = pointwise(self.name, gate)
        torch.mul(da, act, out=dup)
        pointwise_backward(self.name, da.mul_(up), gate, out=dgate)
        return torch.mul(act, up, out=da), dh


class ClampedGated(NamedTuple):
    """a = g sigmoid(alpha g) (u + offset), g clamped from above and u on both sides.

    Source: the gpt-oss models, 2025; with alpha 1 and offset 0 the clamped SwiGLU of others.
    """

    limit: float = 7.0
    alpha: float = 1.702
    interleaved: bool = True
    offset: float = 1.0

    width = 2

    def forward(self, h: Tensor) -> Tensor:
        gate, up = gate_and_up(h, self.interleaved)
        gate, up = gate.clamp(max=self.limit), up.clamp(-self.limit, self.limit)
        return gate * torch.sigmoid(self.alpha * gate) * (up + self.offset)

    def recompute(self, h: Tensor, da: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = gate_and_up(h, self.interleaved)
        dh = torch.empty_like(h)
        dgate, dup = gate_and_up(dh, self.interleaved)
        gate_inside, up_inside = gate <= self.limit, up.abs() <= self.limit
        gate, up = gate.clamp(max=self.limit), up.clamp(-self.limit, self.limit) + self.offset
        share = torch.sigmoid(self.alpha * gate)
        act = gate * share
        torch.mul(da * act, up_inside, out=dup)
        torch.mul(da * up * (share + self.alpha * act * (1 - share)), gate_inside, out=dgate)
        return torch.mul(act, up, out=da), dh


class Custom(NamedTuple):
    """a = function(h), any function of the rows of h: its derivative is autograd's, of the function computed again.

    For back ends that call PyTorch between their products; compiled ones cannot. The function has no parameters of its
    own to differentiate by, and draws no noise.
    """

    function: Callable[[Tensor], Tensor]
    width: int

    interleaved = False

    def forward(self, h: Tensor) -> Tensor:
        a = self.function(h)
        shared = a.untyped_storage().data_ptr() == h.untyped_storage().data_ptr()
        return a.clone() if shared else a  # callers go on in it

    def recompute(self, h: Tensor, da: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            h = h.detach().requires_grad_()
            a = self.forward(h)
        (dh,) = torch.autograd.grad(a, h, da)
        return a.detach(), dh


def gate_and_up(h: Tensor, interleaved: bool) -> tuple[Tensor, Tensor]:
    """Views of the two halves of the last axis."""
    gate, up = (h[..., ::2], h[..., 1::2]) if interleaved else h.chunk(2, dim=-1)
    return gate, up


KINDS = {kind.__name__: kind for kind in (Plain, Gated, ClampedGated)}
"""All that every back end computes."""


def written(activation: Any) -> str:
    """As JSON: operators of PyTorch's take text, but no objects. By hand, since the compiler cannot see into `json`."""
    values = [f'"{one}"' if isinstance(one, str) else str(one).lower().replace("inf", "Infinity") for one in activation]
    return f'["{type(activation).__name__}", {", ".join(values)}]'


def read(text: str) -> Activation:
    """What was written."""
    kind, *values = json.loads(text)
    return KINDS[kind](*values)


def pointwise(name: ActivationName, x: Tensor) -> Tensor:
    """The activation of x, elementwise: `relu2` is relu(x)^2, `gelu_tanh` the tanh approximation.

    Source: of `cubic`, x^3, Chen et al. 2022 (2208.02813).
    """
    match name:
        case "silu":
            return F.silu(x)
        case "gelu":
            return F.gelu(x)
        case "gelu_tanh":
            return F.gelu(x, approximate="tanh")
        case "relu":
            return F.relu(x)
        case "relu2":
            return F.relu(x).square()
        case "sigmoid":
            return torch.sigmoid(x)
        case "identity":
            return x.clone()  # memory of its own, as the others give, since callers go on in it
        case "cubic":
            return x.pow(3)


def pointwise_backward(name: ActivationName, grad: Tensor, x: Tensor, out: Tensor) -> Tensor:
    """grad * activation'(x), elementwise, written to `out`, which may be `grad`."""
    aten = torch.ops.aten
    match name:
        case "silu":
            return aten.silu_backward.grad_input(grad, x, grad_input=out)
        case "gelu":
            return aten.gelu_backward.grad_input(grad, x, grad_input=out)
        case "gelu_tanh":
            return aten.gelu_backward.grad_input(grad, x, approximate="tanh", grad_input=out)
        case "relu":
            return aten.threshold_backward.grad_input(grad, x, 0, grad_input=out)
        case "relu2":
            return torch.mul(grad, 2 * F.relu(x), out=out)
        case "sigmoid":
            return aten.sigmoid_backward.grad_input(grad, torch.sigmoid(x), grad_input=out)
        case "identity":
            return out.copy_(grad)
        case "cubic":
            return torch.mul(grad, 3 * x.square(), out=out)
