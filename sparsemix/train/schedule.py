"""The learning rate over a run: warm-up, stable, decay."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from sparsemix.checks import check
from sparsemix.config import config


class Phases(NamedTuple):
    """Where the stable phase lies: steps `stable` up to `decay`, counted from 0, have the peak learning rate."""

    stable: int
    decay: int


@config
class ScheduleConfig:
    """Linear warm-up, a constant rate, linear decay. Shares are of all steps."""

    warmup: float = Field(default=0.02, ge=0, le=1)
    """Share of the steps in which the rate rises from 0 to its peak."""
    decay: float = Field(default=0.3, ge=0, le=1)
    """Share of the steps, at the end, in which it falls."""
    final: float = Field(default=0.0, ge=0, le=1)
    """What it falls to, as a share of the peak."""

    def __post_init__(self) -> None:
        check(
            self.warmup + self.decay <= 1,
            "decay",
            "must leave room for the warm-up",
            f"warmup={self.warmup} and decay={self.decay}",
            "lower one: their sum is at most 1",
        )

    def phases(self, steps: int) -> Phases:
        """Where the stable phase of a run of so many steps begins and ends."""
        stable = round(self.warmup * steps)
        return Phases(stable, max(stable, steps - round(self.decay * steps)))

    def multiplier(self, step: int, steps: int) -> float:
        """The learning rate of a step, counted from 0, as a share of its peak; never 0 inside a run.

        >>> [ScheduleConfig(warmup=0.4, decay=0.4).multiplier(step, 5) for step in range(5)]
        [0.5, 1.0, 1.0, 1.0, 0.5]
        """
        stable, decay = self.phases(steps)
        if step < stable:
            return (step + 1) / stable
        if step < decay:
            return 1.0
        left = max(0, steps - step) / max(1, steps - decay)
        return self.final + (1 - self.final) * left
