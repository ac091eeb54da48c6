"""Training as a real process, killed for real."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
from train.examples import BIASED, NOISY, tiny_config, write_text
from train.train_process import run

from sparsemix.config import to_json
from sparsemix.runs import read_metrics

STEPS = 60
pytestmark = pytest.mark.slow


@pytest.fixture(params=[NOISY, BIASED], ids=["noise", "bias"])
def config(request, tmp_path):
    config = tiny_config(
        write_text(tmp_path / "text"),
        model=request.param,
        steps=STEPS,
        accumulate=2,
        evaluate_every=7,
        checkpoint_every=5,
    )
    path = tmp_path / "config.json"
    path.write_text(to_json(config))
    return path


class Training:
    """A process that trains; it is forked from a server that has imported torch already."""

    def __init__(self, config: Path, out: Path, **settings):
        self.out, self.log = out, out.with_suffix(".log")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch._dynamo", "sparsemix.train"])
        self.process = context.Process(target=run, args=(config, out, self.log), kwargs=settings)
        self.process.start()

    def wait_for_step(self, step: int) -> None:
        while self.process.is_alive() and not any(
            one["step"] >= step for one in read_metrics(self.out / "metrics.jsonl")
        ):
            time.sleep(0.001)

    def kill(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def end(self, code: int = 0) -> str:
        """What it said, once it is at its end with this exit code."""
        self.process.join(120)
        output = self.log.read_text()
        assert self.process.exitcode == code, output
        return output


def curve(out: Path) -> list[dict]:
    """Every number but wall-clock time."""
    return [
        {name: value for name, value in one.items() if name != "seconds"} for one in read_metrics(out / "metrics.jsonl")
    ]


def weights(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / f"checkpoints/step-{STEPS:08}").glob("*.safetensors")}


def test_killed_at_random_steps_and_resumed_it_is_the_same_run(config, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    Training(config, whole).end()
    choose, step = random.Random(), 0
    for number in range(3):
        training = Training(config, killed, resume=number > 0)
        step = choose.randint(step + 1, step + STEPS // 4)
        training.wait_for_step(step)
        time.sleep(choose.random() * 0.02)
        training.kill(signal.SIGKILL)
        training.end(-signal.SIGKILL)
    Training(config, killed, resume=True).end()
    assert [one["step"] for one in curve(whole)] == list(range(1, STEPS + 1))
    assert curve(killed) == curve(whole)
    assert weights(killed) == weights(whole)
    assert len(weights(whole)) == 2


def test_two_processes_give_the_same_bits(config, tmp_path):
    for name in ("a", "b"):
        Training(config, tmp_path / name).end()
    assert curve(tmp_path / "a") == curve(tmp_path / "b")
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves_with_a_message(config, tmp_path, number):
    out = tmp_path / "run"
    training = Training(config, out)
    training.wait_for_step(3)
    training.kill(number)
    output = training.end()
    last = curve(out)[-1]["step"]
    assert 3 <= last < STEPS
    assert f"stopped by {number.name} after step {last} of {STEPS}; go on with --resume" in output
    assert json.loads((out / f"checkpoints/step-{last:08}/state.json").read_text())["step"] == last
    Training(config, out, resume=True).end()
    assert [one["step"] for one in curve(out)] == list(range(1, STEPS + 1))


def test_disk_full_leaves_the_checkpoint_before_and_goes_on_when_there_is_room(config, tmp_path):
    out = tmp_path / "run"
    training = Training(config, out)
    training.wait_for_step(12)
    training.kill(signal.SIGKILL)
    training.end(-signal.SIGKILL)
    whole = sorted(path for path in (out / "checkpoints").glob("step-*") if not path.suffix)
    before = {path: path.read_bytes() for folder in whole for path in folder.iterdir()}
    output = Training(config, out, resume=True, limit=40_000).end()
    assert "refused: " in output
    assert "could not be written, got" in output
    assert "Traceback" not in output
    assert {
        path: path.read_bytes() for folder in (out / "checkpoints").iterdir() for path in folder.iterdir()
    } == before
    Training(config, out, resume=True).end()
    assert [one["step"] for one in curve(out)] == list(range(1, STEPS + 1))
