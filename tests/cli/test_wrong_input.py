"""What is wrong is said in one line with exit code 2, and nothing is touched."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from cli.conftest import TINY, command, write_text

from sparsemix.config import to_json
from sparsemix.train import TrainConfig


def tree(folder):
    """Every file with its contents, every folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def weights():
    return Path("run/checkpoints/step-00000006/model.safetensors")


def truncated():
    weights().write_bytes(weights().read_bytes()[:-100])


def other_bytes():
    whole = bytearray(weights().read_bytes())
    whole[-1] ^= 1
    weights().write_bytes(whole)


def newer():
    facts = json.loads(Path("run/run.json").read_text())
    Path("run/run.json").write_text(json.dumps(facts | {"version": 99}))


def unknown_key():
    config = json.loads(to_json(TrainConfig()))
    config["optimizer"]["learning_rate"] = 1
    Path("config.json").write_text(json.dumps(config))


def no_json():
    Path("config.json").write_text("steps: 3")


def no_text():
    Path("empty").mkdir()
    Path("empty.txt").touch()


def no_checkpoint():
    shutil.rmtree("run/checkpoints")


def nothing():
    pass


TRAIN = "train --out new --data text"
CASES = [
    (nothing, "train --out new --data nowhere.txt", "data: must be a file, a folder, .*'nowhere.txt'"),
    (no_text, "train --out new --data empty", "data: must hold text, got none in 'empty'"),
    (no_text, "train --out new --data empty.txt", "data: must hold text, got none in 'empty.txt'"),
    (no_text, f"{TRAIN} empty.txt", "data: must hold text, got none in 'empty.txt'"),
    (
        nothing,
        f"{TRAIN} --sequence-length 256 --data.held-out 0.1 --model.context 99999 --sequence-length 90000",
        "seq",
    ),
    (nothing, f"{TRAIN} --model.moe.router.k 17", "k: must be in 1..num_experts, got k=17 with num_experts=16"),
    (nothing, f"{TRAIN} --model.vocab-size 99", "model.vocab_size: must be at least the 257 tokens"),
    (nothing, f"{TRAIN} --model.attention.num-heads 3", "DecoderConfig: num_heads: must divide dim"),
    (nothing, f"{TRAIN} --device abacus", "device: must be one that torch can use, got 'abacus'"),
    (nothing, f"{TRAIN} --steps many", "--steps: must be INT, got 'many'"),
    (nothing, f"{TRAIN} --stepps 3", "--stepps: must be a flag there is, got '--stepps'; did you mean --steps?"),
    (nothing, f"{TRAIN} --config nowhere.json", "nowhere.json: must be a readable config file"),
    (no_json, f"{TRAIN} --config config.json", "config.json: must be JSON, got"),
    (unknown_key, f"{TRAIN} --config config.json", "config.json: optimizer.muon.learning_rate: unknown key, got 1"),
    (nothing, "train --data text", "--out: must be given"),
    (nothing, "train --out text --data text", "out: must be a new or an empty folder, got text with other things"),
    (nothing, "train --out run --data text", "out: must be a new folder, got the run in run; add --resume"),
    (nothing, "train --out new --resume", "run: must be the folder of a run, got new without"),
    (nothing, "train --out run --resume --steps 7", "steps: must be 6 as in the run, got 7; leave it out"),
    (nothing, "train --out run --resume --init run", "init: must not be given with resume"),
    (truncated, "train --out run --resume", "run/checkpoints/step-00000006: must be a whole checkpoint"),
    (newer, "train --out run --resume", "run/run.json: format version must be in 1..2, got 99; update sparsemix"),
    (nothing, f"{TRAIN} --init text", "path: must be the folder of a run or of a model, with config.json, got text"),
    (nothing, f"{TRAIN} --init run --model.dim 32", "weights: embedding.weight: must have shape"),
    (truncated, f"{TRAIN} --init run", ".*run/checkpoints/step-00000006: must be a whole checkpoint"),
    (no_checkpoint, f"{TRAIN} --init run", "run: must have a checkpoint, got run without"),
    (truncated, "eval run", "run/checkpoints/step-00000006: must be a whole checkpoint, .*resume from step 4"),
    (other_bytes, "eval run", "run/checkpoints/step-00000006: must be a whole checkpoint"),
    (no_checkpoint, "eval run", "run: must have a checkpoint, got run without"),
    (newer, "eval run", "run/run.json: format version must be in 1..2, got 99"),
    (nothing, "eval text", "path: must be the folder of a run or of a model, with config.json, got text"),
    (nothing, "eval nowhere", "path: must be the folder of a run or of a model, with config.json, got nowhere"),
    (nothing, "eval run --data nowhere", "data: must be a file, a folder, .*'nowhere'"),
    (no_text, "eval run --data empty", "data: must hold text, got none in 'empty'"),
    (nothing, "eval run --eval-tokens 0", "eval_tokens: must be at least 1, got 0"),
    (nothing, "eval", "PATH: must be given, got nothing"),
    (truncated, "generate run --prompt a", "run/checkpoints/step-00000006: must be a whole checkpoint"),
    (newer, "generate run --prompt a", "run/run.json: format version must be in 1..2, got 99"),
    (nothing, f"generate run --prompt {'a' * 33} --max-new-tokens 1", r"prompts\[0\]: .*context=32, got 33 tokens"),
    (nothing, "generate run --prompt a --max-new-tokens 99", r"prompts\[0\]: .*got 1 tokens and max_new_tokens=99"),
    (nothing, "generate run --max-new-tokens 9 --temperature -1", "temperature: must be at least 0, got -1.0"),
    (nothing, "generate run --max-new-tokens 9 --num-samples 0", "num_samples: must be at least 1, got 0"),
    (nothing, "generate run --top-k few", "--top-k: must be INT, got 'few'"),
    (newer, "info run", "run/run.json: format version must be in 1..2, got 99"),
    (nothing, "info text", "path: must be the folder of a run or of a model, with config.json, got text"),
    (nothing, "info nowhere.json", "nowhere.json: must be a readable config file"),
    (unknown_key, "info config.json", "config.json: optimizer.muon.learning_rate: unknown key"),
    (nothing, "info --arch gpt-9", "arch: must be a known architecture, got 'gpt-9'; choose among mixtral-8x7b"),
]


@pytest.mark.parametrize(("spoil", "line", "expected"), CASES)
def test_one_line_and_nothing_touched(spoil, line, expected, sparsemix, trained, tmp_path, no_traceback_of):
    write_text(tmp_path / "text")
    spoil()
    before = tree(tmp_path)
    answer = sparsemix(*line.split())
    assert answer.code == 2
    assert answer.out == ""
    no_traceback_of(answer, expected)
    assert tree(tmp_path) == before


def test_the_same_from_a_process(trained, tmp_path, no_traceback_of):
    write_text(tmp_path / "text")
    before = tree(tmp_path)
    answer = command("train", "--out", "new", "--data", "text", *TINY, "--model.moe.router.k", "5", cwd=tmp_path)
    assert (answer.code, answer.out) == (2, "")
    no_traceback_of(answer, "k: must be in 1..num_experts, got k=5 with num_experts=4; lower k or add experts$")
    assert tree(tmp_path) == before
