"""What a router declares of causality, against what happens to earlier tokens when later ones change."""

import itertools

import pytest
import torch
from cases import numbers

from sparsemix import GLUExpertsConfig, MoEConfig, TopKRouterConfig

DIM = 4


def leaks(router_config: TopKRouterConfig, training: bool) -> bool:
    """Whether, in any of many tries, other later tokens change the output of an earlier one."""
    moe = MoEConfig(num_experts=3, router=router_config, experts=GLUExpertsConfig(hidden=2)).build(DIM).double()
    moe.train(training)
    for trial, first_later in itertools.product(range(30), [1, 3, 5]):
        with torch.no_grad():
            moe.router.weight_ED.copy_(numbers(trial, 3, DIM))
            x_TD, other_TD = numbers(100 + trial, 6, DIM), numbers(200 + trial, 6, DIM)
            other_TD[:first_later] = x_TD[:first_later]
            before, after = moe(x_TD)[0], moe(other_TD)[0]
        # Not bit for bit: a matrix product of another number of rows rounds otherwise.
        if not torch.allclose(before[:first_later], after[:first_later], rtol=0, atol=1e-9):
            return True
    return False


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"gate": "sigmoid", "bias": True},
        {"capacity_factor": 0.6},
        {"capacity_factor": 0.6, "priority": "probability"},
        {"capacity_factor_eval": 0.6},
        {"capacity_factor_eval": 0.6, "priority": "probability"},
        {"priority": "probability"},
    ],
)
def test_a_router_is_causal_exactly_if_it_says_so(k, fields):
    config = TopKRouterConfig(k=k, **{"normalize": False, **fields})
    declared = config.build(DIM, 3).causal
    assert (not leaks(config, training=True) and not leaks(config, training=False)) == declared


def test_position_priority_leaks_for_two_choices():
    """One place an expert. Token 0 wants experts 0 and 1; it gets 1 only if token 1's first choice is not 1."""
    router = TopKRouterConfig(k=2, capacity_factor=0.5).build(3, 3)
    torch.nn.init.eye_(router.weight_ED)
    first, wants_1, wants_2 = [3.0, 2.0, 0.0], [0.0, 3.0, 2.0], [0.0, 2.0, 3.0]
    live = [router(torch.tensor([first, later])).live_N[:2].tolist() for later in (wants_1, wants_2)]
    assert live == [[True, False], [True, True]]
    assert not router.causal
