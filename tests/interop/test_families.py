"""Models of every family come in and go out again: the same logits, the same tokens, the same bytes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from interop.twins import CONFIGS, prompts, save, transformers, twin

from sparsemix.inference import generate
from sparsemix.interop import build, matching_family, open_model, theirs, write_own
from sparsemix.interop.families import FAMILIES
from sparsemix.models import Decoder
from sparsemix.tensors import write_folder

TOKENS_S = 20


@pytest.fixture(params=list(CONFIGS), scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name: str) -> Any:
    return twin(name)


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(model, tmp_path_factory.mktemp("theirs"), max_shard_size="40KB")


def logits(decoder: Decoder, tokens_BS: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return decoder.eval().logits(decoder(tokens_BS).hidden_BSD)


def export(path: Path, out: Path) -> Path:
    """A folder that transformers reads, of the stored model in another."""
    stored = open_model(path)
    family = matching_family(stored.config)
    assert family is not None
    document, tensors = theirs(stored, family)
    out.mkdir()
    write_folder(tensors, out, max_shard_bytes=30_000)
    (out / "config.json").write_text(json.dumps(document))
    for file in stored.files:
        shutil.copy(file, out)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_family_has_a_twin() -> None:
    assert {name.split()[0] for name in CONFIGS} == set(FAMILIES)


def test_logits_equal_those_of_transformers(model: Any, folder: Path) -> None:
    assert len(list(folder.glob("*.safetensors"))) > 1
    with torch.no_grad():
        expected = model(prompts()).logits
    assert expected.std() > 0.2
    torch.testing.assert_close(logits(build(open_model(folder)), prompts()), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_decoding_with_a_cache_gives_the_same(model: Any, folder: Path) -> None:
    decoder, (batch, length) = build(open_model(folder)).eval(), prompts().shape
    cache, parts = decoder.new_cache(batch, length), prompts().split([length - 9, *[1] * 9], dim=1)
    found = torch.cat([decoder.logits(decoder(part, cache=cache).hidden_BSD) for part in parts], dim=1)
    torch.testing.assert_close(found, model(prompts()).logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_on_the_left_gives_the_same(model: Any, folder: Path) -> None:
    decoder, valid_BS = build(open_model(folder)).eval(), torch.ones_like(prompts(), dtype=torch.bool)
    valid_BS[0, :9] = False
    position_BS = (valid_BS.cumsum(1) - 1).clamp(min=0)
    expected = model(prompts(), attention_mask=valid_BS.long(), position_ids=position_BS).logits
    found = decoder.logits(decoder(prompts(), valid_BS=valid_BS).hidden_BSD)
    torch.testing.assert_close(found[valid_BS], expected[valid_BS], atol=1e-5, rtol=1e-5)


def test_greedy_tokens_equal_those_of_transformers(model: Any, folder: Path) -> None:
    settings = {"max_new_tokens": TOKENS_S, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = model.generate(prompts(), attention_mask=torch.ones_like(prompts()), **settings)
    ours = generate(build(open_model(folder)), prompts().tolist(), max_new_tokens=TOKENS_S, temperature=0.0)
    assert ours == expected[:, prompts().shape[1] :].tolist()


def test_import_export_import_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_own(open_model(folder), tmp_path / "first")
    exported = export(tmp_path / "first", tmp_path / "theirs")
    write_own(open_model(exported), tmp_path / "second")
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def test_what_leaves_is_what_came(name: str, folder: Path, tmp_path: Path) -> None:
    stored, exported = open_model(folder), open_model(export(folder, tmp_path / "theirs"))
    assert exported.family == stored.family == name.split()[0]
    assert exported.config == stored.config


def test_transformers_loads_what_leaves(model: Any, folder: Path, tmp_path: Path) -> None:
    loaded, report = transformers.AutoModelForCausalLM.from_pretrained(
        export(folder, tmp_path / "theirs"), output_loading_info=True
    )
    assert type(loaded) is type(model)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
    with torch.no_grad():
        torch.testing.assert_close(loaded(prompts()).logits, model(prompts()).logits, atol=1e-6, rtol=1e-6)
