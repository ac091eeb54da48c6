"""What the compiled functions are told: sizes, and where numbers lie."""

from __future__ import annotations

import ctypes
from typing import get_args

import torch
from torch import Tensor

from sparsemix.kernels.activations import Activation, ActivationName, Gated, Plain
from sparsemix.kernels.weights import ExpertWeights


class Matrices(ctypes.Structure):
    """Of all experts: where the first begins, and three strides."""

    _fields_ = (("at", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("expert", "row", "col")))


_SIZES = ("tokens", "dim", "hidden", "gated", "experts", "k", "activation", "threads")
_INPUTS = ("x", "token", "weight", "bounds", "slot")
_OUTPUTS = ("up_bias", "down_bias", "saved", "y_rows", "y")
_OF_BACKWARD = ("dy", "dweight", "dup", "ddown", "dup_bias", "ddown_bias", "scratch")


class Call(ctypes.Structure):
    """`Call` of experts.h, field by field. Keeps the tensors that it points to."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, ctypes.c_void_p) for name in _INPUTS),
        ("up", Matrices),
        ("down", Matrices),
        *((name, ctypes.c_void_p) for name in (*_OUTPUTS, *_OF_BACKWARD)),
    )

    def __init__(self, x_TD: Tensor, weights: ExpertWeights, activation: Activation) -> None:
        super().__init__()
        assert isinstance(activation, Plain | Gated), "`refuses` lets no other pass"
        self.tensors: list[Tensor] = []
        (self.tokens, _), (self.experts, self.dim, self.hidden) = x_TD.shape, weights.down_EDF.shape
        self.gated, self.threads = activation.width == 2, torch.get_num_threads()
        self.activation = get_args(ActivationName).index(activation.name)
        self.up = Matrices(weights.up_EGD.data_ptr(), *weights.up_EGD.stride())
        self.down = Matrices(weights.down_EDF.data_ptr(), *weights.down_EDF.stride())
        self.point(x=x_TD, up_bias=weights.up_bias_EG, down_bias=weights.down_bias_ED)

    def point(self, **tensors: Tensor | None) -> None:
        """To the numbers of these, contiguous; None is null."""
        for name, tensor in tensors.items():
            if tensor is not None:
                self.tensors.append(tensor := tensor.contiguous())
            setattr(self, name, None if tensor is None else tensor.data_ptr())
