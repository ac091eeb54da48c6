"""Folders of transformers' are walked, pruned and merged: what comes out is what transformers would make of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from interop.twins import CONFIGS, SHAPE, prompts, save, transformers, twin

from sparsemix.cli import main
from sparsemix.data import ByteTokenizerConfig
from sparsemix.interop import build, open_model
from sparsemix.surgery.walk import final_hidden, unembedder

MIXTURES = [name for name in CONFIGS if " " not in name and name not in ("llama", "mistral", "qwen2", "qwen3")]
BYTES = {**SHAPE, "vocab_size": 264}
SPARSE = {
    "mixtral": transformers.MixtralConfig(**BYTES, num_local_experts=5, num_experts_per_tok=2),
    "qwen3_moe": transformers.Qwen3MoeConfig(
        **BYTES, moe_intermediate_size=20, num_experts=5, num_experts_per_tok=2, norm_topk_prob=True
    ),
}


@pytest.mark.parametrize("name", MIXTURES)
@torch.no_grad()
def test_the_walk_computes_what_transformers_does(name, tmp_path) -> None:
    theirs = twin(name)
    model = open_model(save(theirs, tmp_path / "model"))
    (hidden_BSD,) = final_hidden(model, [prompts()])
    expected = theirs(prompts()).logits
    torch.testing.assert_close(unembedder(model).logits(hidden_BSD), expected, atol=1e-4, rtol=1e-4)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Makes a folder with a random model and a tokenizer, to work beside."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("an expert is a small network, and a router sends tokens to experts. " * 20)

    def made(config, change=None):
        torch.manual_seed(1)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.3)
        if change is not None:
            change(model.state_dict())
        model.save_pretrained("before")
        ByteTokenizerConfig().build([]).save(Path("before/tokenizer.json"))
        return model.eval()

    return made


def surgery(verb: str, source: str, out: str, *words: str) -> dict:
    assert main(["surgery", verb, source, "--out", out, "--text", "text.txt", "--tokens", "128", *words]) == 0
    return json.loads(Path(out, "surgery.json").read_text())[-1]


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(torch.arange(48).view(3, 16)).logits


def per_expert(name: str) -> bool:
    return ".experts." in name or name.endswith("gate.weight")


@pytest.mark.parametrize("by", ["frequency", "reap", "naee"])
@pytest.mark.parametrize("family", SPARSE)
def test_pruned_it_is_the_model_of_its_family_with_these_experts(folder, family, by) -> None:
    before = folder(SPARSE[family])
    record = surgery("prune", "before", "after", "--keep", "3", "--by.type", by)
    after, report = transformers.AutoModelForCausalLM.from_pretrained("after", output_loading_info=True)
    assert not any(report.values()), report
    assert after.config.model_type == family
    kept = {int(layer): list(choice["kept"]) for layer, choice in record["decisions"]["layers"].items()}
    expected = transformers.AutoModelForCausalLM.from_config(after.config)
    for name, tensor in before.state_dict().items():
        rows = kept[int(name.split(".")[2])] if per_expert(name) else slice(None)
        expected.state_dict()[name].copy_(tensor[rows])
    torch.testing.assert_close(logits(after), logits(expected), atol=1e-5, rtol=1e-5)


def copy_experts(state: dict[str, torch.Tensor]) -> None:
    """Experts 3 and 4 become experts 0 and 1."""
    for name, tensor in state.items():
        if ".experts." in name:
            tensor[3:] = tensor[:2]


@pytest.mark.parametrize("family", SPARSE)
def test_equal_experts_are_merged_and_untied_without_loss(folder, family) -> None:
    before = folder(SPARSE[family], copy_experts)
    how = ("--keep", "3", "--similarity", "outputs", "--grouping", "hierarchical")
    record = surgery("merge-experts", "before", "merged", *how)
    assert record["exact"]
    for found in record["decisions"]["layers"].values():
        assert found["owner"][:2] == found["owner"][3:]
    assert open_model(Path("merged")).config.moe.experts.type == "tied"
    surgery("untie", "merged", "after")
    after = open_model(Path("after"))
    assert after.config == open_model(Path("before")).config  # and so their family can say it again
    decoder = build(after).eval()
    with torch.no_grad():
        found = decoder.logits(decoder(torch.arange(48).view(3, 16)).hidden_BSD)
    torch.testing.assert_close(found, logits(before), atol=1e-5, rtol=1e-5)
