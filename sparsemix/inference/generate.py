"""Generation: one forward over a batch of prompts of any lengths, then token by token from the cache."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from sparsemix.checks import check
from sparsemix.inference.sampling import check_sampling, next_token
from sparsemix.models import Decoder, evaluating

OnToken = Callable[[int, int], bool | None]
"""(row, token), called for each new token; True ends the row after it."""


def generate(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop_ids: Collection[int] = (),
    seed: int | Sequence[int] = 0,
    on_token: OnToken | None = None,
) -> list[list[int]]:
    """Continue each prompt, as it would be continued alone.

    Prompts are padded on the left; padding is attended by no token and reaches no expert. A router with a
    capacity is the exception to "alone": there the tokens of a batch compete.

    Args:
        decoder: runs in evaluation mode, and is given back in the mode it had.
        prompts: token ids, at least one each.
        max_new_tokens: the most tokens to add to each.
        temperature: 0 takes the likeliest token.
        top_k: sample among so many of the likeliest tokens.
        top_p: sample among the fewest likeliest tokens that hold so much probability.
        stop_ids: tokens that end a row; they are not returned.
        seed: of row 0, row i has seed + i; or one seed a row. A row depends on its own seed only.
        on_token: called with each token as it comes; returning True ends the row.

    Returns:
        The new tokens of each prompt.

    Raises:
        ValueError: an empty prompt, one that leaves no room for the new tokens, or a sampling setting
            without meaning.
    """
    check_sampling(temperature, top_k, top_p)
    _check_lengths(decoder, prompts, max_new_tokens)
    rows = _Rows(len(prompts), seed, stop_ids, on_token)
    if not prompts or max_new_tokens == 0:
        return rows.tokens
    with evaluating(decoder), torch.inference_mode():
        tokens_BS, valid_BS = _left_pad(prompts, decoder.embedding.weight.device)
        cache = decoder.new_cache(len(prompts), tokens_BS.shape[1] + max_new_tokens)
        for step in range(max_new_tokens):
            hidden_BSD = decoder(tokens_BS, valid_BS=valid_BS, cache=cache, collect=_forget).hidden_BSD
            logits_BV = decoder.logits(hidden_BSD[:, -1])
            token_B = next_token(logits_BV, rows.uniform(), temperature=temperature, top_k=top_k, top_p=top_p)
            rows.add(token_B.tolist())
            if rows.finished or step + 1 == max_new_tokens:
                break
            tokens_BS, valid_BS = token_B[:, None], rows.valid(token_B.device)
    return rows.tokens


class _Rows:
    """What has been generated, which rows go on, and each row's own random numbers."""

    def __init__(
        self, num_rows: int, seed: int | Sequence[int], stop_ids: Collection[int], on_token: OnToken | None
    ) -> None:
        seeds = range(seed, seed + num_rows) if isinstance(seed, int) else seed
        check(
            len(seeds) == num_rows,
            "seed",
            f"must be one number, or one for each of {num_rows} rows",
            len(seeds),
        )
        self.generators = [torch.Generator().manual_seed(row_seed) for row_seed in seeds]
        self.tokens: list[list[int]] = [[] for _ in seeds]
        self.running = [True] * num_rows
        self.stop_ids = frozenset(stop_ids)
        self.on_token = on_token

    @property
    def finished(self) -> bool:
        return not any(self.running)

    def uniform(self) -> Tensor:
        """The next random number of each row, (B,), float64 in [0, 1)."""
        return torch.cat([torch.rand(1, generator=generator, dtype=torch.float64) for generator in self.generators])

    def add(self, tokens: list[int]) -> None:
        for row, token in enumerate(tokens):
            if not self.running[row]:
                continue
            if token in self.stop_ids:
                self.running[row] = False
                continue
            self.tokens[row].append(token)
            if self.on_token is not None and self.on_token(row, token):
                self.running[row] = False

    def valid(self, device: torch.device) -> Tensor | None:
        """bool (B, 1), False for rows that have ended: they count as padding. None while all go on."""
        return None if all(self.running) else torch.tensor(self.running, device=device)[:, None]


def _forget(layer: int, routing: object) -> None:
    """Generation needs no routing afterwards."""


def _left_pad(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The prompts as (B, S), ending together, and which tokens are real; None where all are."""
    width = max(len(prompt) for prompt in prompts)
    tokens_BS = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    length_B1 = torch.tensor([[len(prompt)] for prompt in prompts], device=device)
    valid_BS = torch.arange(width, device=device) >= width - length_B1
    return tokens_BS, None if all(len(prompt) == width for prompt in prompts) else valid_BS


def _check_lengths(decoder: Decoder, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    check(max_new_tokens >= 0, "max_new_tokens", "must be at least 0", max_new_tokens)
    context = decoder.config.context
    for row, prompt in enumerate(prompts):
        check(len(prompt) > 0, f"prompts[{row}]", "must have at least one token", "none", "give some text")
        check(
            len(prompt) + max_new_tokens <= context,
            f"prompts[{row}]",
            f"with the new tokens must fit in context={context}",
            f"{len(prompt)} tokens and max_new_tokens={max_new_tokens}",
            "shorten the prompt or lower max_new_tokens",
        )
