"""What the compiled functions are told: sizes, and where numbers lie. They look at neither again."""

from __future__ import annotations

import ctypes
from typing import get_args

import torch
from torch import Tensor

from sparsemix.checks import check
from sparsemix.kernels.activations import Activation, ActivationName, ClampedGated, Gated, Plain
from sparsemix.kernels.weights import ExpertWeights
from sparsemix.routing import Dispatch


class Matrices(ctypes.Structure):
    """Of all experts: where the first begins, and three strides."""

    _fields_ = (("at", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("expert", "row", "col")))


_SIZES = ("tokens", "dim", "out", "hidden", "gated", "interleaved", "experts", "k", "activation", "threads")
_INPUTS = ("x", "token", "weight", "bounds", "slot")
_OUTPUTS = ("up_bias", "down_bias", "saved", "y_rows", "y")
_OF_BACKWARD = ("dy", "dweight", "dup", "ddown", "dup_bias", "ddown_bias", "scratch")


class Call(ctypes.Structure):
    """`Call` of experts.h, field by field. Keeps the tensors that it points to.

    Raises:
        ValueError: shapes that do not go together, which would be read past their ends.
    """

    _fields_ = (
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, ctypes.c_double) for name in ("limit", "alpha", "offset")),
        *((name, ctypes.c_void_p) for name in _INPUTS),
        ("up", Matrices),
        ("down", Matrices),
        *((name, ctypes.c_void_p) for name in (*_OUTPUTS, *_OF_BACKWARD)),
    )

    def __init__(self, x_TD: Tensor, weights: ExpertWeights, activation: Activation) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []
        (self.tokens, self.dim), (self.experts, self.out, self.hidden) = x_TD.shape, weights.down_EDF.shape
        self.gated, self.interleaved = activation.width == 2, activation.interleaved
        self.threads, self.activation = torch.get_num_threads(), _number(activation)
        if isinstance(activation, ClampedGated):
            self.limit, self.alpha, self.offset = activation.limit, activation.alpha, activation.offset
        self._check_shapes(weights, activation.width * self.hidden)
        self.up = Matrices(weights.up_EGD.data_ptr(), *weights.up_EGD.stride())
        self.down = Matrices(weights.down_EDF.data_ptr(), *weights.down_EDF.stride())
        self.point(x=x_TD, up_bias=weights.up_bias_EG, down_bias=weights.down_bias_ED)

    def point(self, **tensors: Tensor | None) -> None:
        """To the numbers of these, contiguous; None is null."""
        for name, tensor in tensors.items():
            if tensor is not None:
                self.tensors.append(tensor := tensor.contiguous())
            setattr(self, name, None if tensor is None else tensor.data_ptr())

    def _check_shapes(self, weights: ExpertWeights, wide: int) -> None:
        fitting = {
            "up_EGD": (weights.up_EGD, (self.experts, wide, self.dim)),
            "up_bias_EG": (weights.up_bias_EG, (self.experts, wide)),
            "down_bias_ED": (weights.down_bias_ED, (self.experts, self.out)),
        }
        for name, (tensor, shape) in fitting.items():
            if tensor is not None and tensor.shape != shape:  # first, since a message takes as long as a small product
                check(False, name, f"must be of shape {shape}, to go with x_TD and down_EDF", tuple(tensor.shape))


def check_dispatch(dispatch: Dispatch, num_tokens: int, num_experts: int) -> None:
    """Raise `ValueError` for rows that are not there: they would be read and written all the same."""
    num_rows, edges = len(dispatch.token_N), dispatch.bounds.tolist()
    check_indices("token_N", dispatch.token_N, num_tokens)
    check(len(dispatch.weight_N) == num_rows, "weight_N", "must be a number a row", tuple(dispatch.weight_N.shape))
    rising = edges[0] == 0 and edges == sorted(edges) and edges[-1] <= num_rows
    fits = rising and len(edges) == num_experts + 1 and dispatch.bounds.dtype == torch.int32
    rule = f"must be int32, {num_experts + 1} offsets that rise from 0 to at most {num_rows}"
    check(fits, "bounds", rule, f"{dispatch.bounds.dtype}, {edges}")
    if dispatch.slot_TK is not None:
        check(len(dispatch.slot_TK) == num_tokens, "slot_TK", "must be a row a token", tuple(dispatch.slot_TK.shape))
        check_indices("slot_TK", dispatch.slot_TK, num_rows)


def check_indices(name: str, indices: Tensor, size: int) -> None:
    """Raise `ValueError` unless all are int64 and count into something of that size."""
    low, high = (int(end) for end in indices.aminmax()) if indices.numel() else (0, -1)
    fits = indices.dtype == torch.int64 and low >= 0 and high < size
    check(fits, name, f"must be int64 from 0 to {size - 1}", f"{indices.dtype} from {low} to {high}")


def _number(activation: Activation) -> int:
    """Its place in the list of activations.h."""
    if isinstance(activation, ClampedGated):
        return len(get_args(ActivationName))
    assert isinstance(activation, Plain | Gated), "there are no others"
    return get_args(ActivationName).index(activation.name)
