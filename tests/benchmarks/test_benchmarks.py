"""Each benchmark runs on a toy size and writes a result that says what was measured on what; no time is judged."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

NEED_TRANSFORMERS = ("layer", "generation", "train_throughput", "interop", "interop_families", "interop_memory")
THEIRS = tuple(f"transformers {name}" for name in ("grouped_mm", "eager", "batched_mm"))


def script(name) -> ModuleType:
    """By its path: `interop` is also what a folder of tests is called."""
    path = next(Path(folder, f"{name}.py") for folder in sys.path if Path(folder, "harness.py").is_file())
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name, folder, *options):
    if name in NEED_TRANSFORMERS:
        pytest.importorskip("transformers")
    script(name).main(["--toy", "--rounds", "2", "--threads", "1", "--out", str(folder), *options])
    (path,) = folder.iterdir()
    assert path.name == f"{name}.json"
    return json.loads(path.read_text())


@pytest.mark.slow
def test_train_throughput(tmp_path):
    result = run("train_throughput", tmp_path)
    (shape,) = result["shapes"]
    assert shape["not_run"] == []
    for what in ("forward_backward", "forward_backward_adamw"):
        speeds = shape[what]["tokens_per_second"]
        assert set(speeds) == {"sparsemix", *THEIRS}
        assert all(found["median"] > 0 for found in speeds.values())
    assert result["measured_on"]["threads"] == 1
    assert result["measured_on"]["versions"]["torch"] == torch.__version__


def test_dense_twin(tmp_path):
    result = run("dense_twin", tmp_path)
    assert set(result["seconds_per_step"]) == {"plain", "dense_adamw", "moe", "dense"}
    assert len(result["claims"]) == 3
    assert result["moe_over_dense"]["median"] > 0


def test_layer(tmp_path):
    one_expert, few_large, many_small, forward = run("layer", tmp_path)["parts"]
    assert set(one_expert["share_of_peak"]) == {"sparsemix", "dense"}
    assert [one["limit"] for one in one_expert["claims"]] == ["at most 0.85"]
    for part, of_dense in ((few_large, 0.75), (many_small, 0.65)):
        assert {"sparsemix", "dense", *THEIRS[:2]} <= set(part["share_of_peak"])
        limits = [one["limit"] for one in part["claims"]]
        assert limits[:3] == [f"at most {of_dense}", "at most 0.7", "at most 0.7"]
    assert [one["limit"] for one in forward["claims"]] == ["at least 0.85", None]
    assert forward["peak"]["at"] in forward["seconds"]


def test_interop(tmp_path):
    result = run("interop", tmp_path, "--families", "gpt_oss", "muse_spark")
    assert [part["family"] for part in result["parts"]] == ["gpt_oss", "muse_spark"]
    for part in result["parts"]:
        assert set(part["seconds"]) == {"sparsemix", "eager", "grouped_mm"}
        assert set(part["times_as_fast_as"]) == {"eager", "grouped_mm"}
        assert [one["limit"] for one in part["claims"]] == ["at least 1.0"]
    medians = [part["claims"][0]["median"] for part in result["parts"]]
    (overall,) = result["claims"]
    assert (overall["median"], overall["limit"]) == (pytest.approx(sum(medians) / 2), "at least 1.3")


def test_experts_of_families_keep_their_shape_where_they_are_scaled_down():
    pytest.importorskip("transformers")
    interop = script("interop")
    named = {family.name: family for family in interop.families()}
    shape = interop.scaled(named["mixtral"])  # 4096 by 14336, 8 experts, 2 a token
    assert (shape.tokens, shape.experts, shape.k) == (2048, 8, 2)
    assert shape.hidden / shape.dim == pytest.approx(14336 / 4096, rel=0.05)
    assert shape.flops == pytest.approx(interop.MOST.flops, rel=0.2)


def test_interop_families(tmp_path):
    result = run("interop_families", tmp_path)
    assert all(row["equal"] for row in result["families"])
    assert result["limits"] == {"forward": 1e-5, "gradient": 1e-4}


def test_growth(tmp_path):
    small, large = run("growth", tmp_path)["measured"]
    for one in (small, large):
        bound = max(one["bound_arithmetic"]["median"], one["bound_memory"]["median"])
        assert 0 < bound < one["seconds"]["layer"]["median"]
        assert one["claims"][0]["limit"] == "at most 1.5"
    growth = importlib.import_module("growth")
    assert [growth.at_most(experts) for experts in (64, 128, 256)] == [1.5, 2.0, 2.0]


def test_one_token(tmp_path):
    result = run("one_token", tmp_path)
    assert result["weight_bytes_in_rotation"] == 12 * 8 * 32 * 16
    assert result["fastest_read"] in result["read_gigabytes_per_second"]
    assert result["microseconds_per_token"]["median"] > 0
    assert result["last_level_cache_bytes"] >= 2**20


def test_tokens_in_rotation_visit_every_expert_once():
    ours, one_token = (importlib.import_module(name) for name in ("ours", "one_token"))
    shape = ours.LayerShape(tokens=1, dim=24, hidden=8, experts=12, k=3)
    moe = ours.our_moe(shape)
    rotation = one_token.tokens_in_rotation(moe, shape)
    visited = [int(expert) for x_1D in rotation for expert in moe(x_1D)[1].expert_N]
    assert sorted(visited) == list(range(12))


@pytest.mark.slow
def test_generation(tmp_path):
    result = run("generation", tmp_path)
    for what, limit in (("decode", "at least 2.0"), ("prefill", "at least 1.2")):
        assert set(result[what]["tokens_per_second"]) == {"sparsemix", *THEIRS}
        assert result[what]["limit"] == limit


def test_tokens_that_are_not_greedy_are_found_out():
    pytest.importorskip("transformers")
    generation = importlib.import_module("generation")
    runners = generation.build(generation.TOY)
    prompt_1S = torch.tensor([[3, 1, 4]])

    class Contrary:
        def new_tokens(self, prompt_1S, count):
            return (runners["sparsemix"].new_tokens(prompt_1S, count) + 1) % generation.TOY.vocab

    assert generation.regret(runners, prompt_1S, runners["sparsemix"], 5) < 1e-5
    assert generation.regret(runners, prompt_1S, Contrary(), 5) > 0.01


def test_gpu_layer_without_a_gpu_says_so(tmp_path, capsys, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    importlib.import_module("gpu_layer").main(["--out", str(tmp_path)])
    assert capsys.readouterr().out == "no GPU: nothing to measure\n"
    assert list(tmp_path.iterdir()) == []


def measure_gpu_layer(dtype, **shape):
    pytest.importorskip("transformers")
    gpu_layer, ours = (importlib.import_module(name) for name in ("gpu_layer", "ours"))
    return gpu_layer.measure(ours.LayerShape(dim=16, hidden=8, **shape), torch.device("cpu"), dtype, rounds=2)


def test_gpu_layer_up_to_the_device():
    result = measure_gpu_layer(torch.bfloat16, tokens=64, experts=6, k=3)
    assert {"sparsemix", "transformers grouped_mm", "dense"} <= set(result["seconds"])
    limits = {one["claim"].partition("backend ")[2]: one["limit"] for one in result["claims"]}
    assert limits["auto: share of cuBLAS's TFLOP/s on a dense FFN of equal FLOPs"] == "at least 0.75"
    assert limits["auto: times as fast as transformers' grouped_mm"] == "at least 1.5"
    assert "sparsemix triton" in result["not_run"]  # it is for GPUs


def test_gpu_layer_by_both_of_our_back_ends(monkeypatch):
    """In Triton's interpreter, which has no bfloat16."""
    pytest.importorskip("sparsemix.kernels.triton.backend")
    monkeypatch.setattr(importlib.import_module("gpu_layer"), "CHECKED_TOKENS", 8)
    result = measure_gpu_layer(torch.float32, tokens=8, experts=2, k=2)
    assert {"sparsemix", "sparsemix triton", "transformers grouped_mm", "dense"} <= set(result["seconds"])
    backends = [one["claim"].partition("backend ")[2].partition(":")[0] for one in result["claims"]]
    assert backends.count("triton") == backends.count("auto") == 2


def test_gpu_layer_refuses_wrong_values():
    pytest.importorskip("transformers")
    gpu_layer, ours = (importlib.import_module(name) for name in ("gpu_layer", "ours"))
    shape = ours.LayerShape(tokens=64, dim=16, hidden=8, experts=6, k=3)
    moe, other = ours.our_moe(shape), ours.our_moe(shape)
    expected = gpu_layer.reference(shape, moe)
    gpu_layer.check_values("ours", ours.our_layer(moe), expected, shape, moe)
    with pytest.raises(ValueError, match=r"y and dx of another: must agree within 0\.05"):
        gpu_layer.check_values("another", ours.our_layer(other), expected, shape, other)


@pytest.mark.slow  # four processes, each of which imports everything
def test_interop_memory(tmp_path):
    result = run("interop_memory", tmp_path)
    assert [one["family"] for one in result["measured"]] == ["mixtral", "gpt_oss"]
    assert all(claim["limit"] == "at most 1.0" for one in result["measured"] for claim in one["claims"])


@pytest.mark.slow
def test_surgery_memory(tmp_path):
    result = run("surgery_memory", tmp_path)
    assert {one["verb"].partition(",")[0] for one in result["measured"]} >= {"upcycle", "prune", "merge-experts"}
    assert all(one["layer_bytes"] > 0 for one in result["measured"])
