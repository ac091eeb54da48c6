"""Gradients of what limited and noisy choices hand on, by finite differences, to tokens and to every parameter."""

import pytest
import torch
from cases import numbers
from routers.examples import built
from torch.func import functional_call

from sparsemix import CapacityConfig, TokenInfo, balance_loss
from sparsemix.routers import (
    CosineRouterConfig,
    GroupLimitedRouterConfig,
    GShardRouterConfig,
    HierarchicalRouterConfig,
    LIMoERouterConfig,
    NoTokenLeftBehindRouterConfig,
    VMoERouterConfig,
)

NUM_EXPERTS, WIDTH = 9, 3
ROUTERS = {
    "cosine": CosineRouterConfig(k=2, normalize=True, temperature=0.5),
    "cosine, one side": CosineRouterConfig(normalize_input=False, temperature=0.5),
    "group-limited, sigmoid": GroupLimitedRouterConfig(k=2, num_groups=3, keep_groups=1),
    "group-limited, softmax": GroupLimitedRouterConfig(
        k=2, num_groups=3, keep_groups=1, gate="softmax_topk", group_score="best", normalize=False, selection_bias=None
    ),
    "gshard": GShardRouterConfig(jitter=0.1),
    "gshard, normalised after": GShardRouterConfig(
        normalize="after", capacity=CapacityConfig(factor=1.0, count_choices=False)
    ),
    "hierarchical": HierarchicalRouterConfig(num_groups=3),
    "limoe": LIMoERouterConfig(min_experts=(4.0, 3.0), local=(1,)),
    "no token left behind": NoTokenLeftBehindRouterConfig(k=2),
    "v-moe": VMoERouterConfig(),
}


@pytest.mark.parametrize("config", ROUTERS.values(), ids=ROUTERS)
def test_weights_probabilities_and_losses_have_the_gradient_of_finite_differences(config):
    router = built(config, NUM_EXPERTS, WIDTH)
    names = [name for name, _ in router.named_parameters()]
    info = TokenInfo(
        valid_T=torch.tensor([True, True, False, True, True]),
        sequence_T=torch.tensor([0, 0, 0, 1, 1]),
        modality_T=torch.tensor([0, 1, 0, 1, 0]),
    )

    def handed_on(x_TD: torch.Tensor, *parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(0)
        routing = functional_call(router, dict(zip(names, parameters)), (x_TD, info))
        loss = balance_loss(routing, config.losses(NUM_EXPERTS))
        found = (routing.weight_N, routing.logits_TE, routing.probs_TE, routing.load_TE, 100 * loss)
        return tuple(value for value in found if value is not None)

    x_TD = numbers(50, 5, WIDTH).requires_grad_()
    parameters = [parameter.detach().clone().requires_grad_() for parameter in router.parameters()]
    assert torch.autograd.gradcheck(handed_on, (x_TD, *parameters), fast_mode=True)
