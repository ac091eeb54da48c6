"""Noise and jitter: by their formulas, in training only; losses read what there was before the noise."""

import pytest
import references
import torch
from cases import GATES, numbers, same
from routers.examples import DIM, router_of

from sparsemix import TopKRouterConfig, load


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("k", [2, 4])
def test_noisy_routing_is_the_formula_of_2017(gate, k):
    num_experts, x_TD = 4, numbers(1, 9, DIM)
    router = router_of(num_experts, k=k, gate=gate, noise=True)
    with torch.no_grad():
        router.noise_ED.copy_(numbers(2, num_experts, DIM))
    torch.manual_seed(5)
    routing = router(x_TD)
    torch.manual_seed(5)
    noise_TE = torch.randn(9, num_experts, dtype=torch.float64)

    clean_TE = x_TD @ router.weight_ED.T
    scale_TE = torch.log(1 + torch.exp(x_TD @ router.noise_ED.T)) + 0.01
    noisy_TE = clean_TE + noise_TE * scale_TE
    same(routing.logits_TE, clean_TE, "losses read the clean logits")
    for t in range(9):
        same(routing.probs_TE[t], references.distribution(gate, clean_TE[t]), "losses read the clean distribution")
        chosen = routing.expert_N[t * k : (t + 1) * k].tolist()
        assert references.is_best_first(references.scores(gate, noisy_TE[t].detach()), chosen)
        same(routing.weight_N[t * k : (t + 1) * k], torch.stack(references.weights(gate, True, noisy_TE[t], chosen)))
        expected = (
            torch.ones(num_experts, dtype=torch.float64)
            if k == num_experts
            else references.selection_probability(clean_TE[t], noisy_TE[t], scale_TE[t], k)
        )
        same(routing.load_TE[t], expected, "load")


def test_noise_begins_with_deviation_ln_2_and_reaches_its_weights_by_gradient():
    router = TopKRouterConfig(noise=True).build(DIM, 4)
    assert (router.noise_ED == 0).all()
    routing = router(torch.randn(9, DIM))
    (routing.weight_N.square().sum() + routing.load_TE.square().sum()).backward()
    assert (router.noise_ED.grad != 0).any()


@pytest.mark.parametrize("fields", [{"noise": True}, {"jitter": 0.1}])
def test_noise_and_jitter_act_in_training_only(fields):
    router, plain, x_TD = router_of(4, **fields), router_of(4), numbers(1, 9, DIM)
    first, second = router(x_TD), router(x_TD)
    assert not first.weight_N.equal(second.weight_N)
    quiet = router.eval()(x_TD)
    assert quiet.weight_N.equal(plain(x_TD).weight_N)
    assert quiet.logits_TE.equal(plain(x_TD).logits_TE)
    assert quiet.load_TE is None


def test_jitter_leaves_the_mean_of_the_logits():
    router, x_TD = router_of(4, jitter=0.1), numbers(1, 1, DIM).expand(40_000, DIM)
    logits_TE, clean_E = router(x_TD).logits_TE.detach(), (x_TD[0] @ router.weight_ED.T).detach()
    error_E = logits_TE.std(0) / 200
    assert (error_E > 0).all()
    assert ((logits_TE.mean(0) - clean_E).abs() < 4 * error_E).all()


def test_a_router_of_zeros_sends_every_token_to_the_same_experts_unless_there_is_noise():
    fields = {"k": 1, "normalize": False}
    still, noisy = (TopKRouterConfig(noise=noise, **fields).build(DIM, 8) for noise in (False, True))
    for router in (still, noisy):
        torch.nn.init.zeros_(router.weight_ED)
    x_TD = torch.randn(400, DIM)
    assert int(load(still(x_TD), 8).max()) == 400
    assert int(load(noisy(x_TD), 8).max()) < 100
