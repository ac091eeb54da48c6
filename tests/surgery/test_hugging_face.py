"""Folders of transformers' go in and come out, and transformers computes the same from both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sparsemix.cli import main
from sparsemix.data import ByteTokenizerConfig
from sparsemix.interop import open_model

transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 264,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
DENSE = {
    "mixtral": transformers.LlamaConfig(**SIZES),
    "qwen3_moe": transformers.Qwen3Config(**SIZES, head_dim=8),
}
SPARSE = {
    "mixtral": transformers.MixtralConfig(**SIZES, num_local_experts=4, sliding_window=None),
    "olmoe": transformers.OlmoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2),
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """A folder to work in, with some text."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("an expert is a small network, and a router sends tokens to experts. " * 20)
    return tmp_path


def twin(config) -> Path:
    """A random model in a folder, all of whose weights are of some size, with a tokenizer of bytes."""
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    model.save_pretrained("before")
    ByteTokenizerConfig().build([]).save(Path("before/tokenizer.json"))
    return Path("before")


@torch.no_grad()
def logits(folder: Path) -> torch.Tensor:
    model, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()(torch.arange(48).view(3, 16)).logits


def surgery(*words: str) -> None:
    assert main(["surgery", *words, "--out", "after", "--text", "text.txt", "--tokens", "128"]) == 0


@pytest.mark.parametrize("family", DENSE)
def test_a_dense_model_becomes_the_mixture_of_its_family(family, capsys) -> None:
    before = logits(twin(DENSE[family]))
    surgery("upcycle", "before", "--num-experts", "4", "--json")
    assert json.loads(Path("after/config.json").read_text())["model_type"] == family
    assert json.loads(capsys.readouterr().out)["family"] == family
    torch.testing.assert_close(logits(Path("after")), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", SPARSE)
def test_a_mixture_is_split_within_its_family(family) -> None:
    before = logits(twin(SPARSE[family]))
    surgery("split", "before", "--num-shards", "2")
    config = transformers.AutoConfig.from_pretrained("after")
    assert (config.model_type, config.num_experts_per_tok, config.intermediate_size) == (family, 4, 12)
    torch.testing.assert_close(logits(Path("after")), before, atol=1e-5, rtol=1e-5)


def test_a_folder_remembers_earlier_edits() -> None:
    twin(DENSE["mixtral"])
    surgery("upcycle", "before", "--num-experts", "4")
    Path("after").rename("between")
    surgery("split", "between")
    assert [edit["verb"] for edit in json.loads(Path("after/surgery.json").read_text())] == ["upcycle", "split"]


def test_a_record_that_is_damaged_is_refused(capsys) -> None:
    (twin(SPARSE["mixtral"]) / "surgery.json").write_text("[")
    assert main(["surgery", "split", "before", "--out", "after", "--text", "text.txt"]) == 2
    assert "before/surgery.json: must be JSON, got " in capsys.readouterr().err
    assert not Path("after").exists()


def test_what_no_family_can_say_is_written_in_our_own_format() -> None:
    twin(SPARSE["mixtral"])
    surgery("add-null", "before", "--begin", "never")
    assert open_model(Path("after")).family == "sparsemix"


def test_copies_that_were_meant_are_no_fault(capsys):
    """A family's own files do not say that experts were copied; our record beside them does."""
    twin(DENSE["qwen3_moe"])
    flags = ["--num-experts", "4", "--text", "text.txt", "--tokens", "64"]
    assert main(["surgery", "upcycle", "before", "--out", "after", *flags]) == 0
    capsys.readouterr()
    assert main(["verify", "after", "--json", "--tokens", "16"]) == 0
    rows = json.loads(capsys.readouterr().out)["findings"]
    (row,) = (row for row in rows if row["check"] == "experts differ")
    assert row["passed"] is None
    Path("after/surgery.json").unlink()
    assert main(["verify", "after", "--tokens", "16"]) == 3
