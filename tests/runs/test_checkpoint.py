import json
from pathlib import Path

import pytest
import torch

from sparsemix.runs import Checkpoint, Checkpoints, RunError
from sparsemix.runs import checkpoint as module


def example(seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 4, generator=generator)
    model = {"weight": weight, "narrow": weight.bfloat16(), "count": torch.tensor(7), "none": torch.zeros(0, 2)}
    state = {"rng": torch.randint(256, (9,), generator=generator).to(torch.uint8)}
    return Checkpoint({"model": model, "optimizer": state}, {"step": seed, "nested": {"x": [1.5, None]}})


def assert_same(one: Checkpoint, other: Checkpoint):
    assert one.values == other.values
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensors in one.tensors.items():
        assert tensors.keys() == other.tensors[name].keys()
        for key, tensor in tensors.items():
            assert tensor.dtype == other.tensors[name][key].dtype
            assert torch.equal(tensor, other.tensors[name][key])


@pytest.fixture
def checkpoints(tmp_path):
    found = Checkpoints(tmp_path / "checkpoints")
    for step in (5, 10, 100):
        found.save(step, example(step))
    return found


def test_round_trip(checkpoints):
    assert checkpoints.steps() == [5, 10, 100]
    assert checkpoints.latest() == 100
    for step in (5, 10, 100):
        assert_same(checkpoints.load(step), example(step))


def test_is_safetensors_and_json_and_nothing_else(checkpoints):
    names = {"model.safetensors", "optimizer.safetensors", "state.json"}
    assert {path.name for path in checkpoints.path(10).iterdir()} == names
    assert json.loads((checkpoints.path(10) / "state.json").read_text())["step"] == 10


def test_only_the_files_asked_for_are_read(checkpoints):
    (checkpoints.path(10) / "optimizer.safetensors").unlink()
    assert_same(
        checkpoints.load(10, ["model"]), Checkpoint({"model": example(10).tensors["model"]}, example(10).values)
    )


def test_tensors_of_one_file_one_at_a_time(checkpoints):
    source = checkpoints.open(10, "model")
    read = {name: source.read(name) for name in source.specs}
    assert_same(Checkpoint({"model": read}, {}), Checkpoint({"model": example(10).tensors["model"]}, {}))


def test_tied_tensors_one_at_a_time(tmp_path):
    weight = torch.arange(6.0)
    Checkpoints(tmp_path).save(1, Checkpoint({"model": {"one": weight, "other": weight}}, {}))
    source = Checkpoints(tmp_path).open(1, "model")
    assert all(torch.equal(source.read(name), weight) for name in ("one", "other"))


def test_a_damaged_file_is_refused_before_anything_of_it_is_read(checkpoints):
    path = checkpoints.path(10) / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunError, match=r"model.safetensors with other contents .* resume from step 5"):
        checkpoints.open(10, "model")


def test_no_checkpoint_yet(tmp_path):
    assert Checkpoints(tmp_path).latest() is None
    assert Checkpoints(tmp_path / "none").steps() == []


def test_tied_tensors_are_written_once(tmp_path):
    embedding = torch.randn(100, 8)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, Checkpoint({"model": {"embedding": embedding, "unembedding": embedding}}, {}))
    tensors = checkpoints.load(1).tensors["model"]
    assert torch.equal(tensors["embedding"], embedding)
    assert torch.equal(tensors["unembedding"], embedding)
    assert (checkpoints.path(1) / "model.safetensors").stat().st_size < 1.5 * embedding.nbytes


def test_views_that_overlap_are_written_as_they_look(tmp_path):
    whole = torch.randn(6, 4)
    views = {"top": whole[:4], "bottom": whole[2:], "transposed": whole.T, "whole": whole}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, Checkpoint({"model": views}, {}))
    assert_same(checkpoints.load(1), Checkpoint({"model": views}, {}))


def test_the_last_ones_are_kept_and_leftovers_go(checkpoints):
    (checkpoints.folder / "step-00000200.partial").mkdir()
    (checkpoints.folder / "notes.txt").write_text("mine")
    checkpoints.keep_last(2)
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["notes.txt", "step-00000010", "step-00000100"]


def test_a_disk_that_is_full_leaves_the_others(checkpoints, monkeypatch):
    def fail(tensors, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", fail)
    with pytest.raises(RunError, match=r"step-00000200: could not be written, got No space left on device; free space"):
        checkpoints.save(200, example())
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == [f"step-{n:08}" for n in (5, 10, 100)]
    assert_same(checkpoints.load(100), example(100))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_damage_is_found_and_the_one_before_is_named(checkpoints, damage, name):
    damage(checkpoints.path(100) / name)
    with pytest.raises(RunError) as caught:
        checkpoints.load(100)
    message = str(caught.value)
    assert message.startswith(f"{checkpoints.path(100)}: must be a whole checkpoint, got ")
    assert name in message
    assert message.endswith("; remove that folder to resume from step 10")
    assert "\n" not in message
    assert_same(checkpoints.load(10), example(10))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 1}', '{"version": 1, "files": {"model": {}}}'])
def test_a_damaged_state_is_found(checkpoints, text):
    (checkpoints.path(5) / "state.json").write_text(text)
    with pytest.raises(
        RunError, match=r"step-00000005: must be a whole checkpoint, got .*; there is no earlier one"
    ) as caught:
        checkpoints.load(5)
    assert "\n" not in str(caught.value)


def test_one_that_is_not_there(checkpoints):
    with pytest.raises(RunError, match="step-00000007: must be a whole checkpoint"):
        checkpoints.load(7)
