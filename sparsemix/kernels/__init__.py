"""The arithmetic of experts: grouped matrix products, the expert MLP around them, and the combine."""

from sparsemix.kernels.activations import Activation, ActivationName, ClampedGated, Custom, Gated, Plain
from sparsemix.kernels.backend import BackendName, Choice, choose_backend
from sparsemix.kernels.combine import combine, spread
from sparsemix.kernels.expert_mlp import expert_mlp
from sparsemix.kernels.gemm import add_product, onednn_is_faster, product
from sparsemix.kernels.grouped import expert_of_row
from sparsemix.kernels.linear import linear
from sparsemix.kernels.memory import fresh
from sparsemix.kernels.modes import at_least_float32, nobody_differentiates
from sparsemix.kernels.norm import rms_norm
from sparsemix.kernels.one_token import one_token
from sparsemix.kernels.weights import ExpertWeights

__all__ = [
    "Activation",
    "ActivationName",
    "BackendName",
    "Choice",
    "ClampedGated",
    "Custom",
    "ExpertWeights",
    "Gated",
    "Plain",
    "add_product",
    "at_least_float32",
    "choose_backend",
    "combine",
    "expert_mlp",
    "expert_of_row",
    "fresh",
    "linear",
    "nobody_differentiates",
    "one_token",
    "onednn_is_faster",
    "product",
    "rms_norm",
    "spread",
]
