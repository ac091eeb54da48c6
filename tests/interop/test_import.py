"""`sparsemix import`: what comes is whole and as its config says, or nothing is written and one line says why."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from interop.twins import save, twin
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparsemix.cli import main
from sparsemix.interop import build, open_model

CONFIG, INDEX = "config.json", "model.safetensors.index.json"
EXPERT = "model.layers.1.block_sparse_moe.experts.3.w3.weight"


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(twin("mixtral"), tmp_path_factory.mktemp("mixtral"), max_shard_size="40KB")


@pytest.fixture
def folder(mixtral: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(mixtral, tmp_path / "theirs"))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def shard_of(folder: Path, name: str) -> Path:
    return folder / json.loads((folder / INDEX).read_text())["weight_map"][name]


def edit_shard(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Of the shard with the expert; the index follows."""
    path = shard_of(folder, EXPERT)
    tensors = load_file(path)
    names = set(tensors)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})

    def follow(index: dict[str, Any]) -> None:
        for name in names - set(tensors):
            del index["weight_map"][name]
        index["weight_map"] |= dict.fromkeys(tensors, path.name)

    edit(folder / INDEX, follow)


def cut_short(folder: Path) -> None:
    path = shard_of(folder, EXPERT)
    path.write_bytes(path.read_bytes()[:-9])


def twice(folder: Path) -> None:
    other = next(path for path in folder.glob("*.safetensors") if path != shard_of(folder, EXPERT))
    save_file(load_file(other) | {EXPERT: torch.ones(24, 32)}, other, {"format": "pt"})


def outside(folder: Path) -> None:
    path = shard_of(folder, EXPERT)
    shutil.move(path, folder.parent / path.name)

    def lead_out(index: dict[str, Any]) -> None:
        for name, shard in index["weight_map"].items():
            index["weight_map"][name] = f"../{shard}" if shard == path.name else shard

    edit(folder / INDEX, lead_out)


def configured(**keys: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / CONFIG, lambda document: document.update(keys))


def reshaped(tensors: dict[str, Tensor]) -> None:
    tensors[EXPERT] = tensors[EXPERT].T.contiguous()


def retyped(dtype: torch.dtype) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({EXPERT: tensors[EXPERT].to(dtype)})


def renamed(tensors: dict[str, Tensor]) -> None:
    tensors[EXPERT.replace("w3", "w4")] = tensors.pop(EXPERT)


def extra(tensors: dict[str, Tensor]) -> None:
    tensors["model.layers.0.enorm.weight"] = torch.ones(32)


def further_layer(tensors: dict[str, Tensor]) -> None:
    tensors["model.layers.3.enorm.weight"] = torch.ones(32)


def two_widths(tensors: dict[str, Tensor]) -> None:
    for name, dtype in zip(list(tensors)[:3], (torch.bfloat16, torch.bfloat16, torch.float16), strict=True):
        tensors[name] = tensors[name].to(dtype)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated shard": (cut_short, r"model-0000\d-of-0000\d.safetensors: .*: must end by the end of the file"),
    "missing shard": (lambda f: shard_of(f, EXPERT).unlink(), "must be a file, got none"),
    "missing tensor": (
        lambda f: edit_shard(f, lambda tensors: tensors.pop(EXPERT)),
        f"{EXPERT}: must be there, got none; get the model anew",
    ),
    "extra tensor": (
        lambda f: edit_shard(f, extra),
        "model.layers.0.enorm.weight: must have a place in the model of this config, got an extra tensor",
    ),
    "a layer that predicts further tokens": (
        lambda f: edit_shard(f, further_layer),
        r"model.layers.3.enorm.weight: must be of one of the \d layers .*, got an extra tensor; if it predicts further",
    ),
    "wrong shape": (lambda f: edit_shard(f, reshaped), rf"{EXPERT}: must have shape \[24, 32\], .*, got \[32, 24\]"),
    "whole numbers": (
        lambda f: edit_shard(f, retyped(torch.int32)),
        f"{EXPERT}: must be floating-point numbers, got torch.int32",
    ),
    "eight bits": (
        lambda f: edit_shard(f, retyped(torch.float8_e4m3fn)),
        f"{EXPERT}: must be floating-point numbers, got torch.float8_e4m3fn",
    ),
    "two narrow dtypes": (
        lambda f: edit_shard(f, two_widths),
        "must be torch.bfloat16 or float32, as the others, got torch.float16",
    ),
    "renamed tensor": (lambda f: edit_shard(f, renamed), f"{EXPERT}: must be there, got none, but .*w4.weight"),
    "duplicate": (twice, f"{EXPERT}: must be in .* alone, got a duplicate"),
    "path outside the folder": (outside, "must be in a file of the same folder, got '../model"),
    "more layers": (configured(num_hidden_layers=4), "model.layers.3.input_layernorm.weight: must be there, got none"),
    "fewer layers": (configured(num_hidden_layers=2), "model.layers.2.*: must be of one of the 2 layers"),
    "fewer experts": (configured(num_local_experts=3), "experts.3.*: must have a place in the model of this config"),
    "another width": (configured(intermediate_size=25), r"must have shape \[25, 32\]"),
    "another vocabulary": (configured(vocab_size=61), r"embed_tokens.weight: must have shape \[61, 32\]"),
    "an unknown key": (
        configured(logit_softcap=30.0),
        "logit_softcap: must be a key that we know .*, got 30.0; run it",
    ),
    "an unknown activation": (configured(hidden_act="xielu"), "hidden_act: must be 'silu' or .*, got 'xielu'"),
    "an unknown rope": (
        configured(rope_parameters={"rope_type": "longrope"}),
        "rope_parameters: rope_type: must be .*, got 'longrope'",
    ),
    "half of a rope": (
        configured(rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.5}),
        "partial_rotary_factor: must be 1.0 for our decoder, got 0.5",
    ),
    "a missing key": (configured(num_attention_heads=None), "num_attention_heads: must be given, got none"),
    "a wrong type": (configured(vocab_size="many"), "vocab_size: .*, got 'many'"),
    "no number where one counts": (
        configured(hidden_size="32"),
        "config.json: must have values that can be computed with",
    ),
    "heads that are none": (
        configured(num_attention_heads=0),
        "config.json: must have values that can be computed with",
    ),
    "a list for a family": (configured(model_type=["mixtral"]), r"model_type: must be one of .*, got \['mixtral'\]"),
    "too few experts": (configured(num_experts_per_tok=5), "k: must be in 1..num_experts, got k=5 with num_experts=4"),
    "quantised": (
        configured(quantization_config={"quant_method": "mxfp4"}),
        "quantization_config: must be none, got .*mxfp4.*; save it from transformers with its weights dequantised",
    ),
    "an unknown family": (
        configured(model_type="mamba"),
        "model_type: must be one of mixtral, .*, got 'mamba'; run it in transformers, with experts_implementation=",
    ),
    "no family": (lambda f: edit(f / CONFIG, lambda document: document.pop("model_type")), "model_type: .*got None"),
    "no config": (lambda f: (f / CONFIG).unlink(), "path: must be the folder of a run or of a model, with config.json"),
    "a config that is no JSON": (lambda f: (f / CONFIG).write_text("{"), "config.json: must be JSON"),
    "a key twice": (lambda f: (f / CONFIG).write_text('{"a": 1, "a": 2}'), "must name each thing once, got 'a' twice"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_refused_by_name_and_nothing_is_written(
    damage: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, complaint = DAMAGE[damage]
    spoil(folder)
    before = {path.name for path in tmp_path.iterdir()}
    assert main(["import", str(folder), "--out", str(tmp_path / "ours")]) == 2
    assert {path.name for path in tmp_path.iterdir()} == before
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(f"^error: .*{complaint}", line), line


def test_import_says_what_came(mixtral: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(mixtral), "--out", str(tmp_path / "ours")]) == 0
    model = open_model(tmp_path / "ours")
    numbers = sum(parameter.numel() for parameter in build(model).parameters())
    line = f"{tmp_path / 'ours'}: mixtral, {len(model.tensors.specs)} tensors of {numbers:,} numbers, float32\n"
    assert capsys.readouterr().out == line


def test_another_dtype_leaves_routers_wide(mixtral: Path, tmp_path: Path) -> None:
    assert main(["import", str(mixtral), "--out", str(tmp_path / "ours"), "--dtype", "bfloat16"]) == 0
    before, after = open_model(mixtral).tensors, open_model(tmp_path / "ours").tensors
    for name, spec in after.specs.items():
        assert spec.dtype == (torch.float32 if "router" in name else torch.bfloat16)
        assert torch.equal(after.read(name), before.read(name).to(spec.dtype))
    assert build(open_model(tmp_path / "ours")).embedding.weight.dtype == torch.bfloat16


def test_a_folder_with_other_things_is_left_alone(
    mixtral: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "note.txt").write_text("mine")
    assert main(["import", str(mixtral), "--out", str(tmp_path)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
    assert "out: must be a new or an empty folder" in capsys.readouterr().err


def test_the_current_folder_is_refused(
    mixtral: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["import", str(mixtral), "--out", "."]) == 2
    assert capsys.readouterr().err.startswith("error: out: must not be the current folder, got .;")


def test_the_tokenizer_goes_along_whole(folder: Path, tmp_path: Path) -> None:
    names = (
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "chat_template.jinja",
        "special_tokens_map.json",
    )
    for name in names:
        (folder / name).write_text("{}")
    assert main(["import", str(folder), "--out", str(tmp_path / "ours")]) == 0
    assert {*names} <= {path.name for path in (tmp_path / "ours").iterdir()}


def test_rotary_frequencies_of_old_checkpoints_are_passed_over(mixtral: Path, folder: Path) -> None:
    name = "model.layers.1.self_attn.rotary_emb.inv_freq"
    edit_shard(folder, lambda tensors: tensors.update({name: torch.ones(4)}))
    assert open_model(folder).tensors.specs == open_model(mixtral).tensors.specs


def test_our_own_format_whose_numbers_contradict_each_other_is_refused(mixtral: Path, tmp_path: Path) -> None:
    main(["import", str(mixtral), "--out", str(tmp_path / "ours")])
    edit(tmp_path / "ours" / CONFIG, lambda document: document.update(hidden_size=31))
    with pytest.raises(ValueError, match=r"config.json: hidden_size: must be 32, as in model, got 31; correct"):
        open_model(tmp_path / "ours")


def test_our_own_format_of_a_newer_version_is_refused(mixtral: Path, tmp_path: Path) -> None:
    main(["import", str(mixtral), "--out", str(tmp_path / "ours")])
    edit(tmp_path / "ours" / CONFIG, lambda document: document.update(format_version=99))
    with pytest.raises(ValueError, match=r"format version must be in 1..\d, got 99; update sparsemix"):
        open_model(tmp_path / "ours")
