"""The live display of a race: what is being prepared, then losses, speed, load balance and time left."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from sparsemix.recipes.race import Progress as RaceProgress


class Live:
    """A progress bar as a context; where there is no terminal, a line now and then."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("preparing", total=None)
        self._losses: dict[str, float] = {}
        self._line_every = 100

    def __enter__(self) -> Live:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def preparing(self, what: str, num_bytes: int) -> None:
        """The tokenizer or a source has been read so far."""
        doing = "learning the tokenizer" if what == "tokenizer" else f"reading {what}"
        self._bar.update(self._task, description=f"{doing}: {num_bytes / 1e6:.0f} MB")

    def evaluated(self, name: str, loss: float) -> float:
        """A model's held-out loss; returned as it is."""
        self._losses[name] = loss
        return loss

    def stepped(self, progress: RaceProgress) -> None:
        """A step of all models is done."""
        spent = sum(progress.seconds.values())
        text = f"step {progress.step}  {self._describe(progress)}"
        self._bar.update(self._task, description=text, total=spent + progress.remaining, completed=spent)
        if not self._console.is_terminal and progress.step % self._line_every == 0:
            self._console.print(f"{text}  {progress.remaining:.0f} s left", highlight=False, soft_wrap=True)

    def _describe(self, progress: RaceProgress) -> str:
        parts = []
        for name, report in progress.reports.items():
            speed = report.tokens * progress.step / progress.seconds[name]
            loss = (
                f"{self._losses[name]:.3f} bits a byte" if name in self._losses else f"{report.loss:.3f} nats a token"
            )
            balance = "" if report.imbalance is None else f", load {report.imbalance:.1f}x mean"
            parts.append(f"{name} {loss}, {speed:,.0f} tokens/s{balance}")
        return "  ".join(parts)
