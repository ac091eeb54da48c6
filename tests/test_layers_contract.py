"""Imports point down only: the layers contract that pyproject.toml states."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOL = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]


def test_imports_point_down_only():
    pytest.importorskip("importlinter")
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_room_is_in_a_contract():
    mentioned = set()
    for contract in TOOL["importlinter"]["contracts"]:
        layers = (room for layer in contract.get("layers", []) for room in layer.split("|"))
        mentioned |= {room.strip("() ") for room in layers}
        mentioned |= {module.removeprefix("sparsemix.") for module in contract.get("source_modules", [])}
    rooms = {path.parent.name for path in (ROOT / "sparsemix").glob("*/__init__.py")}
    files = {path.stem for path in (ROOT / "sparsemix").glob("*.py")} - {"__init__", "__main__"}
    assert rooms | files <= mentioned
