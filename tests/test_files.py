"""Nothing is half written: not when the disk is full, not when the process is interrupted."""

import errno
import os
from pathlib import Path

import pytest

from sparsemix.files import new_folder, write_text

FULL = OSError(errno.ENOSPC, "No space left on device")


def entries(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_text_is_replaced_whole(tmp_path):
    path = tmp_path / "a.json"
    write_text(path, "old")
    write_text(path, "néw")
    assert path.read_text(encoding="utf-8") == "néw"
    assert entries(tmp_path) == ["a.json"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_is_full_leaves_the_old_text(tmp_path, monkeypatch, step):
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail(*arguments):
        raise FULL

    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[step], fail)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert entries(tmp_path) == ["a.json"]


def test_a_folder_appears_when_it_is_complete(tmp_path):
    with new_folder(tmp_path / "made") as partial:
        (partial / "inner").mkdir()
        (partial / "inner" / "file").write_text("text")
        assert not (tmp_path / "made").exists()
    assert (tmp_path / "made" / "inner" / "file").read_text() == "text"
    assert entries(tmp_path) == ["made"]


def fill(path, error):
    with new_folder(path) as partial:
        (partial / "file").write_text("text")
        raise error


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt(), ValueError("x")])
def test_a_folder_that_fails_leaves_nothing_nor_its_parents(tmp_path, error):
    with pytest.raises(type(error)):
        fill(tmp_path / "new" / "deep" / "made", error)
    assert entries(tmp_path) == []


def test_parents_that_others_use_by_then_stay(tmp_path):
    with new_folder(tmp_path / "new" / "made"):
        (tmp_path / "new" / "theirs").write_text("")
    with pytest.raises(ValueError, match="x"):
        fill(tmp_path / "new" / "other", ValueError("x"))
    assert entries(tmp_path / "new") == ["made", "theirs"]


def test_what_an_earlier_attempt_left_is_replaced(tmp_path):
    leftover = tmp_path / "made.partial"
    leftover.mkdir()
    (leftover / "old").write_text("")
    with new_folder(tmp_path / "made") as partial:
        (partial / "new").write_text("")
    assert entries(tmp_path / "made") == ["new"]


def test_everything_is_synced_before_it_is_renamed(tmp_path, monkeypatch):
    calls = []
    replace = Path.replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: calls.append(os.readlink(f"/proc/self/fd/{handle}").rpartition("/")[2])
    )
    monkeypatch.setattr(Path, "replace", lambda self, target: (calls.append("replace"), replace(self, target)))
    with new_folder(tmp_path / "made") as partial:
        (partial / "file").write_text("text")
    assert calls == ["file", "made.partial", "replace", tmp_path.name]
