"""From a folder of text to generated text, by the command as a user types it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cli.conftest import TINY, command, write_text

from sparsemix.cli.train import read
from sparsemix.config import read_json
from sparsemix.runs import read_metrics
from sparsemix.train import TrainConfig, load_run


def test_train(trained_once):
    _, run, answer = trained_once
    assert answer.code == 0, answer.err
    metrics = read_metrics(run / "metrics.jsonl")
    assert [one["step"] for one in metrics] == [1, 2, 3, 4, 5, 6]
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    last = metrics[-1]["evaluation"]["bits_per_byte"]
    assert answer.out == f"run: 6 of 6 steps done, {last:.4f} bits per byte held out\n"
    assert "step 3:" in answer.err  # evaluations pass by
    assert "Traceback" not in answer.err


def test_the_resolved_config_lies_beside_the_run(trained_once):
    stored = read_json(TrainConfig, trained_once.run / "config.json")
    assert stored == read(["--out", "x", "--data", str(trained_once.text), *TINY]).resolved
    assert stored.model.dim == 16


def test_the_same_command_gives_the_same_run(trained, sparsemix):
    answer = sparsemix("train", "--out", "again", "--data", trained.text, *TINY)
    assert answer.out == trained.answer.out.replace("run:", "again:")
    losses = [[one["loss"] for one in read_metrics(Path(run, "metrics.jsonl"))] for run in ("run", "again")]
    assert losses[0] == losses[1]


def test_eval_says_what_training_said(trained, sparsemix):
    found = json.loads(sparsemix("eval", trained.run, "--json").out)
    said = read_metrics(trained.run / "metrics.jsonl")[-1]["evaluation"]
    assert found["step"] == 6
    assert found["loss"] == said["loss"]
    assert found["bits_per_byte"] == said["bits_per_byte"]
    assert {name: score["bits_per_byte"] for name, score in found["domains"].items()} == said["domains"]
    assert set(found["domains"]) == {"md", "txt"}
    assert found["tokens"] == sum(score["tokens"] for score in found["domains"].values())


def test_eval_for_people(trained, sparsemix):
    answer = sparsemix("eval", trained.run)
    assert answer.code == 0
    total = read_metrics(trained.run / "metrics.jsonl")[-1]["evaluation"]["bits_per_byte"]
    row = next(line for line in answer.out.splitlines() if " all " in line)
    assert f"{total:.4f}" in row


def test_eval_of_other_text_counts_all_of_it(trained, sparsemix):
    Path("other.txt").write_text("the router sends " * 30)
    Path("one.jsonl").write_text('{"text": "zzzz qqqq"}\n')
    answer = sparsemix("eval", trained.run, "--data", "other.txt", "one.jsonl", "--eval-tokens", "9999", "--json")
    found = json.loads(answer.out)
    sizes = {name: score["bytes"] for name, score in found["domains"].items()}
    assert sizes == {"other.txt": 17 * 30, "one.jsonl": 9}
    assert found["domains"]["other.txt"]["loss"] < found["domains"]["one.jsonl"]["loss"]
    fewer = json.loads(sparsemix("eval", trained.run, "--data", "other.txt", "--eval-tokens", "64", "--json").out)
    assert fewer["tokens"] == 64


def test_generate(trained, sparsemix, tmp_path):
    args = ["generate", trained.run, "--prompt", "the", "--max-new-tokens", "20"]
    first = sparsemix(*args)
    assert first.code == 0
    assert first.out.startswith("the")
    assert len(first.out) > 4
    assert sparsemix(*args, "--seed", "0").out == first.out
    assert sparsemix(*args, "--seed", "1").out != first.out
    assert command(*args, cwd=tmp_path).out == first.out


def test_generate_for_several_prompts(trained, sparsemix):
    prompts = ["--prompt", "the", "--prompt", "a small", "--num-samples", "2"]
    settings = ["--max-new-tokens", "12", "--temperature", "0.8", "--top-k", "9", "--top-p", "0.9", "--seed", "3"]
    found = json.loads(sparsemix("generate", trained.run, *prompts, *settings, "--json").out)
    assert [one["prompt"] for one in found] == ["the", "the", "a small", "a small"]
    assert found[0]["text"] != found[1]["text"]
    alone = sparsemix("generate", trained.run, "--prompt", "the", *settings).out
    assert alone == f"the{found[0]['text']}\n"
    for_people = sparsemix("generate", trained.run, *prompts, *settings).out
    assert for_people.startswith(f"--- 1 of 4\nthe{found[0]['text']}\n--- 2 of 4\nthe")


def test_generate_stops(trained, sparsemix):
    settings = ["--max-new-tokens", "20", "--temperature", "0"]
    whole = json.loads(sparsemix("generate", trained.run, "--prompt", "the", *settings, "--json").out)[0]["text"]
    stop = whole[4:6]
    answer = sparsemix("generate", trained.run, "--prompt", "the", *settings, "--stop", "never", stop)
    assert answer.out == f"the{whole[: whole.find(stop)]}\n"


def test_info(trained, sparsemix):
    facts = json.loads(sparsemix("info", trained.run, "--json").out)
    assert facts["steps_done"] == 6
    assert facts["parameters_total"] == sum(p.numel() for p in load_run(trained.run).model.parameters())


def test_a_run_that_is_complete_stays_as_it_is(trained, sparsemix):
    before = (trained.run / "metrics.jsonl").read_text()
    answer = sparsemix("train", "--out", trained.run, "--resume")
    assert (answer.code, answer.out) == (0, "run: 6 of 6 steps done\n")
    assert (trained.run / "metrics.jsonl").read_text() == before


def test_init_starts_from_another_runs_weights(trained, sparsemix):
    answer = sparsemix("train", "--init", trained.run, "--out", "next", "--steps", "1", "--optimizer.lr", "1e-9")
    assert answer.code == 0
    old, new = load_run(trained.run), load_run(Path("next"))
    assert (old.step, new.step) == (6, 1)
    assert new.tokenizer.fingerprint == old.tokenizer.fingerprint
    for name, parameter in old.model.named_parameters():
        if name.endswith(("query.weight", "gate_up_EFD")):  # matrices, which that learning rate does not move
            torch.testing.assert_close(parameter, new.model.get_parameter(name), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_signals_save_and_leave(tmp_path):
    write_text(tmp_path / "text")
    start = ["train", "--out", "run", "--data", "text", *TINY, "--steps", "100000", "--checkpoint-every", "100000"]
    for number, code, args in [
        (signal.SIGTERM, 143, start),
        (signal.SIGINT, 130, ["train", "--out", "run", "--resume"]),
    ]:
        metrics = tmp_path / "run" / "metrics.jsonl"
        before = len(read_metrics(metrics))
        line = [sys.executable, "-m", "sparsemix.cli", *args]
        process = subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and len(read_metrics(metrics)) < before + 3:
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, err
        done = read_metrics(metrics)[-1]["step"]
        assert done >= before + 3
        assert f"stopped by {number.name} after step {done} of 100000; go on with --resume" in " ".join(err.split())
        assert out.splitlines()[-1] == "go on with: sparsemix train --out run --resume"
        assert load_run(tmp_path / "run").step == done
