"""A Hugging Face folder: our decoder's logits are transformers', and a family that we are not keeps its own experts."""

import json

import pytest
import torch
from verify.examples import failed, passed

from sparsemix.cli import main
from sparsemix.interop import build, open_model
from sparsemix.verify import check_experts, check_logits, some_tokens

transformers = pytest.importorskip("transformers")
SHAPE = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": 59,
}


@pytest.fixture
def saved(tmp_path):
    """Saves a small model with random weights, none of them zero."""

    def save(config):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(torch.randn(parameter.shape) * (0.2 if "bias" in name else parameter.shape[-1] ** -0.5))
        model.save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return save


@pytest.fixture
def qwen(saved):
    return saved(
        transformers.Qwen2MoeConfig(
            **SHAPE, moe_intermediate_size=20, shared_expert_intermediate_size=28, num_experts=6, num_experts_per_tok=2
        )
    )


@pytest.fixture
def stranger(saved):
    """A family whose attention our decoder cannot be."""
    return saved(
        transformers.PhimoeConfig(
            **SHAPE, num_local_experts=4, num_experts_per_tok=2, attention_bias=True, lm_head_bias=True
        )
    )


def test_logits_of_an_imported_model_are_those_of_transformers(qwen):
    finding = check_logits(qwen, build(open_model(qwen), dtype=torch.float32), some_tokens(60, 16))
    assert passed(finding)
    assert finding.error < 1e-5


@pytest.mark.parametrize("fault", ["gate and up exchanged", "an expert of zeros", "router", "unembedding"])
def test_a_tensor_that_was_imported_wrongly_is_found(qwen, fault):
    decoder = build(open_model(qwen), dtype=torch.float32)
    moe = decoder.blocks[1].ffn
    with torch.no_grad():
        match fault:
            case "gate and up exchanged":
                moe.experts.gate_up_EFD.copy_(moe.experts.gate_up_EFD.roll(20, dims=1))
            case "an expert of zeros":
                moe.experts.down_EDF[:3].zero_()
            case "router":
                moe.router.weight_ED.copy_(moe.router.weight_ED.roll(1, dims=0))
            case "unembedding":
                decoder.unembedding.weight[5] += 0.01
    assert failed(check_logits(qwen, decoder, some_tokens(60, 16)))


def test_a_folder_of_a_known_family_is_verified_whole(qwen, capsys):
    assert main(["verify", str(qwen), "--tokens", "16", "--json"]) == 0
    found = {(row["check"], row["where"]): row["passed"] for row in json.loads(capsys.readouterr().out)["findings"]}
    assert found[("logits", "model")]
    assert found[("layer", "block 1")]
    assert found[("optimiser step", "block 0")]


def test_experts_of_an_unknown_family_are_verified_where_they_are(stranger, capsys):
    assert main(["verify", str(stranger), "--tokens", "16", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["findings"]
    assert [(row["check"], row["passed"]) for row in rows] == [
        ("import", None),
        ("experts by sparsemix", True),
        ("experts by sparsemix", True),
        ("logits", True),
    ]
    assert "phimoe" in rows[0]["detail"]


def test_a_back_end_with_a_fault_is_found(stranger, monkeypatch):
    from sparsemix.interop.transformers import forward

    own = forward._routing
    monkeypatch.setattr(forward, "_routing", lambda experts, index, weight: own(experts, (index + 1) % 4, weight))
    found = list(check_experts(stranger, some_tokens(60, 16), "a reason"))
    assert failed(found) == ["experts by sparsemix", "experts by sparsemix", "logits"]
