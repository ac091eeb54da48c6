"""`sparsemix verify`: a table, a line that sums it up, and an exit code that says whether to trust the model."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparsemix import DecoderConfig, GLUExpertsConfig, MoEConfig, TopKRouterConfig
from sparsemix.cli.proofs import Asked, proofs
from sparsemix.config import to_json
from sparsemix.data import ByteTokenizerConfig
from sparsemix.interop import StoredModel, open_model, write_own
from sparsemix.models import AttentionConfig
from sparsemix.tensors import Held
from sparsemix.train import TrainConfig

LAYER = MoEConfig(num_experts=4, router=TopKRouterConfig(k=2), experts=GLUExpertsConfig(hidden=8))
MODEL = DecoderConfig(
    vocab_size=50, dim=16, num_layers=2, context=32, attention=AttentionConfig(num_heads=2), moe=LAYER
)


def write(path: str, config) -> Path:
    Path(path).write_text(to_json(config))
    return Path(path)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_layers_config_becomes_a_table_and_a_line(sparsemix):
    answer = sparsemix("verify", write("layer.json", LAYER))
    assert answer.code == 0
    assert "experts by cpu" in answer.out
    assert answer.out.splitlines()[-1].startswith("15 passed, 0 failed, 0 not applicable")


def test_json_has_the_same_rows(sparsemix):
    answer = sparsemix("verify", write("layer.json", LAYER), "--json")
    found = json.loads(answer.out)
    assert (found["passed"], found["failed"], found["not_applicable"]) == (15, 0, 0)
    layer = next(row for row in found["findings"] if row["check"] == "layer")
    assert set(layer) == {"of", "check", "where", "detail", "passed", "error", "tolerance", "worst"}
    assert layer["error"] <= layer["tolerance"]


@pytest.mark.parametrize("config", [MODEL, TrainConfig(model=MODEL, sequence_length=16)], ids=["model", "run"])
def test_of_a_models_config_one_mixture_stands_for_all(sparsemix, config):
    answer = sparsemix("verify", write("config.json", config), "--json", "--tokens", "16")
    assert answer.code == 0
    found = json.loads(answer.out)["findings"]
    assert {row["where"] for row in found} == {"block 0", "model"}
    assert "optimiser step" in {row["check"] for row in found}


def test_a_run_is_verified_with_its_text_its_losses_and_its_metrics(sparsemix, trained):
    answer = sparsemix("verify", trained.run, "--json", "--tokens", "32")
    assert answer.code == 0, answer
    found = {(row["check"], row["where"]): row["passed"] for row in json.loads(answer.out)["findings"]}
    assert found[("metrics", "run")]
    assert found[("tensors", "checkpoint")]
    assert found[("balance loss switch", "block 1")]
    assert found[("optimiser step", "block 1")]


def test_every_run_in_a_folder_is_verified(sparsemix, trained):
    Path("several").mkdir()
    shutil.copytree(trained.run, "several/one")
    shutil.copytree(trained.run, "several/two")
    answer = sparsemix("verify", "several", "--json", "--tokens", "8", "--layers", "1")
    assert answer.code == 0
    assert {row["of"] for row in json.loads(answer.out)["findings"]} == {"several/one", "several/two"}


def test_a_fault_is_named_and_makes_the_exit_code_3(sparsemix, trained):
    write_own(open_model(trained.run), Path("own"))
    assert sparsemix("verify", "own", "--tokens", "8").code == 0
    (file,) = Path("own").glob("*.safetensors")
    tensors = load_file(file)
    tensors["blocks.0.ffn.experts.down_EDF"][1] = tensors["blocks.0.ffn.experts.down_EDF"][0]
    tensors["blocks.0.ffn.experts.gate_up_EFD"][1] = tensors["blocks.0.ffn.experts.gate_up_EFD"][0]
    save_file(tensors, file, metadata={"format": "pt"})
    answer = sparsemix("verify", "own", "--tokens", "8", "--layers", "0")
    assert answer.code == 3
    assert answer.out.splitlines()[-1].endswith("experts differ of checkpoint")


def test_the_losses_that_a_folder_says_are_those_that_are_verified(sparsemix):
    losses = [{"type": "importance", "weight": 0.1}]
    model = StoredModel(MODEL, Held(MODEL.build().state_dict()), "sparsemix", facts={"balance_losses": losses})
    write_own(model, Path("own"))
    answer = sparsemix("verify", "own", "--json", "--tokens", "8")
    assert answer.code == 0
    named = {row["check"] for row in json.loads(answer.out)["findings"] if row["check"].startswith("balance loss")}
    assert named == {"balance loss importance"}


def test_only_some_blocks_are_read_where_these_are_asked_for(sparsemix, trained):
    answer = sparsemix("verify", trained.run, "--json", "--tokens", "8", "--layers", "1")
    assert {row["where"] for row in json.loads(answer.out)["findings"]} == {"checkpoint", "block 1", "run"}


def test_a_model_without_room_is_refused_with_the_way_out(sparsemix, trained, no_traceback_of, monkeypatch):
    monkeypatch.setattr("sparsemix.verify.blocks.free_memory", lambda: 1000)
    answer = sparsemix("verify", trained.run)
    assert answer.code == 2
    no_traceback_of(answer, "memory: all checks of the whole model must have room")
    assert "--layers 0" in answer.err


def test_a_config_without_room_is_refused_before_it_is_built(sparsemix, no_traceback_of):
    answer = sparsemix("verify", write("model.json", replace(MODEL, vocab_size=10**9)))
    assert answer.code == 2
    no_traceback_of(answer, "memory: all checks of the whole model must have room, .*; verify a smaller model")


@pytest.mark.parametrize(
    ("contents", "line"),
    [
        ("{", "own/tokenizer.json: must be a tokenizer.json"),
        (None, "own/tokenizer.json: must give ids below vocab_size=50"),
    ],
    ids=["damaged", "of another model"],
)
def test_a_tokenizer_that_is_not_the_models_is_refused(sparsemix, no_traceback_of, contents, line):
    write_own(StoredModel(MODEL, Held(MODEL.build().state_dict()), "sparsemix"), Path("own"))
    ByteTokenizerConfig().build([]).save(Path("own/tokenizer.json"))
    if contents is not None:
        Path("own/tokenizer.json").write_text(contents)
    answer = sparsemix("verify", "own")
    assert answer.code == 2
    no_traceback_of(answer, line)


def test_of_several_runs_each_is_opened_in_its_turn(trained):
    for name in ("one", "two"):
        shutil.copytree(trained.run, f"several/{name}")
    shutil.rmtree("several/two/checkpoints")
    found = proofs(Path("several"), Asked(8, (), False, "cpu"))
    assert next(found)[0] == "several/one"
    with pytest.raises(ValueError, match="must have a checkpoint"):
        next(found)


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["nowhere"], "nowhere"),
        (["layer.json", "--tokens", "3"], "tokens: must be at least 8"),
        (["layer.json", "--layers", "0"], "layers: must not be given with the config of a layer"),
        (["model.json", "--layers", "7"], "layers: must be among the blocks with a mixture, which are 0, 1"),
        (["empty"], "path: must be the folder of a run or of a model"),
        (["broken.json"], "broken.json"),
    ],
    ids=["missing", "few tokens", "a layer has no blocks", "no such block", "empty folder", "no JSON"],
)
def test_what_cannot_be_verified_is_refused_in_one_line(sparsemix, no_traceback_of, args, line):
    write("layer.json", LAYER)
    write("model.json", MODEL)
    Path("empty").mkdir()
    Path("broken.json").write_text("{")
    answer = sparsemix("verify", *args)
    assert answer.code == 2
    no_traceback_of(answer, line)
