import json
from pathlib import Path

import pytest

from sparsemix.config import config
from sparsemix.runs import RunError, RunFolder, versions


@config
class Example:
    """A config."""

    steps: int = 3
    name: str = "a"


def test_what_is_written_is_read_again(tmp_path):
    created = RunFolder.create(tmp_path / "deep" / "run", Example(steps=5), {"device": "cpu"})
    opened = RunFolder.open(created.path)
    assert opened.config(Example) == Example(steps=5)
    assert opened.facts() == {"version": versions.FORMAT_VERSION, "device": "cpu"}
    assert sorted(path.name for path in opened.path.iterdir()) == ["config.json", "run.json"]


def test_an_empty_folder_will_do(tmp_path):
    RunFolder.create(tmp_path, Example(), {})
    assert RunFolder.open(tmp_path).config(Example) == Example()


def test_a_start_that_was_cut_short_is_made_again(tmp_path):
    RunFolder.create(tmp_path / "whole", Example(), {})
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "config.json").write_bytes((tmp_path / "whole" / "config.json").read_bytes())
    (tmp_path / "cut" / "run.json.partial").write_text("{")
    RunFolder.create(tmp_path / "cut", Example(), {})
    assert RunFolder.open(tmp_path / "cut").config(Example) == Example()


def test_an_existing_run_is_refused(tmp_path):
    RunFolder.create(tmp_path, Example(), {})
    with pytest.raises(
        RunError, match=r"^out: must be a new folder, got the run in .*; add --resume or choose another$"
    ):
        RunFolder.create(tmp_path, Example(steps=9), {})
    assert RunFolder.open(tmp_path).config(Example) == Example()


@pytest.mark.parametrize("name", ["notes.txt", "config.json", "data"])
def test_a_folder_with_other_things_is_refused(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(
        RunError, match=r"^out: must be a new or an empty folder, got .* with other things; choose another$"
    ):
        RunFolder.create(tmp_path, Example(), {})
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="out: must be a new or an empty folder"):
        RunFolder.create(tmp_path / "file", Example(), {})


@pytest.mark.parametrize("missing", ["run.json", "config.json"])
def test_only_runs_are_opened(tmp_path, missing):
    RunFolder.create(tmp_path, Example(), {})
    (tmp_path / missing).unlink()
    with pytest.raises(RunError, match=r"^run: must be the folder of a run, got .*; check the path$"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize(("name", "text"), [("run.json", "{"), ("run.json", "[]"), ("config.json", "nonsense")])
def test_damaged_json_names_the_file(tmp_path, name, text):
    RunFolder.create(tmp_path, Example(), {})
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError) as caught:
        RunFolder.open(tmp_path).config(Example)
    assert str(caught.value).startswith(f"{tmp_path / name}: must be ")
    assert "\n" not in str(caught.value)


def test_an_unknown_key_names_the_file(tmp_path):
    RunFolder.create(tmp_path, Example(), {})
    (tmp_path / "config.json").write_text('{"stepz": 1}')
    with pytest.raises(ValueError, match=r"config.json: stepz: unknown key, got 1; "):
        RunFolder.open(tmp_path).config(Example)


def test_a_newer_version_is_refused(tmp_path):
    RunFolder.create(tmp_path, Example(), {})
    (tmp_path / "run.json").write_text(json.dumps({"version": versions.FORMAT_VERSION + 1}))
    known = versions.FORMAT_VERSION
    line = rf"run.json: format version must be in 1..{known}, got {known + 1}; update sparsemix$"
    for read in (RunFolder.facts, lambda folder: folder.config(Example)):
        with pytest.raises(RunError, match=line):
            read(RunFolder.open(tmp_path))


def test_discarding_removes_it(tmp_path):
    folder = RunFolder.create(tmp_path / "run", Example(), {})
    folder.data.mkdir()
    folder.discard()
    assert list(tmp_path.iterdir()) == []


def test_paths_of_a_run():
    folder = RunFolder(Path("x"))
    assert folder.checkpoints.path(100) == Path("x/checkpoints/step-00000100")
    assert (folder.metrics, folder.data, folder.tokenizer) == (
        Path("x/metrics.jsonl"),
        Path("x/data"),
        Path("x/tokenizer.json"),
    )
