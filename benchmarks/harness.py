"""What every benchmark shares: taking turns, ratios pair by pair, and results that say what they were measured on."""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sparsemix.checks import check
from sparsemix.files import write_text

ROOT = Path(__file__).parent.parent


def arguments(description: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line of every benchmark; sets the number of threads."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=15, help="how often each contestant is timed")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the result")
    parser.add_argument("--toy", action="store_true", help="sizes that only show that the benchmark runs")
    found = parser.parse_args(argv)
    torch.set_num_threads(found.threads)
    return found


def take_turns(contestants: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2) -> dict[str, list[float]]:
    """Seconds of each call, by name: A B, B A, A B, ..., so that a machine's moods hit all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for index in range(-warmup, rounds):
        for name in list(contestants)[:: 1 if index % 2 else -1]:
            taken = timed(contestants[name])
            if index >= 0:
                seconds[name].append(taken)
    return seconds


def timed(function: Callable[[], object]) -> float:
    """Seconds of one call, without a garbage collection in between."""
    gc.collect()
    gc.disable()
    try:
        began = time.perf_counter()
        function()
        return time.perf_counter() - began
    finally:
        gc.enable()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and quartiles."""
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "min": min(values), "quartile_1": first, "quartile_3": third}


def ratio(over: Sequence[float], under: Sequence[float]) -> dict[str, float]:
    """Spread of the ratios of two contestants' times in the same round."""
    return spread([a / b for a, b in zip(over, under, strict=True)])


def claim(
    text: str, found: Mapping[str, float], *, at_least: float | None = None, at_most: float | None = None
) -> dict[str, Any]:
    """A claim about a median, and whether it holds; also printed."""
    value = found["median"]
    holds = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    limit = f"at least {at_least}" if at_most is None else f"at most {at_most}"
    print(f"{'holds' if holds else 'FAILS'}  {text}: {value:.3f}, {limit}", flush=True)
    return {"claim": text, **found, "limit": limit, "holds": holds}


def must_agree(name: str, ours: Sequence[float], theirs: Sequence[float], tolerance: float) -> None:
    """Refuse to time functions that do not compute the same.

    Raises:
        ValueError: a number of ours is further from theirs than the tolerance.
    """
    worst = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    check(worst <= tolerance, name, f"must agree within {tolerance} to be worth timing", f"a difference of {worst}")


def save(name: str, result: Mapping[str, Any], folder: Path) -> None:
    """Write `<name>.json`: the result, and what it was measured on."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{name}.json", json.dumps({"measured_on": machine(), **result}, indent=2) + "\n")


def machine() -> dict[str, Any]:
    """Device, threads, versions, commit and date."""
    return {
        "device": "cpu",
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "dtype": "float32",
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "transformers", "sparsemix")},
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str | None:
    """The commit, marked where the package differs from it; None outside a repository."""
    try:
        commit = subprocess.run(("git", "rev-parse", "HEAD"), cwd=ROOT, capture_output=True, text=True)
        changed = subprocess.run(("git", "diff", "--quiet", "HEAD", "--", "sparsemix"), cwd=ROOT).returncode != 0
    except FileNotFoundError:
        return None
    return None if commit.returncode else commit.stdout.strip() + ("+changes" if changed else "")
