"""Curves for TensorBoard, where it is installed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sparsemix.runs.errors import writing


class TensorBoard:
    """Writes scalars; does nothing where `tensorboard` is not installed, since metrics.jsonl has them all.

    `torch.utils.tensorboard` writes in a thread, which on a full disk dies with a traceback of its own; this writes
    at once, so that the error is the caller's.

    Args:
        folder: for this and other parts of the same run.
        step: what earlier parts wrote about later steps no longer counts.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._file: Any = None
        if find_spec("tensorboard") is None:
            return
        events, summaries, writer = (
            import_module(f"tensorboard.{name}")
            for name in ("compat.proto.event_pb2", "compat.proto.summary_pb2", "summary.writer.record_writer")
        )
        self._event, self._summary = events.Event, summaries.Summary
        with writing(folder):
            folder.mkdir(exist_ok=True)
            self._file = (folder / f"events.out.tfevents.{time.time_ns()}").open("wb")
        self._records = writer.RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        self._write(step=step + 1, session_log=events.SessionLog(status=events.SessionLog.START))

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """The numbers among these values, those of nested mappings under `outer/inner`.

        Raises:
            RunError: the disk is full or the like.
        """
        if self._file is not None:
            numbers = [self._summary.Value(tag=name, simple_value=number) for name, number in _numbers(values)]
            self._write(step=step, summary=self._summary(value=numbers))

    def close(self) -> None:
        """No more will come."""
        if self._file is not None:
            with writing(Path(self._file.name)):
                self._file.close()

    def _write(self, **content: Any) -> None:
        with writing(Path(self._file.name)):
            self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())
            self._file.flush()


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)):
            yield prefix + name, float(value)
