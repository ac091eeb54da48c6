"""What `sparsemix train` makes of its arguments: flags over files over runs over defaults."""

from dataclasses import replace
from pathlib import Path

import pytest
from cli.conftest import TINY, write_text

from sparsemix.balance import ImportanceLoss, LoadLoss, ZLoss
from sparsemix.cli.train import read
from sparsemix.config import read_json, to_json
from sparsemix.data import BPETokenizerConfig
from sparsemix.routers import CapacityConfig, NoisyTopKRouterConfig
from sparsemix.train import AdamWConfig, DataConfig, TrainConfig


def resolved(*args):
    return read(["--out", "new", *map(str, args)]).resolved


def test_without_flags_it_is_the_defaults():
    assert resolved() == TrainConfig()


def test_the_short_flags():
    config = resolved(
        *("--data", "a", "b", "--data", "c", "--weights", 1, 2, 3, "--steps", 5, "--batch-size", 2, "--seed", 7),
        *("--sequence-length", 9, "--device", "cpu", "--dtype", "float32", "--compile", "--activation-checkpointing"),
    )
    assert config == TrainConfig(
        data=DataConfig(sources=("a", "b", "c"), weights=(1, 2, 3)),
        steps=5,
        batch_size=2,
        seed=7,
        sequence_length=9,
        device="cpu",
        dtype="float32",
        compile=True,
        activation_checkpointing=True,
    )


def test_weights_fit_the_data_they_are_given_with():
    with pytest.raises(ValueError, match="DataConfig: weights: must be one for each of the 2 sources, got 1 weights"):
        resolved("--data", "a", "b", "--weights", 1)


def test_flags_override_the_file(tmp_path):
    saved = TrainConfig(
        steps=5, seed=3, optimizer=AdamWConfig(lr=0.5), data=DataConfig(sources=("x", "y"), weights=(1, 2))
    )
    path = tmp_path / "config.json"
    path.write_text(to_json(saved))
    assert resolved("--config", path) == saved
    changed = resolved("--config", path, "--steps", 6, "--optimizer.beta1", 0.5)
    assert changed == replace(saved, steps=6, optimizer=replace(saved.optimizer, beta1=0.5))
    # weights belong to the sources they were given for
    assert resolved("--config", path, "--data", "z").data == DataConfig(sources=("z",))


def test_another_kind_of_part_brings_its_flags():
    config = resolved("--data.tokenizer.type", "bpe", "--data.tokenizer.vocab-size", 300, "--model.vocab-size", 300)
    assert config.data.tokenizer == BPETokenizerConfig(vocab_size=300)


def test_resume_and_init_go_by_the_config_of_the_run(trained):
    stored = read_json(TrainConfig, trained.run / "config.json")
    assert stored != TrainConfig()
    assert read(["--out", str(trained.run), "--resume"]).resolved == stored
    assert resolved("--init", trained.run, "--seed", 9) == replace(stored, seed=9)


def test_a_file_goes_before_the_run(trained, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(to_json(TrainConfig(steps=77)))
    given = read(["--out", "new", "--init", str(trained.run), "--config", str(path)])
    assert given.resolved.steps == 77
    assert given.init == trained.run
    assert given.out == Path("new")


def test_a_run_with_another_router_its_capacity_and_losses_by_name(sparsemix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "text")
    router = [
        "--model.moe.router.type",
        "noisy_topk",
        "--model.moe.router.capacity.factor",
        2,
        "--model.moe.router.k",
        2,
    ]
    losses = ["--balance.losses", "load=0.2", "importance", "z=0", "--balance.scope", "global", "--accumulate", 2]
    flags = [*router, *losses, "--model.allow-leak", "--steps", 2]
    answer = sparsemix("train", "--data", "text", "--out", "run", *TINY, *flags)
    assert answer.code == 0, answer.err
    config = read_json(TrainConfig, Path("run/config.json"))
    assert config.model.moe.router == NoisyTopKRouterConfig(k=2, capacity=CapacityConfig(factor=2.0))
    assert config.balance.losses == (LoadLoss(weight=0.2), ImportanceLoss(), ZLoss(weight=0.0))
