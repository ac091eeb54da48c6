"""Scripts of R beside the benchmarks, and the package flexmix that they need."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

REMEDY = "run: apt-get install r-cran-flexmix"


def flexmix_version() -> dict[str, str]:
    """The versions of R and of flexmix.

    Raises:
        SystemExit: one of them is not installed.
    """
    if shutil.which("Rscript") is None:
        raise SystemExit(f"Rscript: must be installed to compare with flexmix, got none; {REMEDY}")
    asked = 'cat(as.character(getRversion()), if (requireNamespace("flexmix", quietly = TRUE)) '
    asked += 'as.character(packageVersion("flexmix")) else "")'
    done = subprocess.run(("Rscript", "--vanilla", "-e", asked), capture_output=True, text=True, check=True)
    r, *flexmix = done.stdout.split()
    if not flexmix:
        raise SystemExit(f"flexmix: must be installed in R to compare with it, got none; {REMEDY}")
    return {"R": r, "flexmix": flexmix[0]}


def run_r(script: str, *arguments: object) -> None:
    """Run a script beside this file.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    path = Path(__file__).with_name(script)
    done = subprocess.run(
        ("Rscript", "--vanilla", path, *map(str, arguments)), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{script}: must run, got\n{done.stderr}")
