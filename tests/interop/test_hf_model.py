"""The wrapper computes what the decoder computes, in every way in which transformers calls a language model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from interop.hf_cases import logits_of, wrapped
from models.examples import MOE, random_tokens
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, StaticCache

from sparsemix import DepthConfig, HashRouterConfig, SwitchLoss, TopPRouterConfig, balance_loss
from sparsemix.inference import generate
from sparsemix.interop.hf_model import SparsemixForCausalLM, register
from sparsemix.models import AttentionConfig, LatentAttentionConfig, WindowConfig

register()
GREEDY = {"do_sample": False, "pad_token_id": 0}


def left_padded(prompts: list[list[int]]) -> dict[str, torch.Tensor]:
    width = max(map(len, prompts))
    rows = [[0] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}


def test_a_new_model_is_the_decoder_that_its_config_builds():
    model = wrapped()
    expected = model.config.decoder_config().build().state_dict()
    torch.testing.assert_close(dict(model.model.state_dict()), dict(expected), rtol=0, atol=0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_logits(side):
    model, tokens = wrapped(), random_tokens(1, 9)
    padding = torch.full((1, 4), 3)
    pair, mask = [padding, tokens], [torch.zeros(1, 4), torch.ones(1, 9)]
    order = 1 if side == "left" else -1
    with torch.no_grad():
        logits = model(torch.cat(pair[::order], 1), attention_mask=torch.cat(mask[::order], 1)).logits
    real = logits[:, 4:] if side == "left" else logits[:, :9]
    torch.testing.assert_close(real, logits_of(model.model, tokens))


CHANGES = {
    "plain": {},
    "tied": {"tie_embeddings": True},
    "dense": {"moe": None},
    "qk_norm": {"attention": AttentionConfig(num_heads=4, qk_norm="head", bias="qkvo")},
    "latent": {"attention": LatentAttentionConfig(num_heads=4, kv_rank=8, nope_dim=4, rope_dim=4, value_dim=4)},
    "window": {"window": WindowConfig(size=3, layers=(1,)), "attention": AttentionConfig(num_heads=4, sinks=True)},
    "scales": {"embedding_scale": 3.0, "residual_scale": 0.5, "logit_scale": 0.25},
    "top_p": {"moe": replace(MOE, router=TopPRouterConfig(p=0.6))},
    "hash": {"moe": replace(MOE, router=HashRouterConfig(vocab_size=50))},
    "depth": {"depth": DepthConfig(capacity=0.5, every=2)},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_generates_the_tokens_that_our_generate_does(changes):
    prompts = [[5, 6, 7, 8, 9], [11], [1, 2, 3]]
    model = wrapped(**changes)
    found = model.generate(**left_padded(prompts), max_new_tokens=12, **GREEDY)
    assert found[:, 5:].tolist() == generate(model.model, prompts, max_new_tokens=12, temperature=0)


def test_without_a_cache_it_generates_the_same():
    model, prompt = wrapped(), random_tokens(2, 5)
    cached = model.generate(prompt, max_new_tokens=8, **GREEDY)
    assert torch.equal(cached, model.generate(prompt, max_new_tokens=8, use_cache=False, **GREEDY))


def test_beam_search_finds_the_most_probable_continuation():
    """Of two tokens, with as many beams as there are first tokens: the best of all pairs."""
    model, prompt = wrapped(), random_tokens(1, 5)
    found = model.generate(prompt, max_new_tokens=2, num_beams=50, **GREEDY)[0, 5:]
    first = torch.arange(50)[:, None]
    log_probs = logits_of(model.model, torch.cat([prompt.expand(50, -1), first], 1)).log_softmax(-1)
    total = log_probs[0, 4][:, None] + log_probs[:, 5]
    assert found.tolist() == list(divmod(int(total.argmax()), 50))


def test_a_conversation_goes_on_from_its_cache():
    model, tokens = wrapped(), random_tokens(2, 12)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        parts = [model(part, past_key_values=cache).logits for part in tokens.split([5, 1, 6], dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), logits_of(model.model, tokens))
    assert cache.get_seq_length() == 12


def test_packed_documents_are_kept_apart_by_their_positions():
    model, one, two = wrapped(), random_tokens(2, 5), random_tokens(2, 7, seed=1)
    position = torch.cat([torch.arange(5), torch.arange(7)])[None]
    with torch.no_grad():
        logits = model(torch.cat([one, two], 1), position_ids=position).logits
    torch.testing.assert_close(logits, torch.cat([logits_of(model.model, one), logits_of(model.model, two)], 1))


def test_only_the_logits_that_are_asked_for():
    model, tokens = wrapped(), random_tokens(2, 6)
    whole = logits_of(model.model, tokens)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens, logits_to_keep=2).logits, whole[:, -2:])
        torch.testing.assert_close(model(tokens, logits_to_keep=torch.tensor([1, 4])).logits, whole[:, [1, 4]])


def test_the_loss_is_the_cross_entropy_of_the_next_token_and_in_training_the_balance_losses():
    model, tokens = wrapped([SwitchLoss(weight=0.5)]), random_tokens(2, 9)
    labels = tokens.clone()
    labels[0, :4] = -100
    log_probs = logits_of(model.model, tokens)[:, :-1].log_softmax(-1)
    per_token = -log_probs.gather(2, tokens[:, 1:, None])[..., 0]
    expected = per_token[labels[:, 1:] != -100].mean()
    torch.testing.assert_close(model(tokens, labels=labels).loss, expected)

    output = model.train()(tokens, labels=labels, output_routings=True)
    added = balance_loss(output.routings, [SwitchLoss(weight=0.5)])
    torch.testing.assert_close(output.aux_loss, added)
    torch.testing.assert_close(output.loss, expected + added)


def test_by_default_the_balance_losses_are_those_of_the_routers_paper():
    model, tokens = wrapped().train(), random_tokens(2, 9)
    output = model(tokens, output_routings=True)
    assert output.aux_loss > 0
    torch.testing.assert_close(output.aux_loss, balance_loss(output.routings, MOE.router.losses(4)))
    assert wrapped(balance_losses=()).train()(tokens).aux_loss == 0


def test_padding_counts_in_no_balance_loss():
    model, tokens = wrapped().train(), random_tokens(2, 9)
    padded = torch.cat([tokens, torch.full((2, 5), 3)], 1)
    mask = torch.cat([torch.ones(2, 9), torch.zeros(2, 5)], 1)
    torch.testing.assert_close(model(padded, attention_mask=mask).aux_loss, model(tokens).aux_loss)


def test_micro_batches_add_up_to_the_mean_of_their_balance_losses():
    model, tokens = wrapped().train(), random_tokens(4, 9)
    parts = [model(part, labels=part, num_items_in_batch=32) for part in tokens.split(2)]
    whole = wrapped([]).train()(tokens, labels=tokens).loss
    expected = whole + sum(part.aux_loss for part in parts) / 2
    torch.testing.assert_close(sum(part.loss for part in parts), expected)


def test_routings_are_given_on_request():
    model, tokens = wrapped(), random_tokens(2, 6)
    assert model(tokens).routings is None
    routings = model(tokens, output_routings=True).routings
    assert [routing.expert_N.shape for routing in routings] == [(24,), (24,)]  # the first block is dense
    assert all(routing.probs_TE.shape == (12, 4) for routing in routings)


def test_gradient_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        model = wrapped().train()
        if checkpointing:
            model.activation_checkpointing_enable()
        model(random_tokens(2, 9), labels=random_tokens(2, 9)).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(gradient is not None for gradient in gradients[0].values())
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": True}], ids=["untied", "tied"])
def test_what_is_saved_is_our_own_format_and_loads_again(tmp_path, changes):
    model = wrapped(**changes)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(model.model.state_dict())
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is SparsemixForCausalLM
    assert again.config.decoder_config() == model.config.decoder_config()
    torch.testing.assert_close(dict(again.state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    again.save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors", "modeling_sparsemix.py"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_shards(tmp_path):
    model = wrapped()
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(dict(again.state_dict()), dict(model.state_dict()), rtol=0, atol=0)


def test_in_bfloat16_routers_stay_in_float32(tmp_path):
    wrapped().save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16, device_map="cpu")
    wide = {name for name, parameter in model.named_parameters() if parameter.dtype != torch.bfloat16}
    assert wide == {f"model.blocks.{layer}.ffn.router.weight_ED" for layer in (1, 2)}
    assert model(random_tokens(2, 6)).logits.dtype == torch.bfloat16


def test_a_tensor_that_is_missing_or_unknown_is_refused(tmp_path):
    wrapped().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    norm = tensors.pop("norm.weight")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"got 1 missing, \['model.norm.weight'\] first"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    save_file(
        tensors | {"norm.weight": norm, "more": norm.clone()}, tmp_path / "model.safetensors", metadata={"format": "pt"}
    )
    with pytest.raises(ValueError, match=r"got 1 unexpected, \['more'\] first"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.mark.slow  # a fresh process imports torch and transformers
def test_remote_code_needs_no_registration(tmp_path):
    model = wrapped()
    model.save_pretrained(tmp_path / "saved")
    code = f"""
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({str(tmp_path / "saved")!r}, trust_remote_code=True)
model.save_pretrained({str(tmp_path / "again")!r})
print(model(torch.arange(6)[None]).logits.double().sum().item())
"""
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": os.pathsep.join(sys.path)}
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = logits_of(model.model, torch.arange(6)[None]).double().sum().item()
    assert float(done.stdout) == pytest.approx(expected, abs=1e-4)
    saved = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    assert saved == {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}


@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": True}], ids=["untied", "tied"])
def test_more_tokens(tmp_path, changes):
    model, tokens = wrapped(**changes), random_tokens(2, 6)
    before = logits_of(model.model, tokens)
    assert model.resize_token_embeddings(53) is model.get_input_embeddings()
    with torch.no_grad():
        logits = model(torch.cat([tokens, torch.full((2, 1), 52)], 1)).logits
    assert logits.shape == (2, 7, 53)
    torch.testing.assert_close(logits[:, :6, :50], before)
    model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).decoder_config().vocab_size == 53
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(dict(again.state_dict()), dict(model.state_dict()), rtol=0, atol=0)


def test_a_table_by_token_id_cannot_grow():
    with pytest.raises(ValueError, match="resize_token_embeddings: needs routers that know no token ids"):
        wrapped(**CHANGES["hash"]).resize_token_embeddings(53)


def test_what_it_does_not_take_is_refused():
    model, tokens = wrapped(), random_tokens(1, 4)
    model(tokens, inputs_embeds=None, output_attentions=False)
    with pytest.raises(ValueError, match="output_hidden_states: is no argument of this model"):
        model(tokens, output_hidden_states=True)
    with pytest.raises(ValueError, match="input_ids: must be given"):
        model()
    with pytest.raises(ValueError, match="attention_mask: must be of shape"):
        model(tokens, attention_mask=torch.ones(1, 1, 4, 4))
    with pytest.raises(ValueError, match="past_key_values: must be a cache that grows"):
        model(tokens, past_key_values=StaticCache(config=model.config, max_cache_len=8))
    with pytest.raises(ValueError, match="past_key_values: not with a mixture of depths"):
        wrapped(**CHANGES["depth"])(tokens, use_cache=True)
    model.train().activation_checkpointing_enable()
    with pytest.raises(ValueError, match="past_key_values: not together with gradient checkpointing"):
        model(tokens, use_cache=True)


def test_a_config_that_contradicts_itself_is_refused(tmp_path):
    model = wrapped()
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text())
    for changes, complaint in (
        ({"vocab_size": 49}, "vocab_size: must be 50, as in model, got 49"),
        ({"format_version": 99}, "format_version: .* got 99; update sparsemix"),
        ({"balance_losses": [{"type": "nothing"}]}, "balance_losses"),
    ):
        path.write_text(json.dumps(saved | changes))
        with pytest.raises(ValueError, match=complaint):
            AutoConfig.from_pretrained(tmp_path)
