"""Text shown while it is generated, held back where it may be the beginning of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sparsemix.checks import check
from sparsemix.data import Tokenizer
from sparsemix.inference import generate
from sparsemix.models import Decoder


def stream_text(
    model: Decoder,
    tokenizer: Tokenizer,
    prompt: str,
    write: Callable[[str], None],
    *,
    stop: Sequence[str] = (),
    **sampling: Any,
) -> None:
    """Write, piece by piece, what `generate_text` returns for one prompt; `sampling` are its other arguments."""
    check(all(stop), "stop", "must be strings that are not empty", list(stop), "leave the empty one out")
    shown, stream = _Shown(write, stop), tokenizer.stream()
    generate(
        model,
        [tokenizer.encode_prompt(prompt)],
        stop_ids=[tokenizer.end_id],
        on_token=lambda row, token: shown.add(stream.push(token)),
        **sampling,
    )
    shown.finish(stream.close())


class _Shown:
    """What has been generated, and how much of it has been written."""

    def __init__(self, write: Callable[[str], None], stop: Sequence[str]) -> None:
        self.write, self.stop = write, stop
        self.text, self.length, self.stopped = "", 0, False

    def add(self, more: str) -> bool:
        """Write as much as is certain not to be of a stop string; True if there was one."""
        self.text += more
        found = [self.text.find(string) for string in self.stop if string in self.text]
        self.stopped = bool(found)
        self._show_up_to(min(found) if found else len(self.text) - self._uncertain())
        return self.stopped

    def finish(self, more: str) -> None:
        """Nothing follows `more`: write what was held back."""
        if not self.stopped and not self.add(more):
            self._show_up_to(len(self.text))

    def _uncertain(self) -> int:
        """The longest end of the text that a stop string begins with."""
        beginnings = (string[:size] for string in self.stop for size in range(1, len(string)))
        return max((len(beginning) for beginning in beginnings if self.text.endswith(beginning)), default=0)

    def _show_up_to(self, length: int) -> None:
        if length > self.length:
            self.write(self.text[self.length : length])
            self.length = length
