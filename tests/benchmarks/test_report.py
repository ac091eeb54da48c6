"""The table and the page say what the results say, and the page is that of the results that are there."""

import importlib
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

ROOT = Path(__file__).parents[2]
MEASURED_ON = {
    "device": "cpu",
    "cpu": "A Processor",
    "threads": 2,
    "dtype": "float32",
    "versions": {"python": "3.11", "torch": "2.10", "transformers": None},
    "commit": "0123456789abcdef+changes",
    "date": "2026-01-02T03:04:05+00:00",
}


def spread(median):
    return {"median": median, "min": median / 2, "quartile_1": 0.9 * median, "quartile_3": 1.1 * median}


def claimed(text, median, limit=None, holds=None):
    return {"claim": text, **spread(median), "limit": limit, "holds": holds}


def layer():
    part = {
        "what": "layer",
        "shape": {"tokens": 4, "dim": 3, "hidden": 2, "experts": 8, "k": 1},
        "claims": [claimed("is fast", 0.5, "at most 0.6", True), claimed("is small", 2.0, "at most 1", False)],
        "share_of_peak": {"sparsemix": spread(0.8), "dense": spread(0.7)},
    }
    alone = {**part, "claims": [claimed("is said", 3.0)], "share_of_peak": {"sparsemix": spread(0.9)}}
    return {"measured_on": MEASURED_ON, "parts": [part, alone]}


def growth():
    measured = [
        {
            "shape": {"tokens": 4, "dim": 3, "hidden": 2, "experts": experts, "k": 1},
            "seconds": {"layer": spread(experts / 10), "experts alone": spread(experts / 20)},
            "bound_arithmetic": spread(0.1),
            "bound_memory": spread(experts / 40),
            "claims": [claimed(f"grows at {experts}", 1.2, "at most 1.5", True)],
        }
        for experts in (4, 8)
    ]
    return {"measured_on": MEASURED_ON, "measured": measured}


@pytest.fixture
def report():
    return importlib.import_module("report")


@pytest.fixture
def folders(tmp_path):
    results, docs = tmp_path / "results", tmp_path / "docs"
    results.mkdir()
    docs.mkdir()
    for name, result in (("growth", growth()), ("layer", layer())):
        (results / f"{name}.json").write_text(json.dumps(result))
    return results, docs


def test_page_and_plots(report, folders):
    results, docs = folders
    report.main(["--results", str(results), "--docs", str(docs)])
    assert {path.name for path in docs.iterdir()} == {"performance.md", "growth.png", "share_of_peak.png"}
    page = (docs / "performance.md").read_text()
    assert "| is fast | at most 0.6 | 0.5 (0.45 to 0.55) | yes |" in page
    assert "| is small | at most 1 | 2 (1.8 to 2.2) | FAILS |" in page
    assert "| is said | none | 3 (2.7 to 3.3) | - |" in page
    assert page.index("is fast") < page.index("is said") < page.index("grows at 4") < page.index("grows at 8")
    where = "A Processor, 2 threads, float32, python 3.11, torch 2.10, commit 012345678 with changes, 2026-01-02"
    assert page.count(where) == 2
    assert "![Time of a layer against its number of experts](growth.png)" in page


def test_claims_about_a_gpu_say_that_they_wait_for_one(report, folders):
    results, _ = folders
    page = report.page(report.read(results))
    assert "`benchmarks/gpu_layer.py`, not measured yet: no GPU was at hand; the targets are for an H100." in page
    for backend in ("auto", "triton"):
        text = f"backward, backend {backend}"
        of_dense = "share of cuBLAS's TFLOP/s on a dense FFN of equal FLOPs"
        assert f"{text}: {of_dense} | at least 0.75 | not measured yet: no GPU was at hand | - |" in page
        assert f"{text}: times as fast as transformers' grouped_mm | at least 1.5 | not measured yet: " in page
    (results / "gpu_layer.json").write_text(
        json.dumps({"measured_on": MEASURED_ON, "claims": [claimed("is done", 2.0)]})
    )
    page = report.page(report.read(results))
    assert "not measured" not in page
    assert "| is done |" in page


def test_table(report, folders):
    results, _ = folders
    printed = io.StringIO()
    Console(file=printed, width=100).print(report.table(report.read(results)))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.getvalue().splitlines()]
    assert ["is small", "at most 1", "2 (1.8 to 2.2)", "FAILS"] in rows
    assert ["grows at 8", "at most 1.5", "1.2 (1.08 to 1.32)", "yes"] in rows
    numbers_of = [row[2] for row in rows if len(row) == 4 and row[2][:1].isdigit()]
    assert len(numbers_of) == 5


def test_plots_draw_what_was_measured(folders):
    plots = importlib.import_module("plots")
    (axes,) = plots.growth_plot(growth()).axes
    lines = {line.get_label(): list(zip(*line.get_data())) for line in axes.get_lines()}
    assert lines["layer"] == [(4, 400), (8, 800)]
    assert lines["bound: bytes"] == [(4, 100), (8, 200)]
    (axes,) = plots.share_plot(layer()).axes
    assert [bar.get_height() for bar in axes.patches] == [0.8, 0.9, 0.7]


def test_the_page_is_that_of_the_results(report):
    page = ROOT / "docs" / "performance.md"
    assert page.read_text() == report.page(report.read(ROOT / "benchmarks" / "results")), (
        "run: python benchmarks/report.py"
    )
