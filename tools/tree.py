"""The annotated file tree of the README, made from the first lines of files; run it to update the README."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
KINDS = {".py", ".cpp", ".h"}
BEGIN, END = "<!-- tree -->\n", "<!-- /tree -->"


def tree(package: Path) -> str:
    """One line a file: its path, indented by depth, and what it is for."""
    lines = [f"{package.name}/"]
    for folder in [package, *sorted(path.parent for path in package.glob("*/**/__init__.py"))]:
        depth = len(folder.relative_to(package).parts)
        if folder != package:
            lines.append(_line(depth, f"{folder.name}/", folder / "__init__.py"))
        files = sorted(path for path in folder.iterdir() if path.suffix in KINDS)
        lines += [
            _line(depth + 1, path.name, path) for path in files if path.name != "__init__.py" or folder == package
        ]
    return "\n".join(lines) + "\n"


def _line(depth: int, name: str, path: Path) -> str:
    return f"{'  ' * depth + name:<28} {_purpose(path)}".rstrip()


def _purpose(path: Path) -> str:
    """The first line of its docstring, or of the comment that C++ begins with."""
    text = path.read_text()
    if path.suffix != ".py":
        return text.splitlines()[0].removeprefix("// ")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


def updated(readme: str) -> str:
    """The README with the tree as it is now."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}```\n{tree(ROOT / 'sparsemix')}```\n{END}{after}"


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(updated(path.read_text()))
