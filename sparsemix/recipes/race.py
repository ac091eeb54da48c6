"""A race: several models trained in turns, step by step on the same batches, so that noise hits all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from sparsemix.data import Batch
from sparsemix.recipes.curves import Point
from sparsemix.train.trainer import StepReport, Trainer


class Pace:
    """The learning rate of a race that ends by the clock: warm-up, stable, and a decay whose length is known.

    The stable phase lasts until `1 - decay` of the seconds are spent (or of the steps, where these are given); the
    decay then takes as many steps as makes it `decay` of all. So a slower machine takes fewer steps, not longer.
    """

    def __init__(
        self, *, seconds: float | None = None, steps: int | None = None, warmup: int = 20, decay: float = 0.2
    ) -> None:
        assert (seconds is None) != (steps is None), "a race ends by the clock or by the count"
        self.stable_steps: int | None = None
        self._seconds, self._steps, self._warmup, self._decay = seconds, steps, warmup, decay

    def note(self, step: int, seconds: float) -> None:
        """So many steps are done, in so many seconds of all models together: does the decay begin?"""
        if self.stable_steps is None and self._spent(step, seconds) >= 1 - self._decay:
            self.stable_steps = step

    def multiplier(self, step: int) -> float:
        """The learning rate of a step, counted from 0, as a share of its peak."""
        if self.stable_steps is None or step < self.stable_steps:
            return min(1.0, (step + 1) / self._warmup)
        return max(0.0, 1 - (step + 1 - self.stable_steps) / (self._decay_steps() + 1))

    def finished(self, step: int) -> bool:
        """Whether so many steps are all."""
        return self.stable_steps is not None and step >= self.stable_steps + self._decay_steps()

    def remaining(self, step: int, seconds: float) -> float:
        """An estimate of the seconds that are left."""
        if self.stable_steps is not None:
            return seconds / step * (self.stable_steps + self._decay_steps() - step)
        spent = self._spent(step, seconds)
        return seconds * (1 - spent) / spent

    def _spent(self, step: int, seconds: float) -> float:
        return seconds / self._seconds if self._seconds is not None else step / (self._steps or 1)

    def _decay_steps(self) -> int:
        assert self.stable_steps is not None
        if self._steps is not None:
            return self._steps - self.stable_steps
        return max(1, round(self.stable_steps * self._decay / (1 - self._decay)))


class Progress(NamedTuple):
    """What a race is like after a step."""

    step: int
    reports: Mapping[str, StepReport]
    """Of that step, by name."""
    seconds: Mapping[str, float]
    """Of training so far, by name."""
    remaining: float
    """Seconds, estimated."""


def race(
    trainers: Mapping[str, Trainer],
    batch: Callable[[int], Batch],
    bits_per_byte: Callable[[str], float],
    flops_per_step: Mapping[str, float],
    pace: Pace,
    *,
    evaluate_every: int,
    watch: Callable[[Progress], None],
) -> dict[str, list[Point]]:
    """Train all to the end of the pace; who goes first alternates.

    Args:
        trainers: by name; their learning rates follow `pace`.
        batch: index -> the batch of that step, for all.
        bits_per_byte: name -> that model's held-out loss now.
        flops_per_step: by name.
        pace: says when it ends.
        evaluate_every: steps; there is also one evaluation at the end of the stable phase and one at the end.
        watch: called after every step.

    Returns:
        The curve of each; seconds include the optimiser and exclude evaluation.
    """
    curves: dict[str, list[Point]] = {name: [] for name in trainers}
    seconds = dict.fromkeys(trainers, 0.0)
    step = 0
    while not pace.finished(step):
        now = [batch(step)]
        names = list(trainers) if step % 2 == 0 else list(trainers)[::-1]
        reports = {name: trainers[name].step(now) for name in names}
        step += 1
        for name, report in reports.items():
            seconds[name] += report.seconds
        total = sum(seconds.values())
        pace.note(step, total)
        watch(Progress(step, reports, seconds, pace.remaining(step, total)))
        if step % evaluate_every == 0 or step == pace.stable_steps or pace.finished(step):
            for name in trainers:
                flops = step * flops_per_step[name]
                curves[name].append(Point(step, seconds[name], flops, bits_per_byte(name)))
    return curves
