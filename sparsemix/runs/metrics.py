"""metrics.jsonl: one JSON object a step, on disk as soon as the step is done."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from sparsemix.files import write_text
from sparsemix.runs.errors import writing


class MetricsWriter:
    """Appends to a metrics file, after cutting off what lies past `step`: steps that will be taken again.

    Raises:
        RunError: the disk is full or the like; so do its methods.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = [json.dumps(one) + "\n" for one in read_metrics(path) if one["step"] <= step]
        with writing(path):
            write_text(path, "".join(kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, **values: Any) -> None:
        """Add one object; numbers that JSON has not, as NaN, become null."""
        with writing(self.path):
            self._file.write(json.dumps(_finite(values), allow_nan=False) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Make everything written so far durable."""
        with writing(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """No more will come."""
        with writing(self.path):
            self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The objects in a metrics file, in order, up to where a crash cut it short; none if there is no file."""
    found: list[dict[str, Any]] = []
    if not path.exists():
        return found
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
