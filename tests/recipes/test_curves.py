"""Speed-ups of curves whose answer is known."""

import math

import pytest

from sparsemix.recipes.curves import Point, crossing, loss_at, loss_at_equal_seconds, speed_up


def power_law(steps, start, seconds_per_step, flops_per_step):
    """loss = start * step^-1/2, sampled."""
    return [Point(s, s * seconds_per_step, s * flops_per_step, start / math.sqrt(s)) for s in steps]


def test_speed_up_of_power_laws_is_the_analytic_ratio():
    steps = range(1, 1001)
    dense = power_law(steps, start=4.0, seconds_per_step=1.0, flops_per_step=10.0)
    moe = power_law(steps, start=3.0, seconds_per_step=1.25, flops_per_step=11.0)
    found = speed_up(dense, moe, stable_steps=800)
    expected = (4.0 / 3.0) ** 2  # the step at which 3 / sqrt(s) is 4 / sqrt(800)
    assert found.level == pytest.approx(4.0 / math.sqrt(800))
    assert found.steps == pytest.approx(expected, rel=1e-5)
    assert found.seconds == pytest.approx(expected / 1.25, rel=1e-5)
    assert found.flops == pytest.approx(expected / 1.1, rel=1e-5)


def test_the_decay_is_not_compared():
    """A loss that falls only in the decay gives nobody a speed-up."""
    dense = [Point(10, 1, 1, 3.0), Point(20, 2, 2, 2.0), Point(30, 3, 3, 1.0)]
    moe = [Point(10, 1, 1, 3.0), Point(20, 2, 2, 2.5), Point(30, 3, 3, 0.5)]
    assert speed_up(dense, moe, stable_steps=20).steps is None
    assert speed_up(dense, moe, stable_steps=20).level == 2.0


def test_a_slower_moe_gets_a_factor_below_one():
    dense = [Point(10, 1, 1, 3.0), Point(20, 2, 2, 2.9)]
    moe = [Point(10, 2, 2, 3.0), Point(20, 4, 4, 2.9)]
    found = speed_up(dense, moe, stable_steps=20)
    assert found.steps == 1.0
    assert found.seconds == 0.5


def test_crossing_takes_the_first_one_and_interpolates():
    curve = [Point(0, 0, 0, 4.0), Point(10, 1, 5, 2.0), Point(20, 2, 10, 3.0), Point(30, 3, 15, 1.0)]
    assert crossing(curve, 3.0) == Point(5, 0.5, 2.5, 3.0)
    assert crossing(curve, 5.0) == curve[0]
    assert crossing(curve, 0.5) is None


def test_loss_at_interpolates_and_refuses_to_extrapolate():
    curve = [Point(10, 1.0, 0, 3.0), Point(20, 2.0, 0, 2.0)]
    assert loss_at(curve, 1.25, lambda point: point.seconds) == 2.75
    assert loss_at(curve, 10, lambda point: point.step) == 3.0
    with pytest.raises(ValueError, match="must reach from below"):
        loss_at(curve, 3.0, lambda point: point.seconds)


def test_equal_seconds_is_the_end_of_the_faster_one_s_stable_phase():
    dense = [Point(10, 1.0, 0, 3.0), Point(20, 2.0, 0, 2.0), Point(30, 3.0, 0, 0.1)]
    moe = [Point(10, 1.5, 0, 2.6), Point(20, 3.0, 0, 1.4), Point(30, 4.5, 0, 0.1)]
    found = loss_at_equal_seconds({"dense": dense, "moe": moe}, stable_steps=20)
    assert found == {"dense": 2.0, "moe": pytest.approx(2.2)}


def test_equal_seconds_are_unknown_if_the_slower_one_was_evaluated_after_the_faster_one_s_last():
    curves = {"dense": [Point(20, 2.0, 0, 2.0)], "moe": [Point(20, 3.0, 0, 1.4)]}
    assert loss_at_equal_seconds(curves, stable_steps=20) is None
