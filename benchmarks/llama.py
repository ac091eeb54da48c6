"""llama.cpp in a process and an environment of its own, which `make test-slow` builds."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from sparsemix.checks import check

PYTHON = Path(__file__).parents[1] / ".venv-llama" / "bin" / "python"
CHILD = Path(__file__).with_name("llama_child.py")
LAST_WORDS = 1000
"""Characters of what a child says when it fails."""


def ask(path: Path, **request: Any) -> dict[str, Any]:
    """What llama.cpp makes of a GGUF file: logits and greedy tokens of `prompts`, ids of `texts`.

    Raises:
        ValueError: it is not built, or it fails.
    """
    check(PYTHON.exists(), "llama.cpp", "must be built", f"no {PYTHON}", "run: make test-slow")
    asked = json.dumps({"path": str(path), "threads": 1, **request})
    done = subprocess.run([PYTHON, CHILD], input=asked, capture_output=True, text=True, timeout=300)
    check(done.returncode == 0, "llama.cpp", "must run", done.stderr[-LAST_WORDS:])
    return json.loads(done.stdout)
