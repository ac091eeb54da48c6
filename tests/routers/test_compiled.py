"""A layer under `torch.compile`, whatever its router: the same values and gradients, and where that is one graph."""

import pytest
import torch
from cases import numbers, same
from routers.examples import DIM, EVERY_ROUTER, NUM_EXPERTS, built, everything

from sparsemix import GLUExpertsConfig, MoE

BY_TYPE = {config.type: config for config in reversed(EVERY_ROUTER.values())}
"""The first setting of each kind of router."""
BROKEN = {"base", "batchwise", "expert_choice", "hash", "relu", "sinkhorn", "token_rounding", "top_p"}
"""Their edges, or what they check, depend on values: the graph breaks there."""


pytestmark = pytest.mark.usefixtures("compiler")


def outcome(run, moe: MoE, x_TD: torch.Tensor) -> list[torch.Tensor]:
    """Values, and the gradients of x and of every parameter."""
    torch.manual_seed(0)  # of the noise
    y_TD, routing = run(x_TD, info=everything(len(x_TD)))
    total = y_TD.square().sum() + routing.weight_N.square().sum() + (0 if routing.loss is None else routing.loss)
    gradients = torch.autograd.grad(total, [x_TD, *moe.parameters()], materialize_grads=True, allow_unused=True)
    return [y_TD.detach(), routing.weight_N.detach(), *gradients]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # PyTorch's own, at a break
@pytest.mark.parametrize("config", BY_TYPE.values(), ids=BY_TYPE)
def test_a_compiled_layer_is_what_it_was(config):
    moe = MoE(built(config, NUM_EXPERTS), GLUExpertsConfig(hidden=3).build(DIM, NUM_EXPERTS).double())
    x_TD = numbers(1, 9, DIM).requires_grad_()
    compiled_moe = torch.compile(moe, backend="aot_eager", fullgraph=config.type not in BROKEN)
    for actual, expected in zip(outcome(compiled_moe, moe, x_TD), outcome(moe, moe, x_TD), strict=True):
        same(actual, expected)
