"""The definitions written out from the papers, one token and one expert at a time. Imports nothing of the package.

Everything is in float64; randomness is handed in as draws. Gradients come from autograd through the loops. A router
gives a list of `Edge`, each with its token, expert and weight, and whether the expert has room for it. Ties go to the
lower index.
"""

from references import (
    assignment,
    batchwise,
    capacity,
    deepseek_losses,
    edges,
    expert_choice,
    experts,
    gates,
    layer,
    limited,
    losses,
    noisy,
    token_choice,
    updates,
    variable,
)
from references.capacity import Choices, served
from references.edges import Edge
from references.experts import activation, glu, mlp
from references.gates import (
    distribution,
    is_best_first,
    scores,
    selection_probability,
    sigmoid,
    softmax,
    weights,
)
from references.layer import moe
from references.losses import counts, cv_squared, importance_loss, mean_of_valid, switch_loss, z_loss

__all__ = [
    "Choices",
    "Edge",
    "activation",
    "assignment",
    "batchwise",
    "capacity",
    "counts",
    "cv_squared",
    "deepseek_losses",
    "distribution",
    "edges",
    "expert_choice",
    "experts",
    "gates",
    "glu",
    "importance_loss",
    "is_best_first",
    "layer",
    "limited",
    "losses",
    "mean_of_valid",
    "mlp",
    "moe",
    "noisy",
    "scores",
    "selection_probability",
    "served",
    "sigmoid",
    "softmax",
    "switch_loss",
    "token_choice",
    "updates",
    "variable",
    "weights",
    "z_loss",
]
