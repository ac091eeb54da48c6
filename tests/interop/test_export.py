"""What is exported loads in transformers and in ours, and is the same model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from interop.hf_cases import logits_of
from models.examples import MOE, random_tokens, small_config
from safetensors import safe_open

from sparsemix import DepthConfig, MLPExpertsConfig
from sparsemix.data import BPETokenizerConfig, Tokenizer
from sparsemix.data.tokenizer import END_ID
from sparsemix.inference import generate
from sparsemix.interop import StoredModel, build, export_model, open_model
from sparsemix.interop.hf_model import SparsemixForCausalLM, register
from sparsemix.models import AttentionConfig
from sparsemix.tensors import Held

transformers = pytest.importorskip("transformers")
register()

TEXT = "the router sends each token to a few experts, and an expert is a small network\n"
QWEN3 = {"attention": AttentionConfig(num_heads=4, num_kv_heads=2, qk_norm="head")}
OURS = {"moe": replace(MOE, experts=MLPExpertsConfig(hidden=12, activation="relu2"))}
FORMATS = {"of a family": (QWEN3, "qwen3_moe"), "of our own": (OURS, "sparsemix")}


@pytest.fixture
def tokenizer(tmp_path) -> Path:
    BPETokenizerConfig(vocab_size=280).build([TEXT] * 4).save(tmp_path / "tokenizer.json")
    return tmp_path / "tokenizer.json"


def stored(tokenizer: Path, **changes) -> StoredModel:
    config = small_config(vocab_size=280, dense_first=0, ffn=None, **changes)
    facts = {
        "steps": 12,
        "tokens": 3456,
        "data": ["books", "hf:some/name"],
        "evaluation": {"loss": 1.5, "bits_per_byte": 0.75},
        "started_with": {"sparsemix": "0.1.0", "torch": "2.13.0", "seed": 3},
    }
    return StoredModel(config, Held(config.build(seed=1).state_dict()), "sparsemix", (tokenizer,), facts)


@pytest.mark.parametrize(("changes", "family"), FORMATS.values(), ids=FORMATS)
def test_transformers_loads_it_and_generates_as_we_do(tmp_path, tokenizer, changes, family):
    model = stored(tokenizer, **changes)
    assert export_model(model, tmp_path / "out") == family
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert isinstance(theirs, SparsemixForCausalLM) is (family == "sparsemix")
    ours = build(model).eval()
    prompts = random_tokens(5, 7, vocab_size=256)
    with torch.no_grad():
        torch.testing.assert_close(theirs(prompts).logits, logits_of(ours, prompts), rtol=1e-5, atol=1e-5)
    found = theirs.generate(prompts, max_new_tokens=50, do_sample=False, eos_token_id=None)
    assert found[:, 7:].tolist() == generate(ours, prompts.tolist(), max_new_tokens=50, temperature=0)


@pytest.mark.parametrize(("changes", "family"), FORMATS.values(), ids=FORMATS)
def test_what_comes_back_is_what_went_out(tmp_path, tokenizer, changes, family):
    model = stored(tokenizer, **changes)
    export_model(model, tmp_path / "once")
    back = open_model(tmp_path / "once")
    unsaid = {"init": back.config.init, "ffn": back.config.ffn}  # by which nothing is computed
    assert back.config == replace(model.config, **unsaid)
    assert back.family == family
    assert {name: back.tensors.read(name).tolist() for name in back.tensors.specs} == {
        name: model.tensors.read(name).tolist() for name in model.tensors.specs
    }
    export_model(back, tmp_path / "twice")
    for file in (tmp_path / "once").iterdir():
        if file.name != "README.md":  # which tells of training what only our own format keeps
            assert (tmp_path / "twice" / file.name).read_bytes() == file.read_bytes(), file.name


def test_the_tokenizer_goes_along(tmp_path, tokenizer):
    model = stored(tokenizer, **QWEN3)
    export_model(model, tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ours = Tokenizer.load(tokenizer)
    for text in (TEXT, "naïve  日本語\n\n\t x", "ROUTER's 123"):
        found = theirs(text)
        assert set(found) == {"input_ids", "attention_mask"}
        assert found["input_ids"] == ours.encode(text)
        assert theirs.decode(found["input_ids"]) == text
    assert theirs.eos_token_id == theirs.pad_token_id == END_ID
    assert theirs.bos_token_id is None
    assert theirs.model_max_length == 64
    padded = theirs(["the router", "the"], return_tensors="pt", padding=True)
    assert padded["attention_mask"].sum(1).tolist() == [len(ours.encode(text)) for text in ("the router", "the")]


@pytest.mark.parametrize(("changes", "family"), FORMATS.values(), ids=FORMATS)
def test_generation_ends_at_the_end_of_a_document_and_nowhere_else(tmp_path, tokenizer, changes, family):
    """Left unsaid, transformers would take a family's usual ids."""
    export_model(stored(tokenizer, **changes), tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for settings in (model.config, model.generation_config):
        assert settings.bos_token_id is None
        assert settings.eos_token_id == settings.pad_token_id == END_ID


def test_without_a_tokenizer_no_token_is_special(tmp_path, tokenizer):
    model = stored(tokenizer, moe=MOE)._replace(files=())
    assert export_model(model, tmp_path / "out") == "mixtral"  # whose usual ids are 1 and 2
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.config.bos_token_id is loaded.config.eos_token_id is loaded.config.pad_token_id is None
    assert loaded.generation_config.eos_token_id is None
    assert not (tmp_path / "out" / "tokenizer_config.json").exists()


@pytest.mark.parametrize(("changes", "family"), FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrower_numbers(tmp_path, tokenizer, changes, family, dtype):
    export_model(stored(tokenizer, **changes), tmp_path / "out", dtype=dtype)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.dtype is dtype
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        dtypes = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    routers = {name for name in dtypes if "router" in name or name.endswith("mlp.gate.weight")}
    assert len(routers) == 3
    assert {dtypes[name] for name in routers} == {torch.float32}
    assert {dtypes[name] for name in dtypes.keys() - routers} == {dtype}


def test_our_own_format_for_a_model_that_a_family_can_say(tmp_path, tokenizer):
    model = stored(tokenizer, **QWEN3)
    assert export_model(model, tmp_path / "out", format="sparsemix") == "sparsemix"
    assert json.loads((tmp_path / "out" / "training.json").read_text()) == model.facts
    back = open_model(tmp_path / "out")
    assert back.config == model.config
    assert back.facts == model.facts


def test_training_goes_on_with_the_losses_it_was_balanced_with(tmp_path, tokenizer):
    model = stored(tokenizer, **QWEN3)
    losses = [{"type": "switch", "weight": 0.5}]
    export_model(model._replace(facts={**model.facts, "balance_losses": losses}), tmp_path / "out", format="sparsemix")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert [(one.type, one.weight) for one in config.losses()] == [("switch", 0.5)]


def test_what_transformers_saves_of_our_own_format_comes_back(tmp_path, tokenizer):
    model = stored(tokenizer, **QWEN3)
    losses = [{"type": "switch", "weight": 0.5}]
    export_model(model._replace(facts={"balance_losses": losses}), tmp_path / "out", format="sparsemix")
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").save_pretrained(tmp_path / "saved")
    back = open_model(tmp_path / "saved")
    assert back.config == model.config
    assert back.facts["special_tokens"] == {"eos_token_id": END_ID, "pad_token_id": END_ID}
    assert [(one["type"], one["weight"]) for one in back.facts["balance_losses"]] == [("switch", 0.5)]


def test_a_mixture_of_depths_is_generated_from_without_a_cache(tmp_path, tokenizer):
    model = stored(tokenizer, depth=DepthConfig(capacity=0.5, every=2))
    export_model(model, tmp_path / "out")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    prompt = random_tokens(1, 6, vocab_size=256)
    found = loaded.generate(prompt, max_new_tokens=10, do_sample=False, eos_token_id=None)
    assert found[:, 6:].tolist() == generate(build(model), prompt.tolist(), max_new_tokens=10, temperature=0)


def test_the_card_says_what_the_model_is_and_what_it_was_trained_on(tmp_path, tokenizer):
    model = stored(tokenizer, **QWEN3)
    export_model(model, tmp_path / "small-moe")
    card = (tmp_path / "small-moe" / "README.md").read_text()
    total = sum(tensor.numel() for tensor in build(model).state_dict().values())
    assert f"# small-moe\n\nA language model of {total:,} parameters" in card
    for row in (
        "experts | 4 of kind glu",
        "family | qwen3_moe",
        "tokens | 3,456",
        "held-out loss, nats a token | 1.5000",
    ):
        assert f"| {row} |" in card
    assert "| data | books, hf:some/name |" in card
    assert "register" not in card
    export_model(model, tmp_path / "ours", format="sparsemix")
    assert "register()" in (tmp_path / "ours" / "README.md").read_text()


def test_what_is_refused_leaves_nothing_behind(tmp_path, tokenizer):
    model = stored(tokenizer, **OURS)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ValueError, match="out: must be a new or an empty folder"):
        export_model(model, tmp_path / "full")
    with pytest.raises(ValueError, match="format: must be auto or sparsemix for this model"):
        export_model(model, tmp_path / "out", format="hf")
    tensors = dict(model.tensors.tensors)
    tensors.pop("norm.weight")
    with pytest.raises(ValueError, match=r"norm\.weight: must be there, got none"):
        export_model(model._replace(tensors=Held(tensors)), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "tokenizer.json"]
