"""A Hugging Face folder: our decoder's logits are transformers', and a family that we are not keeps its own experts."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from verify.examples import failed, passed

from sparsemix.cli import main
from sparsemix.interop import build, open_model
from sparsemix.verify import check_experts, check_logits, reach, some_tokens

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


@pytest.fixture
def llama(saved):
    turns = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 1024}
    rope = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0} | turns
    return saved(
        transformers.LlamaConfig(**SHAPE | {"max_position_embeddings": 4096}, head_dim=64, rope_parameters=rope)
    )


@pytest.fixture
def mistral(saved):
    return saved(transformers.MistralConfig(**SHAPE | {"max_position_embeddings": 256}, sliding_window=140))


@pytest.mark.parametrize(
    ("folder", "lost"),
    [
        ("llama", lambda config: replace(config, attention=replace(config.attention, rope_scaling=None))),
        ("mistral", lambda config: replace(config, window=None)),
        ("mistral", lambda config: replace(config, window=replace(config.window, size=139))),
    ],
    ids=["scaling of frequencies", "window", "window too narrow by one"],
)
def test_what_acts_only_from_afar_is_compared_too(folder, lost, request):
    folder = request.getfixturevalue(folder)
    sound = build(open_model(folder), dtype=torch.float32)
    tokens_1S = some_tokens(60, 2 * reach(sound.config, 16))[:1]
    assert passed(check_logits(folder, sound, tokens_1S))
    spoilt = lost(sound.config).build()
    spoilt.load_state_dict(sound.state_dict())
    assert failed(check_logits(folder, spoilt, tokens_1S))


def test_a_window_that_no_token_is_outside_of_is_said(mistral):
    finding = check_logits(mistral, build(open_model(mistral), dtype=torch.float32), some_tokens(60, 16))
    assert finding.passed
    assert "no token was outside the window of 140" in finding.detail


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
        ("tensors", True),
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


def test_experts_that_do_not_take_our_kernels_are_not_compared_with_themselves(stranger, monkeypatch):
    monkeypatch.setattr(transformers.PreTrainedModel, "set_experts_implementation", lambda model, name: None)
    found = list(check_experts(stranger, some_tokens(60, 16), "a reason"))
    assert failed(found) == ["experts by sparsemix", "experts by sparsemix"]
    assert found[2].detail == "PhimoeExperts did not take our kernels"


def test_a_tensor_that_transformers_would_draw_at_random_is_found(stranger, capsys):
    tensors = load_file(stranger / "model.safetensors")
    name = next(name for name in tensors if "layers.1" in name and "q_proj.weight" in name)
    tensors["another"] = tensors.pop(name)
    save_file(tensors, stranger / "model.safetensors", metadata={"format": "pt"})
    assert main(["verify", str(stranger), "--tokens", "16", "--json"]) == 3
    row = next(row for row in json.loads(capsys.readouterr().out)["findings"] if row["check"] == "tensors")
    assert row["passed"] is False
    assert name in row["detail"]
    assert "another is left over" in row["detail"]


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def cut_short(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-8])


def no_language_model(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "vit"}))


@pytest.mark.parametrize(
    ("spoil", "args", "line"),
    [
        (pickled, [], "must hold model.safetensors"),
        (cut_short, [], "got "),
        (no_language_model, [], "must be a language model that transformers can load, got "),
        (lambda folder: None, ["--layers", "0"], "layers: must not be given with the family phimoe"),
    ],
    ids=["pickled", "cut short", "no language model", "layers"],
)
def test_an_unknown_family_that_cannot_be_verified_is_refused_in_one_line(stranger, spoil, args, line, capsys):
    spoil(stranger)
    assert main(["verify", str(stranger), *args]) == 2
    answer = capsys.readouterr()
    assert answer.out == ""
    assert line in answer.err.splitlines()[-1]
    assert "Traceback" not in answer.err
