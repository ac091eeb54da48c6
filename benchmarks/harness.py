"""What every benchmark shares: taking turns, ratios pair by pair, and results that say what they were measured on."""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from green import ROOT, require_green_kernels
from torch import Tensor

import sparsemix
from sparsemix.allocator import keep_freed_memory
from sparsemix.checks import check
from sparsemix.files import write_text

Spread = dict[str, float]
"""Median, minimum and quartiles of a number that was measured."""


def arguments(
    description: str, argv: Sequence[str] | None, rounds: int = 15, **options: Mapping[str, Any]
) -> argparse.Namespace:
    """The command line of every benchmark; sets up the process, and refuses to go on where kernels are wrong.

    Args:
        description: what it measures.
        argv: the arguments; None: those of the process.
        rounds: how many if nobody says.
        options: those of this benchmark alone, by name: what `add_argument` takes.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds, help="how often each contestant is timed")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the result")
    parser.add_argument("--toy", action="store_true", help="sizes that only show that the benchmark runs")
    for name, option in options.items():
        parser.add_argument(f"--{name}", **option)
    found = parser.parse_args(argv)
    torch.set_num_threads(found.threads)
    if not found.toy:
        keep_freed_memory()  # as the command line does; all contestants in the process have it
        require_green_kernels()
    return found


def take_turns(
    contestants: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = 2,
    wait: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of each call, by name: A B, B A, A B, ..., so that a machine's moods hit all alike.

    Args:
        contestants: what to call.
        rounds: how often each is timed.
        warmup: rounds before those.
        wait: returns when the device has done what it was given, before each start and each stop of the clock.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    with collecting_between_calls() as collect:
        for index in range(-warmup, rounds):
            for name in list(contestants)[:: 1 if index % 2 else -1]:
                collect()
                taken = timed(contestants[name], wait)
                if index >= 0:
                    seconds[name].append(taken)
    return seconds


@contextmanager
def collecting_between_calls() -> Iterator[Callable[[], object]]:
    """No garbage collection but when asked for; what is there already is left out of it, which makes it fast."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield gc.collect
    finally:
        gc.enable()
        gc.unfreeze()


def timed(function: Callable[[], object], wait: Callable[[], object]) -> float:
    """Seconds of one call."""
    wait()
    began = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - began


def spread(values: Sequence[float]) -> Spread:
    """Median, minimum and quartiles."""
    if len(values) == 1:
        return dict.fromkeys(("median", "min", "quartile_1", "quartile_3"), values[0])
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "min": min(values), "quartile_1": first, "quartile_3": third}


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Spread of the ratios of two contestants' times in the same round."""
    return spread([a / b for a, b in zip(over, under, strict=True)])


def claim(
    text: str, found: Mapping[str, float], *, at_least: float | None = None, at_most: float | None = None
) -> dict[str, Any]:
    """A claim about a median, and whether it holds (None: reported, without a target); also printed."""
    value = found["median"]
    bounds = [("at least", at_least), ("at most", at_most)]
    limit = " and ".join(f"{words} {bound}" for words, bound in bounds if bound is not None) or None
    holds = (at_least is None or value >= at_least) and (at_most is None or value <= at_most) if limit else None
    verdict = {True: "holds", False: "FAILS", None: "     "}[holds]
    print(f"{verdict}  {text}: {value:.3f}{f', {limit}' if limit else ''}", flush=True)
    return {"claim": text, **found, "limit": limit, "holds": holds}


def differences(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> list[float]:
    """The largest difference of each pair of tensors, over the largest number in theirs."""
    return [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, theirs, strict=True)]


def must_agree(name: str, ours: Sequence[float], theirs: Sequence[float], tolerance: float) -> None:
    """Refuse to time functions that do not compute the same.

    Raises:
        ValueError: a number of ours is further from theirs than the tolerance, or none at all.
    """
    off = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    worst = torch.tensor(off, dtype=torch.float64).max().item()  # which keeps a NaN, as `max` does not
    check(worst <= tolerance, name, f"must agree within {tolerance} to be worth timing", f"a difference of {worst}")


def save(name: str, result: Mapping[str, Any], folder: Path, **measured_on: Any) -> None:
    """Write `<name>.json`: the result, and what it was measured on."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {"measured_on": {**machine(), **measured_on}, **result}
    write_text(folder / f"{name}.json", json.dumps(found, indent=2) + "\n")


def machine() -> dict[str, Any]:
    """Device, threads, versions, commit and date.

    Raises:
        ValueError: the package that was imported is not the one beside these benchmarks, whose commit is named.
    """
    imported = Path(sparsemix.__file__).resolve()
    remedy = "run with PYTHONPATH set to the repository"
    check(imported.is_relative_to(ROOT), "sparsemix", f"must be imported from {ROOT}", imported, remedy)
    return {
        "device": "cpu",
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "dtype": "float32",
        "versions": {"python": platform.python_version(), "sparsemix": sparsemix.__version__}
        | {name: _version(name) for name in ("torch", "transformers")},
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


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
