"""What may have no influence: later tokens on earlier ones, padding on anybody, a batch on its rows, a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparsemix.layer import MoE
from sparsemix.models import Decoder, evaluating
from sparsemix.verify.finding import Comparison, Finding, does_not_apply
from sparsemix.verify.situations import SEED, Subject, Tokens, fixed_noise, inside, twin

LATER = (1, 4, 8)
"""Where the tokens begin that are exchanged."""


def check_layer_influence(subject: Subject) -> Iterator[Finding]:
    """Causality and padding of a layer alone, in float64, in training and in evaluation."""
    moe = twin(subject.moe)
    tokens = subject.tokens(12)
    tokens = tokens._replace(x=tokens.x.double())
    if moe.router.causal:
        comparison = Comparison(subject.terms, torch.float64)
        for mode in (True, False):
            expected = _outputs(moe.train(mode), tokens)
            for first in LATER:
                changed = _exchanged(tokens, torch.arange(12, device=tokens.x.device) >= first)
                actual = _outputs(moe, changed)
                comparison.add(f"from token {first} on", [("output", actual[:first])], [expected[:first]])
        yield comparison.finding("causality", subject.where, "later tokens exchanged")
    else:
        reason = f"the router {inside(moe.router).config.type} declares that it looks at other tokens"
        yield does_not_apply("causality", subject.where, reason)
    yield _padding(subject, moe, tokens)


def _padding(subject: Subject, moe: MoE, tokens: Tokens) -> Finding:
    valid_T = torch.arange(12, device=tokens.x.device) % 3 != 1
    comparison = Comparison(subject.terms, torch.float64)
    padded = tokens._replace(info=tokens.info._replace(valid_T=valid_T))
    for mode in (True, False):
        expected = _outputs(moe.train(mode), padded)
        actual = _outputs(moe, _exchanged(padded, ~valid_T))
        comparison.add("what padding holds exchanged", [("output", actual[valid_T])], [expected[valid_T]])
    return comparison.finding("padding", subject.where, "other padding")


@torch.no_grad()
def _outputs(moe: MoE, tokens: Tokens) -> Tensor:
    with fixed_noise():
        return moe(tokens.x, info=tokens.info, previous=tokens.previous)[0]


def _exchanged(tokens: Tokens, other_T: Tensor) -> Tokens:
    """With random tokens of ten times the size where `other_T`."""
    generator = torch.Generator().manual_seed(SEED + 2)
    other = 10 * torch.randn(tokens.x.shape, generator=generator, dtype=torch.float64).to(tokens.x.device)
    return tokens._replace(x=torch.where(other_T.view(-1, *[1] * (other.ndim - 1)), other, tokens.x))


def check_decoder_influence(decoder: Decoder, tokens_BS: Tensor) -> Iterator[Finding]:
    """The same of a whole decoder, in evaluation; its batches and its cache too."""
    run = partial(_hidden, decoder)
    with evaluating(decoder), torch.no_grad():
        whole_BSD = run(tokens_BS)
        for check, against, reason, pairs in (
            ("causality", "later tokens exchanged", _looks_ahead(decoder), _causality),
            ("batch", "each row alone", _competes(decoder), _rows_alone),
            ("padding", "rows without padding", _competes(decoder), _padded),
            ("cache", "token by token", _competes(decoder), _by_token),
        ):
            if reason:
                yield does_not_apply(check, "model", reason)
                continue
            comparison = Comparison(_terms(decoder), whole_BSD.dtype)
            for name, actual, expected in pairs(decoder, run, tokens_BS, whole_BSD):
                comparison.add(name, [("hidden states", actual)], [expected])
            yield comparison.finding(check, "model", against)


Run = Callable[..., Tensor]
Pairs = Iterator[tuple[str, Tensor, Tensor]]


def _causality(decoder: Decoder, run: Run, tokens_BS: Tensor, whole_BSD: Tensor) -> Pairs:
    """One row alone: a capacity may make rows compete, and yet no token depends on later ones of its own."""
    length = tokens_BS.shape[1]
    expected = run(tokens_BS[:1])
    for first in sorted({1, length // 2, length - 1}):
        changed_BS = tokens_BS.clone()
        changed_BS[:, first:] = (changed_BS[:, first:] + 1) % decoder.config.vocab_size
        yield f"from token {first} on", run(changed_BS[:1])[:, :first], expected[:, :first]


def _rows_alone(decoder: Decoder, run: Run, tokens_BS: Tensor, whole_BSD: Tensor) -> Pairs:
    for row in range(len(tokens_BS)):
        yield f"row {row}", run(tokens_BS[row : row + 1]), whole_BSD[row : row + 1]


def _padded(decoder: Decoder, run: Run, tokens_BS: Tensor, whole_BSD: Tensor) -> Pairs:
    short = tokens_BS.shape[1] // 2
    valid_BS = torch.ones_like(tokens_BS, dtype=torch.bool)
    valid_BS[0, :short] = False
    alone = run(tokens_BS[:1, short:])
    for padding in (0, decoder.config.vocab_size - 1):
        padded_BSD = run(torch.where(valid_BS, tokens_BS, padding), valid_BS=valid_BS)
        yield f"padding of token {padding}", padded_BSD[:1, short:], alone
        yield f"beside padding of token {padding}", padded_BSD[1:], whole_BSD[1:]


def _by_token(decoder: Decoder, run: Run, tokens_BS: Tensor, whole_BSD: Tensor) -> Pairs:
    num_rows, length = tokens_BS.shape
    caches = {"token": decoder.new_cache(num_rows, length), "prompt, then token": decoder.new_cache(num_rows, length)}
    for name, first in (("token", 1), ("prompt, then token", length // 2)):
        parts = [tokens_BS[:, :first], *tokens_BS[:, first:].split(1, dim=1)]
        found = torch.cat([run(part, cache=caches[name]) for part in parts if part.shape[1]], dim=1)
        yield f"{name} by token", found, whole_BSD
    lone = decoder.new_cache(1, length)
    found = torch.cat([run(part, cache=lone) for part in tokens_BS[:1].split(1, dim=1)], dim=1)
    yield "one row, token by token", found, whole_BSD[:1]


def _hidden(decoder: Decoder, tokens_BS: Tensor, **arguments: Any) -> Tensor:
    return decoder(tokens_BS, collect=lambda layer, routing: None, **arguments).hidden_BSD


def _terms(decoder: Decoder) -> int:
    """Each block adds its rounding to the stream."""
    widest = max((size for parameter in decoder.blocks[0].parameters() for size in parameter.shape[1:]), default=1)
    return widest * decoder.config.num_layers


def _mixtures(decoder: Decoder) -> list[MoE]:
    return [module for module in decoder.modules() if isinstance(module, MoE)]


def _looks_ahead(decoder: Decoder) -> str:
    """Why the decoder does not claim to be causal; empty if it does."""
    ahead = [moe for moe in _mixtures(decoder) if not moe.router.causal]
    return f"the router {inside(ahead[0].router).config.type} declares that it looks at other tokens" if ahead else ""


def _competes(decoder: Decoder) -> str:
    """Why a row depends on the others; empty if it does not."""
    limited = any(getattr(inside(moe.router).config, "capacity", None) is not None for moe in _mixtures(decoder))
    return _looks_ahead(decoder) or ("tokens of a batch compete for the capacity of experts" if limited else "")
