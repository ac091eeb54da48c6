"""What a person sees of a training run: one line while it goes, and a line for each event."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sparsemix.train.evaluate import Evaluation
from sparsemix.train.trainer import StepReport

SMOOTHING = 0.9


class Display:
    """A progress bar with loss, tokens a second, load balance and time left; nothing where there is no console."""

    def __init__(self, console: Console | None) -> None:
        self.console = Console(quiet=True) if console is None else console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._loss = self._rate = None

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Where there is no terminal, stopping prints the bar once more: not what an error should be preceded by.
        self._progress.live.transient = error is not None
        self._progress.stop()

    def note(self, text: str) -> None:
        """One line that stays."""
        self.console.print(text, markup=False, highlight=False)

    def prepared(self, what: str, num_bytes: int) -> None:
        """Say how many bytes of text of a source have been read; for `prepare`."""
        if not self._progress.tasks:
            self._task = self._progress.add_task("data", total=None, state="")
        self._progress.update(self._task, description=f"reading {what}", state=f"{num_bytes / 1e6:.1f} MB")

    def begin(self, done: int, steps: int) -> None:
        """Steps are about to be taken."""
        for task in self._progress.tasks:
            self._progress.remove_task(task.id)
        self._task = self._progress.add_task("training", total=steps, completed=done, state="")

    def stepped(self, report: StepReport) -> None:
        """Show a step."""
        self._loss = _smooth(self._loss, report.loss)
        self._rate = _smooth(self._rate, report.tokens / report.seconds)
        parts = [f"loss {self._loss:.3f}", f"{self._rate:,.0f} tokens/s"]
        if report.imbalance is not None:
            parts.append(f"fullest expert {report.imbalance:.2f}x")
        if report.skipped:
            parts.append("skipped")
        self._progress.update(self._task, completed=report.step, state="  ".join(parts))

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        """Show an evaluation."""
        domains = ", ".join(f"{name} {score.bits_per_byte:.3f}" for name, score in evaluation.domains.items())
        self.note(f"step {step}: {evaluation.total.bits_per_byte:.4f} bits per byte held out ({domains})")


def _smooth(before: float | None, value: float) -> float:
    """Exponential mean; a value that is not finite, of a skipped step, passes without a trace."""
    if before is None or before != before:
        return value
    return before if value != value else SMOOTHING * before + (1 - SMOOTHING) * value
