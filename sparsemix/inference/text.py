"""Generation of text: a tokenizer around `generate`, and stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sparsemix.checks import check
from sparsemix.inference.generate import generate
from sparsemix.models import Decoder


class TextTokenizer(Protocol):
    """What generation needs of a tokenizer."""

    @property
    def end_id(self) -> int:
        """The token that ends a document."""
        ...

    def encode_prompt(self, text: str, /) -> list[int]: ...

    def decode(self, tokens: list[int], /) -> str: ...


def generate_text(
    decoder: Decoder,
    tokenizer: TextTokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: Sequence[str] = (),
    seed: int | Sequence[int] = 0,
) -> list[str]:
    """Continue each prompt until the document ends, a stop string appears, or `max_new_tokens` are made.

    Args:
        prompts: texts; an empty one begins a document.
        stop: strings that end a text, also where they span tokens; they and what follows are not returned.

    Returns:
        The new text of each prompt, without the prompt. The other arguments are those of `generate`.
    """
    check(all(stop), "stop", "must be strings that are not empty", list(stop))
    texts = [""] * len(prompts)
    made: list[list[int]] = [[] for _ in prompts]

    def stopped(row: int, token: int) -> bool:
        made[row].append(token)
        texts[row] = tokenizer.decode(made[row])
        return any(string in texts[row] for string in stop)

    generate(
        decoder,
        [tokenizer.encode_prompt(prompt) for prompt in prompts],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        stop_ids=[tokenizer.end_id],
        seed=seed,
        on_token=stopped,
    )
    return [_cut(text, stop) for text in texts]


def _cut(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string."""
    return text[: min([text.find(string) for string in stop if string in text], default=len(text))]
