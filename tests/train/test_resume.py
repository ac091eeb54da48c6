"""Runs that stop and go on as if they had not, and runs that begin with the weights of others."""

import io
import json
import os
import signal

import pytest
import torch
from rich.console import Console
from train.examples import Crash, at_step, crash, curve, stateful, tiny_config, tiny_model, weights, write_text

from sparsemix.config import to_json
from sparsemix.data import BPETokenizerConfig
from sparsemix.kernels import onednn_is_faster
from sparsemix.runs import RunError, RunFolder, checkpoint, read_metrics, versions
from sparsemix.train import DataConfig, load_run, train


@stateful
@pytest.mark.parametrize("crashed", [1, 2, 3, 5, 6])
def test_crashed_and_resumed_it_is_the_same_run(text, tmp_path, crashed, model):
    config = tiny_config(text, model=model, accumulate=2)
    train(config, tmp_path / "whole")
    with pytest.raises(Crash):
        train(config, tmp_path / "crashed", observers=at_step(crashed, crash))
    result = train(config, tmp_path / "crashed", resume=True)
    assert result.step == 6
    assert curve(tmp_path / "crashed") == curve(tmp_path / "whole")
    assert weights(tmp_path / "crashed") == weights(tmp_path / "whole") != {}
    seconds = [one["seconds"] for one in read_metrics(tmp_path / "crashed/metrics.jsonl")]
    assert seconds == sorted(seconds)


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

    now = versions.FORMAT_VERSION
    monkeypatch.setattr(versions, "FORMAT_VERSION", now + 1)
    monkeypatch.setattr(versions, "MIGRATIONS", {now: rename})
    train(config, tmp_path / "run", resume=True)
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")


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
