"""Classic mixtures of experts against flexmix, SMT, egobox and scikit-learn's ensembles: all claims, or those named."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from green import ROOT
from harness import save
from threadpoolctl import threadpool_limits

PARTS = ("flexmix", "predict", "fit", "surrogates", "tables")
"""Each is a script classic_PART.py with `measure(toy)`, and a result of that name."""
PACKAGES = ("numpy", "scipy", "scikit-learn", "smt", "egobox")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the parts and write classic_PART.json of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which; all if none is named")
    parser.add_argument("--threads", type=int, default=1, help="of numpy's and scikit-learn's libraries")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the results")
    parser.add_argument("--toy", action="store_true", help="sizes that only show that the benchmark runs")
    settings = parser.parse_args(argv)
    versions = {package: version(package) for package in PACKAGES}
    for part in settings.parts or PARTS:
        print(f"{part}:", flush=True)
        began = time.perf_counter()
        with threadpool_limits(settings.threads):
            result = import_module(f"classic_{part}").measure(settings.toy)
        print(f"{part}: {time.perf_counter() - began:.0f} s", flush=True)
        on = {"threads": settings.threads, "dtype": "float64", "versions": versions | result.pop("versions", {})}
        save(f"classic_{part}", result, settings.out, **on)


if __name__ == "__main__":
    main()
