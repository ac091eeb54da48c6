"""transformers' Trainer and PEFT train a model of ours."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from interop.hf_cases import counting, logits_of, wrapped
from models.examples import MOE, random_tokens
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from sparsemix import SelectionBiasConfig, SwitchLoss, TopKRouterConfig
from sparsemix.interop.hf_model import RouterUpdates, register
from sparsemix.routers import TopKRouter

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's

register()
BIASED = replace(MOE, router=TopKRouterConfig(k=2, gate="sigmoid", selection_bias=SelectionBiasConfig(rate=0.1)))


def trainer(model, folder, callbacks=(), **arguments) -> Trainer:
    quiet = {"report_to": [], "disable_tqdm": True, "logging_strategy": "steps", "logging_steps": 1}
    settings = {"per_device_train_batch_size": 8, "learning_rate": 0.01, "use_cpu": True, "save_strategy": "no"}
    given = TrainingArguments(output_dir=str(folder), **(quiet | settings | arguments))
    return Trainer(model, given, train_dataset=counting(), eval_dataset=counting(8), callbacks=list(callbacks))


def losses(trained: Trainer) -> list[float]:
    return [entry["loss"] for entry in trained.state.log_history if "loss" in entry]


def test_trainer_lowers_the_loss_and_saves_what_loads_again(tmp_path):
    model = wrapped([SwitchLoss()])
    training = trainer(model, tmp_path, max_steps=20)
    training.train()
    assert losses(training)[-1] < 0.6 * losses(training)[0]
    training.save_model(str(tmp_path / "saved"))
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    tokens = random_tokens(2, 8)
    torch.testing.assert_close(logits_of(again.model, tokens), logits_of(model.model, tokens), rtol=0, atol=0)


def test_evaluation_is_of_the_cross_entropy_alone(tmp_path):
    model = wrapped([SwitchLoss(weight=100)])
    training = trainer(model, tmp_path)
    rows = counting(8)
    tokens = torch.stack([row["input_ids"] for row in rows])
    log_probs = logits_of(model.model, tokens)[:, :-1].log_softmax(-1)
    expected = -log_probs.gather(2, tokens[:, 1:, None]).mean()
    assert training.evaluate()["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_trainer_resumes_from_its_checkpoint(tmp_path):
    whole = trainer(wrapped(), tmp_path / "whole", max_steps=4)
    whole.train()
    trainer(wrapped(), tmp_path / "cut", max_steps=4, save_strategy="steps", save_steps=2).train()
    resumed = trainer(wrapped(), tmp_path / "cut", max_steps=4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-2"))
    found, expected = resumed.model.state_dict(), whole.model.state_dict()
    torch.testing.assert_close(dict(found), dict(expected), rtol=0, atol=0)


def test_accumulated_micro_batches_step_as_the_whole_batch_does(tmp_path):
    """Without balance losses, which are no sums over tokens."""
    stepped = []
    for size, parts in ((8, 1), (2, 4)):
        training = trainer(
            wrapped([]),
            tmp_path,
            max_steps=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=parts,
            optim="sgd",
        )
        training.train()
        stepped.append(dict(training.model.state_dict()))
    torch.testing.assert_close(stepped[0], stepped[1])


def test_selection_biases_follow_the_load_of_the_whole_batch(tmp_path):
    model = wrapped(moe=BIASED)
    routers = [model.model.blocks[layer].ffn.router for layer in (1, 2)]
    tokens = torch.stack([row["input_ids"] for row in counting(8)])
    routings = model(tokens, output_routings=True).routings
    expected = []
    for routing in routings:
        counts = torch.bincount(routing.expert_N, minlength=4).float()
        expected.append(0.1 * (counts.mean() - counts).sign())

    training = trainer(
        model,
        tmp_path,
        [RouterUpdates()],
        max_steps=1,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
    )
    training.train_dataset = counting(8)
    training.train()
    assert any(bias.ne(0).any() for bias in expected)
    for router, bias in zip(routers, expected, strict=True):
        found = router.selection_bias.bias_E
        torch.testing.assert_close(found - found.mean(), bias - bias.mean())
    assert model.train()(tokens).routings is None


class Interrupts(TrainerCallback):
    def on_substep_end(self, args, state, control, **others):
        raise KeyboardInterrupt


def test_what_an_interrupted_training_saw_counts_in_no_later_one(tmp_path, monkeypatch):
    seen, updates, model = [], RouterUpdates(), wrapped(moe=BIASED)
    monkeypatch.setattr(TopKRouter, "update", lambda router, total: seen.append(total))
    steps = {"max_steps": 1, "gradient_accumulation_steps": 2}
    with pytest.raises(KeyboardInterrupt):
        trainer(model, tmp_path, [updates, Interrupts()], **steps).train()
    trainer(model, tmp_path, [updates], **steps).train()
    assert [int(total.sum()) for total in seen] == [2 * 8 * 12 * 2] * 2  # micro-batches, sequences, tokens, experts


def test_checkpoints_know_nothing_of_being_watched(tmp_path):
    trainer(wrapped(moe=BIASED), tmp_path, [RouterUpdates()], max_steps=1, save_strategy="steps", save_steps=1).train()
    assert AutoConfig.from_pretrained(tmp_path / "checkpoint-1").output_routings is False


def test_router_updates_are_for_our_models_alone(tmp_path):
    sizes = {"vocab_size": 50, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    theirs = MixtralForCausalLM(MixtralConfig(**sizes, num_attention_heads=2, num_key_value_heads=2))
    with pytest.raises(ValueError, match="model: must have one SparsemixForCausalLM, got 0"):
        trainer(theirs, tmp_path, [RouterUpdates()], max_steps=1).train()


def adapted(**settings):
    peft = pytest.importorskip("peft")
    base = wrapped()
    given = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", "init_lora_weights": False}
    return base, peft.get_peft_model(base, peft.LoraConfig(**(given | settings)))


TARGETS = {
    "attention": {"target_modules": ["query", "key", "value", "output"]},
    "experts": {"target_modules": [], "target_parameters": ["experts.gate_up_EFD", "experts.down_EDF"]},
}


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
def test_peft_trains_adapters_alone(tmp_path, targets):
    _, model = adapted(**targets)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    training = trainer(model, tmp_path, max_steps=10, learning_rate=0.03)
    training.train()
    assert losses(training)[-1] < losses(training)[0]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) is ("lora" not in name), name


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
def test_every_adapter_gets_a_gradient(targets):
    _, model = adapted(**targets)
    tokens = random_tokens(8, 12)
    model.train()(tokens, labels=tokens).loss.backward()
    adapters = {name: parameter for name, parameter in model.named_parameters() if "lora" in name}
    assert len(adapters) >= 8
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in adapters.values())


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
def test_merged_adapters_are_the_same_function_and_save_as_a_model(tmp_path, targets):
    base, model = adapted(**targets)
    tokens = random_tokens(2, 8)
    with torch.no_grad():
        expected = model.eval()(tokens).logits
        with model.disable_adapter():
            assert not torch.allclose(expected, model(tokens).logits, atol=1e-2)
    merged = model.merge_and_unload()
    assert merged is base
    torch.testing.assert_close(logits_of(merged.model, tokens), expected, rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits_of(again.model, tokens), expected, rtol=1e-4, atol=1e-4)


def test_adapters_are_saved_and_loaded_by_themselves(tmp_path):
    peft = pytest.importorskip("peft")
    _, model = adapted(**TARGETS["attention"])
    tokens = random_tokens(2, 8)
    with torch.no_grad():
        expected = model.eval()(tokens).logits
        model.save_pretrained(tmp_path)
        again = peft.PeftModel.from_pretrained(wrapped(), tmp_path)
        torch.testing.assert_close(again(tokens).logits, expected)
    greedy = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(input_ids=tokens, **greedy), again.generate(input_ids=tokens, **greedy))
