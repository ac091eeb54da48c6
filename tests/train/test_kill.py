"""Training as a real process, killed for real."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from train.examples import tiny_config, tiny_model, write_text

from sparsemix.config import to_json
from sparsemix.routers import TopKRouterConfig
from sparsemix.runs import read_metrics

STEPS = 60
pytestmark = pytest.mark.slow


@pytest.fixture
def config(tmp_path):
    """Noise in forward and a selection bias: everything that a checkpoint must bring back."""
    config = tiny_config(
        write_text(tmp_path / "text"),
        model=tiny_model(TopKRouterConfig(k=2, noise=True, bias=True)),
        steps=STEPS,
        accumulate=2,
        evaluate_every=7,
        checkpoint_every=5,
    )
    path = tmp_path / "config.json"
    path.write_text(to_json(config))
    return path


def start(config: Path, out: Path, *flags: str) -> subprocess.Popen:
    script = Path(__file__).parent / "train_process.py"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(script), str(config), str(out), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def wait_for_step(process: subprocess.Popen, out: Path, step: int) -> None:
    while process.poll() is None and not any(one["step"] >= step for one in read_metrics(out / "metrics.jsonl")):
        time.sleep(0.002)


def curve(out: Path) -> list[dict]:
    """Every number but wall-clock time."""
    return [{name: value for name, value in one.items() if name != "seconds"} for one in read_metrics(out / "metrics.jsonl")]


def weights(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / f"checkpoints/step-{STEPS:08}").glob("*.safetensors")}


def test_killed_at_random_steps_and_resumed_it_is_the_same_run(config, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(config, whole))
    choose, step = random.Random(), 0
    for number in range(3):
        process = start(config, killed, *(["--resume"] if number else []))
        step = choose.randint(step + 1, step + STEPS // 4)
        wait_for_step(process, killed, step)
        time.sleep(choose.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL, output
    output = finish(start(config, killed, "--resume"))
    assert [one["step"] for one in curve(whole)] == list(range(1, STEPS + 1))
    assert curve(killed) == curve(whole), output
    assert weights(killed) == weights(whole)
    assert len(weights(whole)) == 2


def test_two_processes_give_the_same_bits(config, tmp_path):
    processes = [start(config, tmp_path / name) for name in ("a", "b")]
    for process in processes:
        finish(process)
    assert curve(tmp_path / "a") == curve(tmp_path / "b")
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves_with_a_message(config, tmp_path, number):
    out = tmp_path / "run"
    process = start(config, out)
    wait_for_step(process, out, 3)
    process.send_signal(number)
    output = finish(process)
    last = curve(out)[-1]["step"]
    assert 3 <= last < STEPS
    assert f"stopped by {number.name} after step {last} of {STEPS}; go on with --resume" in output
    assert json.loads((out / f"checkpoints/step-{last:08}/state.json").read_text())["step"] == last
    finish(start(config, out, "--resume"))
    assert [one["step"] for one in curve(out)] == list(range(1, STEPS + 1))


def test_disk_full_leaves_the_checkpoint_before_and_goes_on_when_there_is_room(config, tmp_path):
    out = tmp_path / "run"
    process = start(config, out)
    wait_for_step(process, out, 12)
    process.kill()
    process.communicate()
    (before,) = [sorted(path.name for path in (out / "checkpoints").glob("step-*") if path.suffix == "")][-1:]
    output = finish(start(config, out, "--resume", "--limit", "40000"))
    assert "refused: " in output
    assert "could not be written, got" in output
    assert "Traceback" not in output
    found = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert found == [name for name in before if name in found] != []
    finish(start(config, out, "--resume"))
    assert [one["step"] for one in curve(out)] == list(range(1, STEPS + 1))
