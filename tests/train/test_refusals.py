"""Runs that are refused in one line, and leave everything as it was."""

import pytest
from train.examples import contents, tiny_config, tiny_model

from sparsemix.balance import DeviceLoss, LoadLoss, ZLoss
from sparsemix.data import BPETokenizerConfig
from sparsemix.experts import GLUExpertsConfig
from sparsemix.layer import MoEConfig
from sparsemix.routers import HashRouterConfig, TopKRouterConfig
from sparsemix.runs import RunError
from sparsemix.train import BalanceConfig, DataConfig, train


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
        ({"balance": BalanceConfig(losses=(LoadLoss(),))}, "load_loss: needs routing.load_TE, got None; use a router "),
        ({"balance": BalanceConfig(losses=(DeviceLoss(num_devices=3),))}, "num_devices: must divide the 4 experts, "),
        (
            {"model": tiny_model(HashRouterConfig(vocab_size=257)), "balance": BalanceConfig(losses=(ZLoss(),))},
            "z_loss: needs routing.logits_TE, got None; ",
        ),
        (
            {"model": tiny_model(HashRouterConfig(vocab_size=256))},
            "info.id_T: must be in 0..vocab_size - 1, got 241..256 ",
        ),
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


def test_an_existing_run_is_not_overwritten(config, tmp_path):
    train(config, tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(
        RunError, match=r"^out: must be a new folder, got the run in .*; add --resume or choose another$"
    ):
        train(config, tmp_path / "run")
    assert contents(tmp_path / "run") == before


def test_resume_without_a_run_is_refused(config, tmp_path):
    with pytest.raises(
        RunError, match=r"^run: must be the folder of a run, got .*none without run.json and config.json"
    ):
        train(config, tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_resume_needs_no_config_but_refuses_another(config, text, tmp_path):
    train(config, tmp_path / "run")
    before = contents(tmp_path / "run")
    changed = tiny_config(text, balance=BalanceConfig(losses=(ZLoss(weight=0.5),)))
    with pytest.raises(
        ValueError,
        match=r"^balance.losses: must be None as in the run, got \[{'type': 'z', .*\]; leave it out",
    ):
        train(changed, tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == before


def test_weights_of_another_shape_are_refused(config, text, tmp_path):
    train(config, tmp_path / "first")
    wider = tiny_model(moe=MoEConfig(num_experts=4, experts=GLUExpertsConfig(hidden=12)))
    with pytest.raises(ValueError, match=r"^weights: blocks.* must have shape .*, got .*; .* correct its config$"):
        train(tiny_config(text, model=wider), tmp_path / "second", init=tmp_path / "first")
    assert not (tmp_path / "second").exists()


def test_init_must_be_a_run_or_a_model(config, tmp_path):
    with pytest.raises(ValueError, match="path: must be the folder of a run or of a model"):
        train(config, tmp_path / "run", init=tmp_path)
    with pytest.raises(ValueError, match="init: must not be given with resume"):
        train(config, tmp_path / "run", init=tmp_path, resume=True)
    assert not (tmp_path / "run").exists()
