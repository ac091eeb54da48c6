"""Every Python block of every page runs, every console block prints what it says, and the README's tree is today's."""

from __future__ import annotations

import doctest
import importlib
import re
import subprocess
import sys
import typing
from pathlib import Path
from types import ModuleType

import pytest

from sparsemix.routers import RouterConfig

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
MODULES = sorted(path for path in (ROOT / "sparsemix").rglob("*.py") if ">>> " in path.read_text())


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), namespace)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "console")], ids=lambda p: p.name)
def test_console_blocks_print_what_they_say(page, tmp_path):
    """Word for word, but for numbers, which differ in their last digits from one processor to the next, and domains.

    The commands of a page run in one folder, in order.
    """
    for block in blocks(page, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            assert words(run(command, tmp_path)) == words(expected), command


def words(text: str) -> list[str]:
    text = re.sub(r"\(library [^)]*\)", "(domains)", text)  # of the running Python, some of which ship without tests
    return re.sub(r"[0-9]+(?:[.,:][0-9]+)*", "#", text).replace("━", "").split()


def run(command: str, folder: Path) -> str:
    scripts = str(Path(sys.executable).parent)
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={"PATH": f"{scripts}:/usr/bin:/bin", "COLUMNS": "100", "HOME": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    return done.stdout


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_docstring_examples(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def tool(name: str, monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module(name)


def test_tree_in_the_readme_is_up_to_date(monkeypatch):
    readme = (ROOT / "README.md").read_text()
    assert readme == tool("tree", monkeypatch).updated(readme), "run: make docs"


def test_page_of_routers_is_up_to_date_and_leaves_none_out(monkeypatch):
    routers_page, entries = tool("routers_page", monkeypatch), tool("router_entries", monkeypatch)
    assert (ROOT / "docs" / "routers.md").read_text() == routers_page.page(), "run: make docs"
    union = typing.get_args(typing.get_args(RouterConfig)[0])
    assert {type(routers_page.config_of(entry)) for entry in entries.ENTRIES} == set(union)


def test_picture_of_routers_has_a_panel_for_each(monkeypatch):
    routers_page, entries = tool("routers_page", monkeypatch), tool("router_entries", monkeypatch)
    titles = [axis.get_title() for axis in routers_page.picture().axes]
    assert [title for title in titles if title] == [entry.name for entry in entries.ENTRIES]


def test_every_file_says_what_it_is_for():
    for path in (ROOT / "sparsemix").rglob("*.py"):
        assert path.read_text().startswith('"""'), path
