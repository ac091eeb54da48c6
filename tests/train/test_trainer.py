import pytest
import torch
from torch import nn
from train.examples import NOISY, random_batch, stateful, tiny_config, tiny_model, tiny_trainer

from sparsemix.routers import SelectionBiasConfig, TopKRouterConfig
from sparsemix.train import AdamWConfig, BalanceConfig, ScheduleConfig, TrainerState, TrainingError
from sparsemix.train.batch import split_batch


def run(trainer, steps, first=0):
    return [trainer.step(split_batch(random_batch(seed=first + number), 2)) for number in range(steps)]


def losses(reports):
    return [(report.step, report.loss, report.balance, report.grad_norm) for report in reports]


def copied(state):
    return TrainerState(
        {name: tensor.clone() for name, tensor in state.model.items()},
        {name: tensor.clone() for name, tensor in state.optimizer.items()},
        dict(state.values),
    )


def test_learns_a_batch_by_heart():
    trainer = tiny_trainer(steps=60, schedule=ScheduleConfig(warmup=0, decay=0))
    batch = random_batch(rows=2)
    reports = [trainer.step([batch]) for _ in range(60)]
    assert reports[-1].loss < 0.5 * reports[0].loss


def test_reports_what_happened():
    trainer = tiny_trainer(steps=10, schedule=ScheduleConfig(warmup=0.2, decay=0))
    first, second = run(trainer, 2)
    assert (first.step, second.step, trainer.steps_done) == (1, 2, 2)
    assert (first.lr, second.lr) == (0.01, 0.02)
    assert first.tokens == 64
    assert first.seconds > 0
    assert [int(load_E.sum()) for load_E in first.load] == [128, 128]
    by_hand = sum(max(load_E.tolist()) / 32 for load_E in first.load) / 2
    assert first.imbalance == pytest.approx(by_hand)


def test_the_same_seed_gives_the_same_bits():
    assert losses(run(tiny_trainer(model=NOISY), 4)) == losses(run(tiny_trainer(model=NOISY), 4))
    assert losses(run(tiny_trainer(model=NOISY, seed=1), 4)) != losses(run(tiny_trainer(model=NOISY), 4))


def test_two_trainers_in_turns_do_not_disturb_each_other():
    alone = [losses(run(tiny_trainer(model=NOISY, seed=seed), 3)) for seed in (0, 1)]
    both = [tiny_trainer(model=NOISY, seed=seed) for seed in (0, 1)]
    turns = [[report for trainer in both for report in run(trainer, 1, first=number)] for number in range(3)]
    assert [losses([turn[which] for turn in turns]) for which in (0, 1)] == alone


def test_a_step_leaves_the_default_generator_alone():
    trainer = tiny_trainer(model=NOISY)
    state = torch.get_rng_state()
    run(trainer, 1)
    assert torch.equal(torch.get_rng_state(), state)


@stateful
@pytest.mark.parametrize("optimizer", [None, AdamWConfig()], ids=["muon", "adamw"])
def test_goes_on_from_its_state_bit_by_bit(optimizer, model):
    changes = {"model": model} | ({} if optimizer is None else {"optimizer": optimizer})
    trainer = tiny_trainer(**changes)
    run(trainer, 3)
    state = copied(trainer.state())
    expected = losses(run(trainer, 3, first=3))
    other = tiny_trainer(**changes, seed=5)
    run(other, 1)
    other.load_state(state)
    assert losses(run(other, 3, first=3)) == expected
    final, found = trainer.state(), other.state()
    assert found.values == final.values
    for one, two in ((final.model, found.model), (final.optimizer, found.optimizer)):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_weights_of_another_shape_are_refused():
    trainer = tiny_trainer()
    state = copied(trainer.state())
    state.model["norm.weight"] = torch.ones(3)
    with pytest.raises(ValueError, match=r"weights: norm.weight must have shape \(16,\), got \(3,\); use the same"):
        trainer.load_state(state)


def poison(trainer):
    with torch.no_grad():
        trainer.model.norm.weight[0] = float("nan")


@stateful
def test_a_step_that_is_not_finite_moves_nothing_and_the_next_one_does(model):
    trainer = tiny_trainer(model=model)
    run(trainer, 2)
    good = trainer.model.norm.weight[0].item()
    poison(trainer)
    before = copied(trainer.state())
    (report,) = run(trainer, 1, first=2)
    assert report.skipped
    for name, tensor in trainer.state().model.items():
        torch.testing.assert_close(tensor, before.model[name], rtol=0, atol=0, equal_nan=True)
    assert all(p.grad is None for p in trainer.model.parameters())
    with torch.no_grad():
        trainer.model.norm.weight[0] = good
    (report,) = run(trainer, 1, first=3)
    assert (report.skipped, report.step) == (False, 4)
    assert not torch.equal(trainer.model.norm.weight, before.model["norm.weight"])


def test_gives_up_after_a_few_such_steps_in_a_row():
    trainer = tiny_trainer(max_skipped=2)
    poison(trainer)
    assert [report.skipped for report in run(trainer, 2)] == [True, True]
    with pytest.raises(TrainingError, match=r"^loss: must be finite, got loss nan .* 3 steps in a row; lower.*$"):
        run(trainer, 1)


def test_a_good_step_between_starts_the_count_again():
    trainer = tiny_trainer(max_skipped=1)
    for _ in range(3):
        good = trainer.model.norm.weight[0].item()
        poison(trainer)
        assert run(trainer, 1)[0].skipped
        with torch.no_grad():
            trainer.model.norm.weight[0] = good
        assert not run(trainer, 1)[0].skipped


def test_the_count_goes_on_in_a_resumed_run():
    trainer, resumed = (tiny_trainer(max_skipped=1) for _ in range(2))
    poison(trainer)
    run(trainer, 1)
    resumed.load_state(trainer.state())
    with pytest.raises(TrainingError):
        run(resumed, 1)


def test_a_step_is_in_training_mode():
    trainer = tiny_trainer(model=NOISY)
    trainer.model.eval()
    assert losses(run(trainer, 1)) == losses(run(tiny_trainer(model=NOISY), 1))


def test_a_gradient_that_is_not_finite_skips_too():
    trainer = tiny_trainer()
    trainer.model.norm.weight.register_hook(lambda gradient: gradient * float("inf"))
    (report,) = run(trainer, 1)
    assert report.skipped
    assert report.loss < 10


def test_gradients_are_clipped_to_the_norm():
    """With an eps that dwarfs the gradient, a step of AdamW is the gradient times lr / eps."""
    moved = {}
    for clip_norm in (None, 0.1):
        optimizer = AdamWConfig(lr=1e8, eps=1e6, weight_decay=0)
        trainer = tiny_trainer(optimizer=optimizer, clip_norm=clip_norm, schedule=ScheduleConfig(warmup=0))
        before = trainer.model.embedding.weight.detach().clone()
        (report,) = run(trainer, 1)
        moved[clip_norm] = trainer.model.embedding.weight.detach() - before
    assert report.grad_norm > 0.5
    torch.testing.assert_close(moved[0.1], moved[None] * 0.1 / report.grad_norm, rtol=1e-3, atol=1e-5)


def test_selection_bias_moves_once_a_step_by_the_load_of_the_whole_batch():
    model = tiny_model(TopKRouterConfig(k=2, selection_bias=SelectionBiasConfig(rate=0.1)))
    trainer = tiny_trainer(model=model, balance=BalanceConfig(losses=()))
    report = trainer.step(split_batch(random_batch(), 4))
    for block, load_E in zip(trainer.model.blocks, report.load):
        expected = 0.1 * torch.sign(load_E.float().mean() - load_E)
        torch.testing.assert_close(block.ffn.router.selection_bias.bias_E, expected)


def test_bfloat16_autocast_is_close_and_keeps_parameters_in_float32():
    wide, narrow = (tiny_trainer(dtype=dtype) for dtype in ("float32", "bfloat16"))
    (first,), (second,) = run(wide, 1), run(narrow, 1)
    assert first.loss != second.loss
    assert second.loss == pytest.approx(first.loss, rel=0.01)
    assert {p.dtype for p in narrow.model.parameters()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's tracer trips over its own deprecations
def test_compile_is_the_same_mathematics(monkeypatch):
    compiled = []
    compile_ = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: (compiled.append(self), compile_(self, backend="eager")))
    config = tiny_config(compile=True)
    trainer = config.build()
    assert compiled == list(trainer.model.blocks)
    assert trainer.model.state_dict().keys() == tiny_trainer().model.state_dict().keys()
    assert losses(run(trainer, 2)) == losses(run(tiny_trainer(), 2))
