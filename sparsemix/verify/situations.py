"""What a layer is put through: random tokens or a model's own, few, none, and some of them padding."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from sparsemix.balance import Loss
from sparsemix.experts import GLUExperts, MLPExperts
from sparsemix.layer import MoE
from sparsemix.routers import HashRouter, Router
from sparsemix.routers.base import ResidualRouter
from sparsemix.routing import Routing, TokenInfo

SEED = 0
"""Of everything random here: a verification says the same twice."""


class Tokens(NamedTuple):
    """What a layer is called with."""

    name: str
    x: Tensor
    """(T, *item)."""
    info: TokenInfo
    previous: Routing | None = None
    """The routing of the mixture below, for routers that build on it."""


class Subject(NamedTuple):
    """A mixture under verification."""

    moe: MoE
    where: str
    """`block 3`."""
    item_shape: tuple[int, ...]
    """(D,), or that of a sequence."""
    num_tokens: int
    """T, of random tokens."""
    losses: tuple[Loss, ...]
    """The balance losses that it is trained with."""
    own: tuple[Tokens, ...] = ()
    """Hidden states of text, where there is a model to give them."""

    @property
    def terms(self) -> int:
        """Of the longest sum behind a number: through both projections, or over the tokens for a weight's gradient."""
        widest = max((size for parameter in self.moe.parameters() for size in parameter.shape[1:]), default=1)
        return 2 * widest + max(self.num_tokens, *(len(tokens.x) for tokens in self.own), 1)

    def tokens(self, num_tokens: int | None = None, name: str = "random tokens") -> Tokens:
        """Random tokens with all that a router may want to know."""
        count = self.num_tokens if num_tokens is None else num_tokens
        like = next(iter([*self.moe.parameters(), *self.moe.buffers()]), torch.zeros(1))
        generator = torch.Generator().manual_seed(SEED)
        x = torch.randn(count, *self.item_shape, generator=generator).to(like.device)
        return Tokens(name, x, _info(self.moe, count, x), _below(self.moe, count, x, generator))

    def situations(self) -> list[Tokens]:
        """All of them, the text's own tokens last."""
        plain = self.tokens()
        valid_T = torch.arange(len(plain.x), device=plain.x.device) % 3 != 1
        padded = plain._replace(name="padding", info=plain.info._replace(valid_T=valid_T))
        return [plain, padded, self.tokens(1, "one token"), self.tokens(0, "no token"), *self.own]


def twin(moe: MoE) -> MoE:
    """A copy in float64, whose parameters are leaves of their own, by a back end that takes float64."""
    double = copy.deepcopy(moe).double()
    for module in double.modules():
        if isinstance(module, GLUExperts | MLPExperts):
            module.config = cast(Any, replace(module.config, backend="auto"))
    return double


def wide(tokens: Tokens) -> Tokens:
    """The same in float64, x a leaf."""
    previous = tokens.previous
    if previous is not None and previous.logits_TE is not None:
        previous = previous._replace(logits_TE=previous.logits_TE.double())
    return tokens._replace(x=tokens.x.detach().double().requires_grad_(), previous=previous)


@contextmanager
def fixed_noise() -> Iterator[None]:
    """The same random numbers inside each such block, and nobody else's stream moves."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        yield


def upstream(y: Tensor) -> Tensor:
    """The gradient that reaches y in all checks: without pattern, and the same numbers for every dtype."""
    generator = torch.Generator().manual_seed(SEED + 1)
    return torch.randn(y.shape, generator=generator).to(y.device, y.dtype)


def gradients(loss: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Zero where an input takes no part."""
    if not loss.requires_grad:
        return [torch.zeros_like(tensor) for tensor in inputs]
    found = torch.autograd.grad(loss, list(inputs), allow_unused=True, retain_graph=True)
    return [torch.zeros_like(tensor) if grad is None else grad for tensor, grad in zip(inputs, found)]


def _info(moe: MoE, num_tokens: int, x: Tensor) -> TokenInfo:
    number_T = torch.arange(num_tokens, device=x.device)
    half = max((num_tokens + 1) // 2, 1)
    tables = [len(router.expert_VK) for router in map(inside, moe.routers()) if isinstance(router, HashRouter)]
    return TokenInfo(
        id_T=5 * number_T % min([2**15, *tables]),
        sequence_T=number_T // half,
        position_T=number_T % half,
        modality_T=number_T % 2,
    )


def _below(moe: MoE, num_tokens: int, x: Tensor, generator: torch.Generator) -> Routing | None:
    router: Any = moe.router
    if not (isinstance(router, ResidualRouter) and router.reads_previous):
        return None
    logits_TE = torch.randn(num_tokens, moe.router.num_experts, generator=generator).to(x.device)
    none_N = torch.zeros(0, dtype=torch.int64, device=x.device)
    return Routing(none_N, none_N, logits_TE.new_zeros(0), logits_TE=logits_TE)


def inside(router: Router) -> Any:
    """The router itself, or the one that sees the means of items."""
    return getattr(router, "router", router)
