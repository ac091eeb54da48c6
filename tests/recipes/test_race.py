"""The pace of a race, and that turns are fair."""

from collections import namedtuple
from itertools import pairwise

import pytest

from sparsemix.recipes.race import Pace, race

Report = namedtuple("Report", "seconds")


class FakeTrainer:
    def __init__(self, name, seconds, log):
        self.name, self.seconds, self.log = name, seconds, log

    def step(self, batches):
        self.log.append((self.name, tuple(batches)))
        return Report(self.seconds)


def run(pace, evaluate_every=10, slow=2.0):
    log, seen = [], []
    trainers = {"moe": FakeTrainer("moe", slow, log), "dense": FakeTrainer("dense", 1.0, log)}
    curves = race(
        trainers,
        lambda index: f"batch {index}",
        lambda name: {"moe": 2.0, "dense": 3.0}[name],
        {"moe": 11.0, "dense": 10.0},
        pace,
        evaluate_every=evaluate_every,
        watch=seen.append,
    )
    return curves, log, seen


def test_both_see_the_same_batches_and_take_turns_at_being_first():
    _, log, _ = run(Pace(steps=10))
    assert log[:4] == [
        ("moe", ("batch 0",)),
        ("dense", ("batch 0",)),
        ("dense", ("batch 1",)),
        ("moe", ("batch 1",)),
    ]
    assert len(log) == 20


def test_steps_are_counted_and_evaluated_at_the_end_of_both_phases():
    pace = Pace(steps=25, decay=0.2)
    curves, _, _ = run(pace)
    assert pace.stable_steps == 20
    assert [point.step for point in curves["moe"]] == [10, 20, 25]
    assert curves["dense"][-1] == (25, 25.0, 250.0, 3.0)
    assert curves["moe"][-1] == (25, 50.0, 275.0, 2.0)


def test_the_clock_ends_the_stable_phase_and_decay_is_its_share():
    pace = Pace(seconds=300.0, decay=0.2)
    curves, _, seen = run(pace)
    assert pace.stable_steps == 80  # 3 seconds a pair, 240 of 300 seconds
    assert curves["moe"][-1].step == 100
    assert seen[-1].remaining == 0
    assert seen[39].remaining == pytest.approx(180.0)


def test_the_learning_rate_rises_stays_and_falls_to_almost_nothing():
    pace = Pace(steps=100, warmup=4, decay=0.2)
    for step in range(81):
        pace.note(step, 0.0)
    rates = [pace.multiplier(step) for step in range(100)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert set(rates[4:80]) == {1.0}
    assert all(earlier > later > 0 for earlier, later in pairwise(rates[79:]))
    assert rates[-1] < 0.06
    assert pace.finished(100)
    assert not pace.finished(99)
