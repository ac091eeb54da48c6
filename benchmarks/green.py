"""Nothing is timed before it is right: benchmarks refuse to run while the tests of what they time fail."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import torch

from sparsemix.files import write_text

ROOT = Path(__file__).resolve().parent.parent
VERDICT = ROOT / "build" / "green_kernels"
"""What the tests last passed on; not tracked. `make clean` forgets it."""
TESTS = ("tests/kernels", "tests/test_layer.py", "tests/test_layer_in_use.py")


def require_green_kernels() -> None:
    """Run the tests of the kernels and of the layer, unless they passed before on the same files.

    Raises:
        SystemExit: they fail.
    """
    found = fingerprint()
    if VERDICT.exists() and VERDICT.read_text(encoding="utf-8") == found:
        return
    print("tests of what is timed:", *TESTS, flush=True)
    command = (sys.executable, "-m", "pytest", *TESTS, "-q", "-m", "not slow")
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        raise SystemExit("kernels: must pass their tests to be worth timing, got failures (above)")
    VERDICT.parent.mkdir(exist_ok=True)
    write_text(VERDICT, found)


def fingerprint() -> str:
    """Hash of the package, the tests, the versions of Python and PyTorch, and whether there is a GPU."""
    digest = hashlib.sha256(f"{sys.version} {torch.__version__} {torch.cuda.is_available()}".encode())
    for folder in ("sparsemix", "tests"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(ROOT)}\0".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
