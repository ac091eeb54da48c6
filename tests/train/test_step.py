import numpy as np
import pytest
import torch
from train.examples import BIASED, NOISY, gradient_step, gradients, random_batch, tiny_model, tiny_trainer

from sparsemix.balance import ImportanceLoss, LoadLoss, SequenceLoss, SwitchLoss, ZLoss, z_loss
from sparsemix.data import Batch
from sparsemix.experts import GLUExpertsConfig
from sparsemix.layer import MoEConfig, MoEExpertsConfig
from sparsemix.models import DepthConfig
from sparsemix.routers import SelectionBiasConfig, SwitchRouterConfig, TopKRouter, TopKRouterConfig
from sparsemix.train import BalanceConfig
from sparsemix.train.batch import split_batch

SEVERAL = (SwitchLoss(weight=0.3), ZLoss(weight=0.1), ImportanceLoss(weight=0.2), SequenceLoss(weight=0.1))


def gathered(losses, batches, model=None, scope="micro", **changes):
    torch.manual_seed(3)
    step = gradient_step(BalanceConfig(losses=losses, scope=scope), model or tiny_model(), **changes)
    return step.gather(batches), gradients(step)


def largest_difference(one, other):
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.mark.parametrize("parts", [2, 4, 6])
@pytest.mark.parametrize("losses", [(), SEVERAL], ids=["task loss", "global balance"])
def test_accumulation_is_the_whole_batch(parts, losses):
    batch = random_batch(rows=6)
    whole, whole_gradients = gathered(losses, [batch])
    cut, cut_gradients = gathered(losses, split_batch(batch, parts), scope="global")
    assert whole.loss.item() == pytest.approx(cut.loss.item(), rel=1e-12)
    assert whole.balance.item() == pytest.approx(cut.balance.item(), rel=1e-12)
    assert largest_difference(whole_gradients, cut_gradients) < 1e-10


def test_balance_by_micro_batch_is_another_loss():
    batch = random_batch(rows=6)
    _, whole = gathered(SEVERAL, [batch])
    _, cut = gathered(SEVERAL, split_batch(batch, 3))
    assert largest_difference(whole, cut) > 1e-4


def test_balance_by_micro_batch_is_the_mean_weighted_by_tokens():
    batches = split_batch(random_batch(rows=4), 3)  # 2, 1 and 1 rows
    alone = [gathered(SEVERAL, [batch])[0].balance.item() for batch in batches]
    together = gathered(SEVERAL, batches)[0].balance.item()
    assert together == pytest.approx(alone[0] / 2 + alone[1] / 4 + alone[2] / 4, rel=1e-12)


def test_loss_is_the_mean_over_weighted_targets():
    batches = split_batch(random_batch(rows=4), 4)
    weights = [batch.weight_BS.sum() for batch in batches]
    alone = [gathered((), [batch])[0].loss.item() for batch in batches]
    assert len(set(weights)) > 1
    expected = np.average(alone, weights=weights)
    assert gathered((), batches)[0].loss.item() == pytest.approx(expected, rel=1e-12)


def test_global_balance_sees_the_noise_of_the_pass_with_gradient():
    """Each loss, recomputed from the routings that were used: the counting pass must have drawn the same noise."""
    seen = {}
    losses = (SwitchLoss(weight=1), ImportanceLoss(weight=1), LoadLoss(weight=1))
    step = gradient_step(BalanceConfig(losses=losses, scope="global"), NOISY)
    torch.manual_seed(3)
    found = step.gather(
        split_batch(random_batch(rows=6), 3),
        7,
        [lambda number, layer, routing: seen.setdefault(layer, []).append(routing)],
    )
    expected = 0.0
    for routings in seen.values():
        probs = torch.cat([routing.probs_TE for routing in routings])
        load = torch.bincount(torch.cat([routing.expert_N for routing in routings]), minlength=4)
        expected += 4 * load.double() @ probs.mean(0) / load.sum()
        weights = [torch.zeros(4).double().index_add(0, r.expert_N, r.weight_N) for r in routings]
        for total in (torch.stack(weights).sum(0), torch.cat([r.load_TE for r in routings]).sum(0)):
            expected += total.var(unbiased=False) / total.mean() ** 2
    assert found.balance.item() == pytest.approx(expected.item(), rel=1e-8)


def test_what_a_router_asks_for_is_in_the_balance_and_in_the_gradient(monkeypatch):
    """A mean over tokens: micro-batches have shares of it, and no list of losses turns it off."""
    route = TopKRouter.forward

    def asking(self, x_TD, info=None, previous=None):
        routing = route(self, x_TD, info, previous)
        return routing._replace(loss=0.7 * z_loss(routing))

    expected, wanted = gathered((ZLoss(weight=0.7),), [random_batch(rows=6)])
    monkeypatch.setattr(TopKRouter, "forward", asking)
    for scope in ("micro", "global"):
        found, grads = gathered((), split_batch(random_batch(rows=6), 4), scope=scope)
        assert found.balance.item() == pytest.approx(expected.balance.item(), rel=1e-12)
        assert largest_difference(grads, wanted) < 1e-10


@pytest.mark.parametrize("model", [NOISY, tiny_model(SwitchRouterConfig())], ids=["noise", "jitter"])
def test_counting_leaves_the_random_numbers_as_they_were(model):
    batches = split_batch(random_batch(), 2)
    states = []
    for scope in ("micro", "global"):
        gathered(None, batches, model, scope=scope)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@pytest.mark.parametrize("scope", ["micro", "global"])
@pytest.mark.parametrize("model", [NOISY, BIASED, tiny_model(SwitchRouterConfig())], ids=["noise", "bias", "jitter"])
def test_activation_checkpointing_changes_nothing(scope, model):
    """Blocks run twice then: neither losses nor statistics may count twice, and noise must be drawn again as it was."""
    losses = (*model.moe.router.losses(4), *SEVERAL)
    batches = split_batch(random_batch(), 2)
    plain, plain_gradients = gathered(losses, batches, model, scope)
    again, again_gradients = gathered(losses, batches, model, scope, activation_checkpointing=True)
    assert (plain.loss, plain.balance) == (again.loss, again.balance)
    assert largest_difference(plain_gradients, again_gradients) == 0
    for one, other in zip(
        [*plain.load, *sum(plain.statistic, ())], [*again.load, *sum(again.statistic, ())], strict=True
    ):
        assert (one is None and other is None) or torch.equal(one, other)


def test_load_and_statistic_are_sums_over_micro_batches():
    batch = random_batch(rows=6)
    whole, cut = (gathered(None, split_batch(batch, parts), BIASED)[0] for parts in (1, 4))
    assert [int(load_E.sum()) for load_E in whole.load] == [2 * batch.tokens_BS.size] * 2
    for pair in zip([*whole.load, *sum(whole.statistic, ())], [*cut.load, *sum(cut.statistic, ())], strict=True):
        assert torch.equal(*pair)


def test_routers_of_mixtures_inside_follow_their_load_too():
    inner = MoEConfig(
        num_experts=3,
        router=TopKRouterConfig(k=2, selection_bias=SelectionBiasConfig(rate=0.1)),
        experts=GLUExpertsConfig(hidden=4),
    )
    model = tiny_model(moe=MoEConfig(num_experts=2, router=TopKRouterConfig(k=2), experts=MoEExpertsConfig(moe=inner)))
    trainer = tiny_trainer(model=model)
    trainer.step([random_batch()])
    for block in trainer.model.blocks:
        assert block.ffn.router.selection_bias is None
        for expert in block.ffn.experts.experts:
            assert expert.router.selection_bias.bias_E.any()


def test_what_a_depth_asks_for_is_added_to_the_loss_and_trains_its_predictor():
    weight = 0.3
    model = tiny_model(depth=DepthConfig(capacity=0.5, every=2, predictor_weight=weight))
    found, grads = gathered((), [random_batch()], model)
    assert found.balance.item() > 0
    predicted = [name for name in grads if ".depth." in name and ".predictor." in name]
    assert predicted
    assert all(grads[name].any() for name in predicted)


def test_a_dense_model_has_no_balance():
    found, _ = gathered(None, [random_batch()], tiny_model(moe=None, ffn=GLUExpertsConfig(hidden=8)))
    assert found.balance.item() == 0
    assert found.load == ()


def test_weights_that_are_all_zero_give_no_gradient():
    batch = random_batch()
    batch.weight_BS[:] = 0
    found, found_gradients = gathered((), split_batch(batch, 2))
    assert found.loss.item() == 0
    assert all(not gradient.any() for gradient in found_gradients.values())


def test_observers_see_every_routing_without_its_graph():
    seen = []
    step = gradient_step(BalanceConfig(), tiny_model())
    step.gather(split_batch(random_batch(), 2), 5, [lambda *call: seen.append(call)])
    assert [(number, layer) for number, layer, _ in seen] == [(5, 0), (5, 1), (5, 0), (5, 1)]
    for _, _, routing in seen:
        assert routing.expert_N.shape == (2 * 2 * 16,)
        assert not routing.weight_N.requires_grad
        assert not routing.probs_TE.requires_grad


def test_splitting_keeps_rows_in_order():
    batch = random_batch(rows=5)._replace(position_BS=np.arange(80).reshape(5, 16))
    parts = split_batch(batch, 3)
    assert [len(part.tokens_BS) for part in parts] == [2, 2, 1]
    assert all(part.document_BS is None for part in parts)
    joined = Batch(*(None if batch[i] is None else np.concatenate([part[i] for part in parts]) for i in range(5)))
    np.testing.assert_equal(tuple(joined), tuple(batch))
