"""What benchmarks share: turns, ratios, claims, and refusing to time what is wrong."""

import importlib
import subprocess

import pytest
import torch


def harness():
    return importlib.import_module("harness")


def test_contestants_take_turns():
    calls = []
    seconds = harness().take_turns(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")},
        rounds=3,
        warmup=1,
        wait=lambda: calls.append("."),
    )
    assert "".join(calls) in (".a..b..b..a..a..b..b..a.", ".b..a..a..b..b..a..a..b.")
    assert [len(taken) for taken in seconds.values()] == [3, 3]


def test_ratios_are_taken_round_by_round():
    found = harness().ratio([2.0, 30.0, 4.0], [1.0, 10.0, 1.0])
    assert found == {"median": 3.0, "min": 2.0, "quartile_1": 2.5, "quartile_3": 3.5}


def test_one_number_is_its_own_spread():
    assert harness().spread([2.0]) == {"median": 2.0, "min": 2.0, "quartile_1": 2.0, "quartile_3": 2.0}


def test_what_differs_is_not_timed():
    with pytest.raises(ValueError, match=r"losses: must agree within 0\.1"):
        harness().must_agree("losses", [1.0, 2.0], [1.0, 2.2], 0.1)
    with pytest.raises(ValueError, match=r"losses: must agree within 0\.1"):
        harness().must_agree("losses", [1.0, float("nan")], [1.0, 2.0], 0.1)


def test_differences_are_relative_to_the_largest_number():
    ours, theirs = torch.tensor([1.0, 2.5, 5.0]), torch.tensor([1.0, 2.0, -5.0])
    assert harness().differences([ours[:2], ours], [theirs[:2], theirs]) == [0.25, 2.0]


@pytest.mark.parametrize(
    ("limits", "words", "holds"),
    [
        ({}, None, None),
        ({"at_least": 0.5}, "at least 0.5", True),
        ({"at_most": 0.5}, "at most 0.5", False),
        ({"at_least": 0.5, "at_most": 0.7}, "at least 0.5 and at most 0.7", True),
        ({"at_least": 0.65, "at_most": 0.7}, "at least 0.65 and at most 0.7", False),
    ],
)
def test_claims(limits, words, holds, capsys):
    found = harness().claim("it", {"median": 0.6}, **limits)
    assert (found["limit"], found["holds"]) == (words, holds)
    assert capsys.readouterr().out.startswith({True: "holds", False: "FAILS", None: "     "}[holds])


def test_the_best_rate_is_the_one_of_most_work_a_second():
    rates = importlib.import_module("rates")
    offered = {"small": rates.Rate(10, lambda: None), "large": rates.Rate(100, lambda: None)}
    seconds = {"small": [1.0, 1.0, 1.0], "large": [5.0, 4.0, 20.0]}
    assert rates.fastest(offered, seconds) == "large"
    assert rates.seconds_at_best(50, offered, seconds) == [2.5, 2.0, 10.0]


def test_rates_count_what_they_do():
    rates = importlib.import_module("rates")
    for product in rates.gemm_rates([(4, 3, 2)]).values():
        assert product.work == 2 * 4 * 3 * 2
        assert product.call().shape == (4, 2)
    (copy,) = rates.copy_rates(64).values()
    assert copy.work == 128
    memory = torch.randn(2, 6, 5)
    reads = rates.read_rates(memory)
    assert {read.work for read in reads.values()} == {240}
    assert reads["sum"].call() == memory.sum()
    assert reads["max"].call() == memory.max()
    assert reads["matrix times vector"].call().shape == (12,)


@pytest.fixture
def green(monkeypatch, tmp_path):
    green = importlib.import_module("green")
    for folder in ("sparsemix", "tests", "build"):
        (tmp_path / folder).mkdir()
    (tmp_path / "sparsemix" / "kernel.py").write_text("right")
    monkeypatch.setattr(green, "ROOT", tmp_path)
    monkeypatch.setattr(green, "VERDICT", tmp_path / "build" / "green_kernels")
    return green


@pytest.fixture
def tests_run(green, monkeypatch):
    """Commands that were run; they fail once "wrong" stands in the kernel."""
    commands = []

    def run(command, cwd, check):
        commands.append(command)
        return subprocess.CompletedProcess(command, int("wrong" in (cwd / "sparsemix" / "kernel.py").read_text()))

    monkeypatch.setattr(green.subprocess, "run", run)
    return commands


def test_green_kernels_are_tested_once(green, tests_run):
    green.require_green_kernels()
    green.require_green_kernels()
    assert len(tests_run) == 1
    assert {"tests/kernels", "tests/test_layer.py", "not slow"} <= set(tests_run[0])


def test_changed_kernels_are_tested_again(green, tests_run, tmp_path):
    green.require_green_kernels()
    (tmp_path / "sparsemix" / "kernel.py").write_text("right too")
    green.require_green_kernels()
    (tmp_path / "tests" / "test_kernel.py").write_text("stricter")
    green.require_green_kernels()
    assert len(tests_run) == 3


def test_wrong_kernels_are_not_timed(green, tests_run, tmp_path):
    (tmp_path / "sparsemix" / "kernel.py").write_text("wrong")
    for _ in range(2):  # and no verdict is kept
        with pytest.raises(SystemExit, match="kernels: must pass their tests"):
            green.require_green_kernels()
    assert len(tests_run) == 2


def test_only_toys_go_untested(monkeypatch):
    asked = []
    monkeypatch.setattr(harness(), "require_green_kernels", lambda: asked.append(True))
    threads = ["--threads", "1"]
    harness().arguments("it", ["--toy", *threads])
    assert asked == []
    assert harness().arguments("it", threads, rounds=7).rounds == 7
    assert asked == [True]
