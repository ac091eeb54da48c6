import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsemix.train import ScheduleConfig

shares = st.floats(0, 1)


@given(shares, shares, shares, st.integers(1, 300))
def test_rises_stays_and_falls(warmup, decay, final, steps):
    schedule = ScheduleConfig(warmup=warmup * (1 - decay), decay=decay, final=final)
    stable, decaying = schedule.phases(steps)
    values = [schedule.multiplier(step, steps) for step in range(steps)]
    assert 0 <= stable <= decaying <= steps
    assert all(0 < value <= 1 for value in values)
    assert values[:stable] == sorted(values[:stable])
    assert all(value == 1 for value in values[stable : decaying + 1])
    assert values[decaying:] == sorted(values[decaying:], reverse=True)


def test_values_by_hand():
    schedule = ScheduleConfig(warmup=0.2, decay=0.4, final=0.5)
    expected = [0.5, 1, 1, 1, 1, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.5]
    assert [schedule.multiplier(step, 10) for step in range(12)] == pytest.approx(expected)


def test_phases_may_not_overlap():
    with pytest.raises(ValueError, match=r"decay: must leave room for the warm-up, got warmup=0.6 and decay=0.5; "):
        ScheduleConfig(warmup=0.6, decay=0.5)
