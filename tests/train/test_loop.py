"""Runs in their folders, in this process, from beginning to end; test_kill.py has them in processes of their own."""

import io
import logging
import sys

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from train.examples import Crash, at_step, crash, curve, stateful, tiny_config

from sparsemix.balance import SwitchLoss, ZLoss
from sparsemix.kernels import onednn_is_faster
from sparsemix.kernels.cpp.library import library
from sparsemix.runs import RunFolder, read_metrics, versions
from sparsemix.train import BalanceConfig, DataConfig, TrainConfig, TrainingError, load_run, train


def test_a_run_from_beginning_to_end(config, tmp_path):
    out = tmp_path / "run"
    result = train(config, out)
    assert (result.out, result.step, result.stopped_by) == (out, 6, None)
    names = {"config.json", "run.json", "tokenizer.json", "metrics.jsonl", "data", "checkpoints", "tensorboard"}
    assert {path.name for path in out.iterdir()} == names
    folder = RunFolder.open(out)
    assert folder.config(TrainConfig) == config
    assert folder.checkpoints.steps() == [4, 6]
    metrics = read_metrics(out / "metrics.jsonl")
    assert [one["step"] for one in metrics] == [1, 2, 3, 4, 5, 6]
    assert [one["step"] for one in metrics if "evaluation" in one] == [3, 6]
    assert metrics[-1]["evaluation"]["bits_per_byte"] == result.evaluation.total.bits_per_byte
    assert metrics[-1]["evaluation"]["domains"].keys() == result.evaluation.domains.keys() != set()
    assert [one["tokens"] for one in metrics] == [64 * step for step in range(1, 7)]
    seconds = [one["seconds"] for one in metrics]
    assert seconds == sorted(seconds)
    assert all(one["loss"] > 0 and one["imbalance"] >= 1 and not one["skipped"] for one in metrics)


def test_says_what_it_runs_on(config, tmp_path):
    train(config, tmp_path / "run")
    facts = RunFolder.open(tmp_path / "run").facts()
    assert facts["version"] == versions.FORMAT_VERSION
    assert (facts["torch"], facts["device"], facts["autocast"]) == (torch.__version__, "cpu", None)
    assert facts["backend"] == ("cpp" if library().functions else "cpu")
    assert facts["seed"] == 0
    assert facts["onednn"] == onednn_is_faster()


def test_trained_models_come_out_again(config, tmp_path):
    result = train(config, tmp_path / "run")
    found = load_run(tmp_path / "run")
    assert (found.config, found.step) == (config, 6)
    assert found.tokenizer.vocab_size == 257
    saved = RunFolder.open(tmp_path / "run").checkpoints.load(6).tensors["model"]
    assert all(torch.equal(tensor, saved[name]) for name, tensor in found.model.state_dict().items())
    assert load_run(tmp_path / "run", 4).step == 4
    assert result.evaluation is not None


@stateful
def test_evaluating_and_saving_at_other_steps_changes_no_loss(text, tmp_path, model):
    losses = []
    for every in (1, 6):
        out = tmp_path / str(every)
        train(tiny_config(text, model=model, evaluate_every=every, checkpoint_every=every), out)
        losses.append([one["loss"] for one in curve(out)])
    assert losses[0] == losses[1]


def test_without_held_out_text_there_is_no_evaluation(text, tmp_path):
    result = train(tiny_config(text, data=DataConfig(sources=(str(text),), held_out=0)), tmp_path / "run")
    assert result.evaluation is None
    assert not any("evaluation" in one for one in curve(tmp_path / "run"))


def test_warns_of_routers_that_nothing_balances(text, tmp_path, caplog):
    train(tiny_config(text, balance=BalanceConfig(losses=()), steps=1), tmp_path / "run")
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage().startswith("routers of blocks 0, 1 get no balance gradient")
    assert "\n" not in record.getMessage()


def test_is_quiet_where_all_is_well(config, tmp_path, caplog, capfd):
    train(config, tmp_path / "run")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert capfd.readouterr() == ("", "")


def test_out_of_memory_says_what_to_lower(config, tmp_path):
    def exhaust():
        torch.empty(1 << 60, dtype=torch.uint8)

    with pytest.raises(TrainingError) as caught:
        train(config, tmp_path / "run", observers=at_step(3, exhaust))
    message = str(caught.value)
    assert message.startswith("memory: must hold the model and 4 sequences of 16 tokens at a time, got ")
    assert message.endswith(
        "raise accumulate above 1, set activation_checkpointing, lower sequence_length or the model's size"
    )
    assert "\n" not in message


def test_other_errors_are_not_called_out_of_memory(config, tmp_path):
    def fail():
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        train(config, tmp_path / "run", observers=at_step(3, fail))


def test_losses_that_are_not_finite_end_the_run_with_one_line(text, tmp_path):
    config = tiny_config(
        text, max_skipped=1, balance=BalanceConfig(losses=(SwitchLoss(weight=1e38), ZLoss(weight=1e38)))
    )
    with pytest.raises(
        TrainingError, match=r"^loss: must be finite, .* for 2 steps in a row; lower the learning rate$"
    ):
        train(config, tmp_path / "run")
    (only,) = curve(tmp_path / "run")
    assert (only["skipped"], only["balance"]) == (True, None)


def test_tensorboard_has_the_curves(config, tmp_path):
    with pytest.raises(Crash):
        train(config, tmp_path / "run", observers=at_step(4, crash))
    train(config, tmp_path / "run", resume=True)
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (one["step"], pytest.approx(one["loss"])) for one in curve(tmp_path / "run")
    ]
    assert [event.step for event in events.Scalars("evaluation/bits_per_byte")] == [3, 6]


def test_without_tensorboard_there_are_no_curves(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr("sparsemix.train.tensorboard.find_spec", lambda name: None)
    train(config, tmp_path / "run")
    assert not (tmp_path / "run/tensorboard").exists()
    assert len(curve(tmp_path / "run")) == 6


def test_progress_shows_loss_speed_time_and_balance(config, tmp_path):
    log = io.StringIO()
    train(config, tmp_path / "run", console=Console(file=log, width=120, force_terminal=True))
    output = log.getvalue()
    for part in ("training", "6/6", "loss ", "tokens/s", "fullest expert ", "bits per byte held out"):
        assert part in output
