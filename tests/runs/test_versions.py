"""Older runs load: those that there have been, and a history made up to see what several versions would be."""

import json

import pytest
import torch

from sparsemix.config import config
from sparsemix.runs import Checkpoint, RunError, RunFolder, versions


@config
class Example:
    """What version 3 calls `steps` was `iterations` in version 2, and version 1 had no name."""

    steps: int
    name: str


def to_two(kind, document):
    return document | {"name": "unnamed"} if kind == "config" else document


def to_three(kind, document):
    if kind == "config":
        document = {"steps": document["iterations"], "name": document["name"]}
    if kind == "state":
        document = document | {"values": {"done": document["values"]["step"]}}
    return document


@pytest.fixture
def history(monkeypatch):
    monkeypatch.setattr(versions, "FORMAT_VERSION", 3)
    monkeypatch.setattr(versions, "MIGRATIONS", {1: to_two, 2: to_three})


@pytest.fixture
def old_run(tmp_path):
    """As version 1 wrote it."""
    (tmp_path / "run.json").write_text('{"version": 1, "device": "cpu"}')
    (tmp_path / "config.json").write_text('{"iterations": 7}')
    RunFolder(tmp_path).checkpoints.save(4, Checkpoint({"model": {"w": torch.ones(2)}}, {"step": 4}))
    state = tmp_path / "checkpoints/step-00000004/state.json"
    state.write_text(state.read_text().replace(f'"version": {versions.FORMAT_VERSION}', '"version": 1'))
    return tmp_path


def test_an_older_run_is_read_through_every_version_since(old_run, history):
    folder = RunFolder.open(old_run)
    assert folder.config(Example) == Example(steps=7, name="unnamed")
    assert folder.facts() == {"version": 1, "device": "cpu"}
    assert folder.checkpoints.load(4).values == {"done": 4}
    assert folder.checkpoints.load(4).tensors["model"]["w"].tolist() == [1, 1]


def test_it_goes_on_with_checkpoints_of_the_new_version(old_run, history):
    folder = RunFolder.open(old_run)
    folder.checkpoints.save(5, Checkpoint({}, {"done": 5}))
    assert [folder.checkpoints.load(step).values for step in (4, 5)] == [{"done": 4}, {"done": 5}]
    assert json.loads((folder.checkpoints.path(5) / "state.json").read_text())["version"] == 3


@pytest.mark.parametrize("version", [0, 4, "1", None, 1.5])
def test_versions_that_there_are_not_are_refused(history, version):
    with pytest.raises(RunError, match=r"^here: format version must be in 1..3, got .*; update sparsemix$"):
        versions.migrated("run", {}, version, "here")


def test_a_checkpoint_of_a_newer_version_is_not_called_damaged(old_run):
    path = old_run / "checkpoints/step-00000004/state.json"
    known = versions.FORMAT_VERSION
    path.write_text(path.read_text().replace('"version": 1', f'"version": {known + 1}'))
    line = rf"step-00000004: format version must be in 1..{known}, got {known + 1}; update sparsemix$"
    with pytest.raises(RunError, match=line):
        RunFolder.open(old_run).checkpoints.load(4)


@config
class Attention:
    """As much of the attention of version 2 as it takes to see what became of that of version 1."""

    type: str
    num_heads: int
    rope_scaling: dict[str, float | str] | None


@config
class Model:
    attention: Attention
    vocab_size: int


@config
class Run:
    model: Model
    steps: int


@pytest.mark.parametrize("yarn", [None, {"factor": 4.0, "original_context": 64}])
def test_version_1_had_one_kind_of_attention_and_one_of_scaling(tmp_path, yarn):
    (tmp_path / "run.json").write_text('{"version": 1}')
    model = {"attention": {"num_heads": 4, "yarn": yarn}, "vocab_size": 9}
    (tmp_path / "config.json").write_text(json.dumps({"model": model, "steps": 3}))
    scaling = None if yarn is None else {"type": "yarn", **yarn}
    attention = Attention(type="grouped", num_heads=4, rope_scaling=scaling)
    assert RunFolder.open(tmp_path).config(Run) == Run(model=Model(attention=attention, vocab_size=9), steps=3)


@pytest.mark.parametrize("document", [{}, {"model": None}, {"model": {"attention": None}}])
def test_what_a_damaged_config_lacks_is_left_for_its_reader_to_say(document):
    assert versions.migrated("config", document, 1, "here") == document
