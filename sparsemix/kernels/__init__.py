"""The arithmetic of experts: grouped matrix products, the expert MLP around them, and the combine."""

from sparsemix.kernels.activations import Activation, ActivationName, Gated, Plain
from sparsemix.kernels.backend import BackendName, Choice, choose_backend
from sparsemix.kernels.combine import combine
from sparsemix.kernels.expert_mlp import expert_mlp

__all__ = [
    "Activation",
    "ActivationName",
    "BackendName",
    "Choice",
    "Gated",
    "Plain",
    "choose_backend",
    "combine",
    "expert_mlp",
]
