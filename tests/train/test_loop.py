"""Runs in their folders, in this process; test_kill.py has them in processes of their own."""

import io
import json
import logging
import os
import signal
import sys

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from train.examples import tiny_config, tiny_model, write_text

from sparsemix.config import to_json
from sparsemix.data import BPETokenizerConfig
from sparsemix.experts import GLUExpertsConfig
from sparsemix.kernels import onednn_is_faster
from sparsemix.layer import MoEConfig
from sparsemix.routers import TopKRouterConfig
from sparsemix.runs import RunError, RunFolder, checkpoint, read_metrics, versions
from sparsemix.train import BalanceConfig, DataConfig, TrainConfig, TrainingError, load_run, train

STATEFUL = tiny_model(TopKRouterConfig(k=2, noise=True, bias=True))


class Crash(BaseException):
    """Like a power cut: nothing in the loop expects it."""


def at_step(step, act):
    """An observer that does something once, in the middle of a step."""

    def observer(number, layer, routing):
        if (number, layer) == (step, 1):
            act()

    return [observer]


def crash():
    raise Crash


def curve(out):
    return [{k: v for k, v in one.items() if k != "seconds"} for one in read_metrics(out / "metrics.jsonl")]


def weights(out, step=6):
    return {path.name: path.read_bytes() for path in (out / f"checkpoints/step-{step:08}").glob("*.safetensors")}


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def text(tmp_path):
    return write_text(tmp_path / "text")


@pytest.fixture
def config(text):
    return tiny_config(text)


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
    assert (facts["torch"], facts["device"], facts["autocast"], facts["backend"]) == (
        torch.__version__,
        "cpu",
        None,
        "cpu",
    )
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


@pytest.mark.parametrize("crashed", [1, 2, 3, 5, 6])
def test_crashed_and_resumed_it_is_the_same_run(text, tmp_path, crashed):
    config = tiny_config(text, model=STATEFUL, accumulate=2)
    train(config, tmp_path / "whole")
    with pytest.raises(Crash):
        train(config, tmp_path / "crashed", observers=at_step(crashed, crash))
    result = train(config, tmp_path / "crashed", resume=True)
    assert result.step == 6
    assert curve(tmp_path / "crashed") == curve(tmp_path / "whole")
    assert weights(tmp_path / "crashed") == weights(tmp_path / "whole") != {}
    seconds = [one["seconds"] for one in read_metrics(tmp_path / "crashed/metrics.jsonl")]
    assert seconds == sorted(seconds)


def test_evaluating_and_saving_at_other_steps_changes_no_loss(text, tmp_path):
    losses = []
    for every in (1, 6):
        out = tmp_path / str(every)
        train(tiny_config(text, model=STATEFUL, evaluate_every=every, checkpoint_every=every), out)
        losses.append([one["loss"] for one in curve(out)])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_step_finish_and_saves(config, tmp_path, number):
    train(config, tmp_path / "whole")
    before = signal.getsignal(number)
    log = io.StringIO()
    stop = at_step(3, lambda: os.kill(os.getpid(), number))
    result = train(config, tmp_path / "run", observers=stop, console=Console(file=log, width=100))
    assert (result.step, result.stopped_by, result.evaluation is None) == (3, number, False)
    assert f"stopped by {number.name} after step 3 of 6; go on with --resume" in log.getvalue()
    assert RunFolder.open(tmp_path / "run").checkpoints.latest() == 3
    assert signal.getsignal(number) == before
    train(config, tmp_path / "run", resume=True)
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")


def test_a_signal_at_a_step_that_is_saved_anyway(config, tmp_path):
    result = train(config, tmp_path / "run", observers=at_step(4, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert (result.step, result.stopped_by) == (4, signal.SIGTERM)
    assert RunFolder.open(tmp_path / "run").checkpoints.steps() == [2, 4]


def test_a_second_interrupt_does_not_wait(config, tmp_path):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job would ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "run", observers=at_step(3, twice))
    finally:
        signal.signal(signal.SIGINT, before)
    assert RunFolder.open(tmp_path / "run").checkpoints.latest() == 2


def test_resuming_a_complete_run_does_nothing(config, tmp_path):
    train(config, tmp_path / "run")
    before = curve(tmp_path / "run"), weights(tmp_path / "run")
    result = train(None, tmp_path / "run", resume=True)
    assert (result.step, result.evaluation) == (6, None)
    assert (curve(tmp_path / "run"), weights(tmp_path / "run")) == before


def test_resume_needs_no_config_but_refuses_another(config, text, tmp_path):
    train(config, tmp_path / "run")
    before = contents(tmp_path / "run")
    changed = tiny_config(text, balance=BalanceConfig(switch=0.5))
    with pytest.raises(
        ValueError, match=r"^balance.switch: must be 0.01 as in the run, got 0.5; leave it out, or start"
    ):
        train(changed, tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == before


def test_resume_without_a_run_is_refused(config, tmp_path):
    with pytest.raises(
        RunError, match=r"^run: must be the folder of a run, got .*none without run.json and config.json"
    ):
        train(config, tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_an_existing_run_is_not_overwritten(config, tmp_path):
    train(config, tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(
        RunError, match=r"^out: must be a new folder, got the run in .*; add --resume or choose another$"
    ):
        train(config, tmp_path / "run")
    assert contents(tmp_path / "run") == before


def test_a_damaged_checkpoint_is_refused_and_the_one_before_serves(config, tmp_path):
    train(config, tmp_path / "run")
    whole = curve(tmp_path / "run"), weights(tmp_path / "run")
    path = tmp_path / "run/checkpoints/step-00000006/model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match=r"step-00000006: must be a whole .* remove that folder to resume from step 4$"):
        train(config, tmp_path / "run", resume=True)
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()
    train(config, tmp_path / "run", resume=True)
    assert (curve(tmp_path / "run"), weights(tmp_path / "run")) == whole


def test_a_disk_that_is_full_stops_the_run_and_leaves_the_checkpoint(config, tmp_path, monkeypatch):
    train(config, tmp_path / "whole")
    save = checkpoint.save_file

    def full(tensors, path):
        if "step-00000004" in str(path):
            raise OSError(28, "No space left on device")
        save(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(RunError, match=r"step-00000004: could not be written, got No space left on device; free space"):
        train(config, tmp_path / "run")
    assert RunFolder.open(tmp_path / "run").checkpoints.steps() == [2]
    monkeypatch.undo()
    train(config, tmp_path / "run", resume=True)
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def refused(changes, match, text, out, error=ValueError):
    with pytest.raises(error, match=match) as caught:
        train(tiny_config(text, **changes), out)
    assert "\n" not in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"data": DataConfig(sources=("/nowhere",))}, "data: must be a file, a folder"),
        ({"data": DataConfig(tokenizer=BPETokenizerConfig(vocab_size=300))}, "model.vocab_size: must be at least the "),
        ({"model": tiny_model(TopKRouterConfig(k=5))}, "k: must be in 1..num_experts, got k=5 with num_experts=4; "),
        ({"device": "nonsense"}, "device: must be one that torch can use, got 'nonsense' "),
    ],
)
def test_what_is_refused_leaves_nothing_behind(changes, match, text, tmp_path):
    if "data" in changes and changes["data"].sources == ("builtin",):
        changes = {"data": DataConfig(sources=(str(text),), tokenizer=changes["data"].tokenizer)}
    refused(changes, match, text, tmp_path / "run")


def test_an_empty_corpus_leaves_nothing_behind(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    refused({}, "data: must hold text, got none in ", tmp_path / "empty.txt", tmp_path / "run")


def test_a_data_error_of_the_system_is_one_line(config, tmp_path, monkeypatch):
    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sparsemix.train.start.prepare", full)
    refused({}, "data: could not be prepared, got .*No space left on device; free space", "x", tmp_path / "run")


def test_starts_from_another_run(text, tmp_path):
    train(tiny_config(text, steps=20), tmp_path / "first")
    train(tiny_config(text, steps=2, seed=3), tmp_path / "second", init=tmp_path / "first")
    fresh = tiny_config(text, steps=2, seed=3)
    train(fresh, tmp_path / "fresh")
    assert curve(tmp_path / "second")[0]["loss"] < curve(tmp_path / "fresh")[0]["loss"] - 0.5
    assert RunFolder.open(tmp_path / "second").facts()["init"] == {"run": str(tmp_path / "first"), "step": 20}


def test_a_run_that_began_with_another_is_resumed_without_its_first_checkpoint(text, tmp_path):
    train(tiny_config(text), tmp_path / "first")
    config = tiny_config(text, steps=2, seed=3)
    train(config, tmp_path / "whole", init=tmp_path / "first")
    with pytest.raises(Crash):
        train(config, tmp_path / "crashed", init=tmp_path / "first", observers=at_step(1, crash))
    train(config, tmp_path / "crashed", resume=True)
    assert curve(tmp_path / "crashed") == curve(tmp_path / "whole")


def test_the_tokenizer_comes_with_the_weights(text, tmp_path):
    data = DataConfig(sources=(str(text),), tokenizer=BPETokenizerConfig(vocab_size=280), held_out=0.1)
    model = tiny_model(vocab_size=280)
    train(tiny_config(model=model, data=data), tmp_path / "first")
    other = write_text(tmp_path / "other", 3)
    (other / "0.txt").write_text("entirely different words here " * 50)
    data = DataConfig(sources=(str(other),), tokenizer=BPETokenizerConfig(vocab_size=280), held_out=0.1)
    train(tiny_config(model=model, data=data, steps=2), tmp_path / "second", init=tmp_path / "first")
    first, second = (load_run(tmp_path / name).tokenizer.fingerprint for name in ("first", "second"))
    assert first == second


def test_weights_of_another_shape_are_refused(config, text, tmp_path):
    train(config, tmp_path / "first")
    wider = tiny_model(moe=MoEConfig(num_experts=4, experts=GLUExpertsConfig(hidden=12)))
    with pytest.raises(ValueError, match=r"^weights: .* must have shape .*, got .*; use the same model config$"):
        train(tiny_config(text, model=wider), tmp_path / "second", init=tmp_path / "first")
    assert not (tmp_path / "second").exists()


def test_init_must_be_a_run(config, tmp_path):
    with pytest.raises(RunError, match="run: must be the folder of a run"):
        train(config, tmp_path / "run", init=tmp_path)
    with pytest.raises(ValueError, match="init: must not be given with resume"):
        train(config, tmp_path / "run", init=tmp_path, resume=True)
    assert not (tmp_path / "run").exists()


def test_without_held_out_text_there_is_no_evaluation(text, tmp_path):
    result = train(tiny_config(text, data=DataConfig(sources=(str(text),), held_out=0)), tmp_path / "run")
    assert result.evaluation is None
    assert not any("evaluation" in one for one in curve(tmp_path / "run"))


def test_warns_of_routers_that_nothing_balances(text, tmp_path, caplog):
    train(tiny_config(text, balance=BalanceConfig(switch=0, z=0), steps=1), tmp_path / "run")
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage().startswith("routers of blocks 0, 1 get no balance gradient")
    assert "\n" not in record.getMessage()


def test_is_quiet_where_all_is_well(config, tmp_path, caplog, capfd):
    train(config, tmp_path / "run")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert capfd.readouterr() == ("", "")


def test_warns_when_a_run_goes_on_under_other_circumstances(config, tmp_path, caplog):
    train(config, tmp_path / "run")
    path = tmp_path / "run/run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"torch": "2.10.0"}))
    train(config, tmp_path / "run", resume=True)
    assert f"resumed with torch 2.10.0 -> {torch.__version__}: losses may differ" in caplog.text


def test_who_multiplies_matrices_is_one_of_these_circumstances(config, tmp_path, caplog, monkeypatch):
    train(config, tmp_path / "run")
    other = not onednn_is_faster()
    monkeypatch.setattr("sparsemix.train.facts.onednn_is_faster", lambda: other)
    train(config, tmp_path / "run", resume=True)
    assert f"resumed with onednn {not other} -> {other}: losses may differ" in caplog.text


def test_a_run_of_an_older_version_goes_on(config, tmp_path, monkeypatch):
    """As if the next version had renamed a key of the config and of a checkpoint's state."""
    train(config, tmp_path / "whole")
    with pytest.raises(Crash):
        train(config, tmp_path / "run", observers=at_step(5, crash))
    path = tmp_path / "run/config.json"
    path.write_text(to_json(config).replace('"clip_norm"', '"clip"'))

    def rename(kind, document):
        return {("clip_norm" if name == "clip" else name): value for name, value in document.items()}

    monkeypatch.setattr(versions, "FORMAT_VERSION", 2)
    monkeypatch.setattr(versions, "MIGRATIONS", {1: rename})
    train(config, tmp_path / "run", resume=True)
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")


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
    config = tiny_config(text, max_skipped=1, balance=BalanceConfig(switch=1e38, z=1e38))
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
