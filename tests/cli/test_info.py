"""What `sparsemix info` says of models."""

import json
from dataclasses import replace

import pytest

from sparsemix.cli.describe import memory, optimizer_state, parameters_by_part
from sparsemix.config import read_json, to_json
from sparsemix.experts import (
    ClampedGLUExpertsConfig,
    ConcatExpertsConfig,
    GLUExpertsConfig,
    MLPExpertsConfig,
    Part,
    ZeroExpertsConfig,
)
from sparsemix.kernels.cpp.library import library
from sparsemix.layer import MoEConfig, MoEExpertsConfig
from sparsemix.models import AttentionConfig, DecoderConfig
from sparsemix.models.architectures import ARCHITECTURES
from sparsemix.models.counts import count_by_tensors
from sparsemix.routers import NoisyTopKRouterConfig
from sparsemix.train import AdamWConfig, MuonConfig, Precision, TrainConfig, choose_precision
from sparsemix.train.facts import kernel, usual_kernel

MODEL = DecoderConfig(
    vocab_size=50,
    dim=16,
    num_layers=3,
    context=32,
    attention=AttentionConfig(num_heads=4, num_kv_heads=2, bias="qkv", qk_norm="head"),
    moe=MoEConfig(
        num_experts=4,
        router=NoisyTopKRouterConfig(k=2),
        experts=MLPExpertsConfig(hidden=8, bias=True),
        shared=GLUExpertsConfig(hidden=4),
        shared_gate=True,
    ),
    ffn=GLUExpertsConfig(hidden=24),
    dense_first=1,
)


def told(sparsemix, *args):
    answer = sparsemix("info", *args, "--json")
    assert (answer.code, answer.err) == (0, "")
    return json.loads(answer.out)


def test_mixtral(sparsemix):
    facts = told(sparsemix, "--arch", "mixtral-8x7b")
    assert facts["parameters_total"] == 46_702_792_704
    assert facts["parameters_active"] == 12_879_925_248
    assert facts["context"] == 32_768
    # every active parameter but the embedding and the norms is in a product, and so are keys and values
    norms = (2 * 32 + 1) * 4096
    products = facts["parameters_active"] - 32_000 * 4096 - norms
    assert facts["flops_per_token"] == 2 * products + 32 * 32_768 * 2 * 2 * 4096
    assert facts["training_flops_per_token"] == 3 * facts["flops_per_token"]
    assert facts["memory_bytes"]["weights_bfloat16"] == 2 * 46_702_792_704
    assert facts["memory_bytes"]["kv_cache_per_token_bfloat16"] == 2 * 32 * 2 * 8 * 128


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_known_architecture(sparsemix, name):
    facts = told(sparsemix, "--arch", name)
    assert facts["name"] == name
    assert facts["published"]
    assert facts["parameters_total"] >= facts["parameters_active"] > 0
    if ARCHITECTURES[name].decoder is None:
        assert facts["lacks"]
    else:
        assert sum(facts["parameters_by_part"].values()) == facts["parameters_total"]
        assert facts["kernel"]["backend"] in ("cpp", "cpu", "native")


def test_the_list(sparsemix):
    assert list(told(sparsemix, "--list")) == list(ARCHITECTURES)
    assert "mixtral-8x7b" in sparsemix("info", "--list").out


def test_a_run(sparsemix, trained):
    facts = told(sparsemix, trained.run)
    config = read_json(TrainConfig, trained.run / "config.json")
    assert facts["steps_done"] == config.steps == 6
    assert facts["tokens_per_step"] == 64
    assert facts["parameters_total"] == count_by_tensors(config.model).parameters_total
    assert facts["optimizer"] == "muon"
    assert facts["begun_with"]["device"] == "cpu"
    state = trained.run / "checkpoints" / "step-00000006" / "optimizer.safetensors"
    assert 0 <= state.stat().st_size - facts["memory_bytes"]["optimizer_state"] < 16_384  # names and random numbers


def test_config_files_of_a_run_and_of_a_model(sparsemix, tmp_path):
    model, run = tmp_path / "model.json", tmp_path / "run.json"
    model.write_text(to_json(MODEL))
    run.write_text(to_json(TrainConfig(model=MODEL, sequence_length=32, optimizer=AdamWConfig(), steps=7)))
    of_model, of_run = told(sparsemix, model), told(sparsemix, run)
    assert of_model["parameters_total"] == count_by_tensors(MODEL).parameters_total
    assert of_run.pop("steps") == 7
    assert of_run.pop("tokens_per_step") == 16 * 32
    assert of_run == of_model


def test_attention_costs_by_context(sparsemix, tmp_path):
    path = tmp_path / "model.json"
    path.write_text(to_json(MODEL))
    near, far = (told(sparsemix, path, "--context", context)["flops_per_token"] for context in (0, 10))
    assert far - near == 10 * 3 * 2 * 2 * 16  # keys, layers, scores and values, multiply and add, width


def test_without_a_target_it_tells_of_the_machine(sparsemix):
    facts = told(sparsemix)
    assert list(facts) == ["kernel", "environment"]
    assert tuple(facts["kernel"].values()) == usual_kernel(choose_precision())
    assert "torch" in sparsemix("info").out


def test_people_get_units(sparsemix):
    text = sparsemix("info", "--arch", "mixtral-8x7b").out
    assert "46,702,792,704" in text
    assert "93.4 GB" in text


def test_two_targets_are_refused(sparsemix):
    answer = sparsemix("info", "x.json", "--arch", "grok-1")
    assert answer.code == 2
    assert answer.err == "error: info: takes one of TARGET, --arch and --list, got target and arch; choose one\n"


def test_parts_are_told_apart():
    parts = parameters_by_part(MODEL.build())
    assert parts == {
        "embedding": 800,
        "unembedding": 800,
        "norms": (2 * 3 + 1) * 16,
        "attention": 3 * (2 * 16 * 16 + 2 * 8 * 16 + 16 + 8 + 8 + 2 * 4),
        "routers": 2 * 2 * 4 * 16,
        "routed experts": 2 * 4 * (2 * 8 * 16 + 8 + 16),
        "shared experts": 2 * (3 * 4 * 16 + 16),
        "dense ffn": 3 * 24 * 16,
    }
    assert sum(parts.values()) == count_by_tensors(MODEL).parameters_total


@pytest.mark.parametrize("optimizer", [AdamWConfig(), MuonConfig()])
def test_the_optimizers_state_is_as_large_as_said(optimizer):
    model = MODEL.build()
    built = optimizer.build(model)
    for parameter in model.parameters():
        parameter.grad = parameter.detach().clone()
    built.step(1.0)
    actual = sum(value.nbytes for name, value in built.state().items() if not name.endswith("/step"))
    assert optimizer_state(model, optimizer) == actual


def test_the_kernel_and_why():
    def chosen(backend, experts=GLUExpertsConfig):
        moe = MoEConfig(num_experts=4, experts=experts(hidden=8, backend=backend))
        return kernel(replace(MODEL, moe=moe), Precision())

    found = library()
    expected = ("cpp", "float32 on a CPU") if found.functions else ("cpu", f"cpp refuses {found.reason}")
    assert chosen("auto") == usual_kernel(Precision()) == expected
    for backend in ("reference", "cpu", "native"):
        for experts in (GLUExpertsConfig, ClampedGLUExpertsConfig, MLPExpertsConfig):
            assert chosen(backend, experts) == (backend, "the config asks for it")
    assert kernel(replace(MODEL, moe=None), Precision()) is None


def test_the_kernels_of_experts_of_several_kinds_and_of_those_inside_mixtures():
    def of_one(kind):
        return Part(experts=kind)

    def chosen(*kinds):
        inside = MoEConfig(num_experts=len(kinds), experts=ConcatExpertsConfig(parts=tuple(map(of_one, kinds))))
        moe = MoEConfig(num_experts=4, experts=MoEExpertsConfig(moe=inside))
        found = {kernel(replace(MODEL, moe=one), Precision()) for one in (inside, moe)}
        assert len(found) == 1
        return found.pop()

    slow, fast = GLUExpertsConfig(hidden=8, backend="reference"), MLPExpertsConfig(hidden=8, backend="cpu")
    assert chosen(ZeroExpertsConfig(), slow, slow) == ("reference", "the config asks for it")
    assert chosen(fast, slow) == ("cpu, reference", "the config asks for it")
    assert chosen(ZeroExpertsConfig()) is None


def test_memory_is_that_of_the_tensors():
    model = MODEL.build()
    found = memory(count_by_tensors(MODEL), 0)
    assert found["weights_float32"] == sum(parameter.nbytes for parameter in model.parameters())
    assert found["kv_cache_per_token_float32"] * 5 == model.new_cache(1, 5).num_bytes
