"""What a router decides, as data: weighted edges token -> expert, and their view sorted by expert."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from sparsemix.checks import check


class TokenInfo(NamedTuple):
    """What a router may need to know about the T tokens beside x; every field is optional, each of shape (T,)."""

    valid_T: Tensor | None = None
    """bool, False for padding: such tokens reach no expert and count in no loss and no statistic."""
    id_T: Tensor | None = None
    """int64 token ids."""
    sequence_T: Tensor | None = None
    """int64, which sequence the token belongs to."""
    position_T: Tensor | None = None
    """int64, its place in the sequence."""
    modality_T: Tensor | None = None
    """int64, which modality it comes from."""


class Routing(NamedTuple):
    """N weighted edges token -> expert over T tokens and E experts. A value: nothing modifies it in place."""

    token_N: Tensor
    """int64, 0 <= token < T."""
    expert_N: Tensor
    """int64, 0 <= expert < E: the router's choice, never overwritten, so that losses see what the router wanted."""
    weight_N: Tensor
    """combine weight, float32 or wider; carries the router's gradient."""
    live_N: Tensor | None = None
    """bool, False for edges dropped by capacity and for padding; None: all live. Only `sort_by_expert` reads it."""
    logits_TE: Tensor | None = None
    """before bias, noise or mask."""
    probs_TE: Tensor | None = None
    """the gate distribution that balance losses read; rows sum to 1."""
    load_TE: Tensor | None = None
    """differentiable probability of being selected, for `load_loss`."""
    edges_per_token: int | None = None
    """K where every token has exactly K edges, in token order; None: ragged."""
    info: TokenInfo | None = None
    loss: Tensor | None = None
    """what the router itself asks to be added to the loss, a scalar: a mean over its valid tokens."""
    inner: tuple[Routing, ...] = ()
    """routings of mixtures used as experts; losses and statistics recurse into them."""


class Dispatch(NamedTuple):
    """The N edges of a routing sorted by expert: expert e owns rows bounds[e]:bounds[e + 1]; dead edges come last.

    Its sizes depend on no value, so that no device waits for the host, and graphs can be captured: rows from bounds[E]
    on are dead, dropped or padding. Nobody computes them; they contribute nothing.
    """

    token_N: Tensor
    """int64, the row of x that sorted row i reads."""
    edge_N: Tensor
    """int64, the edge of the routing that sorted row i is."""
    weight_N: Tensor
    """combine weights in sorted order."""
    bounds: Tensor
    """int32, E + 1 offsets that begin with 0; the last is the number of live rows."""
    slot_TK: Tensor | None
    """int64, the sorted rows of each token, dead ones too, where every token has K edges; None: ragged."""
    all_live: bool = False
    """Whether it is certain that no row is dead."""


def sort_by_expert(routing: Routing, num_experts: int) -> Dispatch:
    """Sort the edges by expert, stably: within an expert, rows keep the order of the routing's edges.

    Args:
        routing: N edges, of which `live_N` marks those to compute.
        num_experts: E.

    Returns:
        The dispatch; gradient flows through `weight_N`.
    """
    expert_N = routing.expert_N
    if routing.live_N is not None:
        expert_N = torch.where(routing.live_N, expert_N, num_experts)
    expert_N, edge_N = torch.sort(expert_N, stable=True)
    experts = torch.arange(num_experts + 1, device=expert_N.device)
    slot_TK = None
    if routing.edges_per_token:
        slot_N = torch.empty_like(edge_N).scatter_(0, edge_N, torch.arange(len(edge_N), device=edge_N.device))
        slot_TK = slot_N.view(-1, routing.edges_per_token)
    return Dispatch(
        token_N=routing.token_N[edge_N],
        edge_N=edge_N,
        weight_N=routing.weight_N[edge_N],
        bounds=torch.searchsorted(expert_N, experts, out_int32=True),
        slot_TK=slot_TK,
        all_live=routing.live_N is None,
    )


def drop_over_capacity(
    routing: Routing, num_queues: int, capacity: int | Tensor, order_N: Tensor, queue_N: Tensor | None = None
) -> Routing:
    """Mark as not live the edges past the first `capacity` of each queue; the choice itself stays as it was.

    Args:
        routing: N edges; those not live already take no place.
        num_queues: E, where each expert has one queue.
        capacity: the most edges that are taken from a queue, at least 1; for each queue its own: (num_queues,).
        order_N: a permutation of the edges, the first to be served first.
        queue_N: the queue that each edge waits in; None: its expert's.

    Returns:
        The routing with `live_N` set.
    """
    assert isinstance(capacity, Tensor) or capacity >= 1, "an expert that may take no token would crash decoding"
    live_N = torch.ones_like(routing.expert_N, dtype=torch.bool) if routing.live_N is None else routing.live_N
    queue_N = routing.expert_N if queue_N is None else queue_N
    capacity_N = capacity if isinstance(capacity, int) else capacity[queue_N]
    waiting_N = torch.where(live_N, queue_N, num_queues)[order_N]  # the dead wait in a queue of their own
    queue_N, edge_N = torch.sort(waiting_N, stable=True)
    starts = torch.searchsorted(queue_N, torch.arange(num_queues + 1, device=queue_N.device))
    place_N = torch.arange(len(queue_N), device=queue_N.device) - starts[queue_N]
    place_N = torch.empty_like(place_N).scatter_(0, order_N[edge_N], place_N)
    return routing._replace(live_N=live_N & (place_N < capacity_N))


def valid_edges(routing: Routing) -> Tensor | None:
    """bool (N,): False for edges of padding; None where there is no padding."""
    if routing.info is None or routing.info.valid_T is None:
        return None
    return routing.info.valid_T[routing.token_N]


def load(routing: Routing, num_experts: int) -> Tensor:
    """Number of valid choices of each expert, (E,) int64, before capacity dropping."""
    valid_N = valid_edges(routing)
    expert_N = routing.expert_N
    count_N = torch.ones_like(expert_N) if valid_N is None else valid_N.long()
    return torch.zeros(num_experts, dtype=torch.int64, device=expert_N.device).index_add_(0, expert_N, count_N)


def num_valid_tokens(routing: Routing, num_tokens: int) -> Tensor | int:
    """T less the padding."""
    if routing.info is None or routing.info.valid_T is None:
        return num_tokens
    return routing.info.valid_T.sum()


def count_tokens(routing: Routing) -> int:
    """T, padding included.

    Raises:
        ValueError: nothing in the routing tells.
    """
    for per_token in (routing.logits_TE, routing.probs_TE, routing.load_TE):
        if per_token is not None:
            return len(per_token)
    k = routing.edges_per_token
    check(bool(k), "routing", "must have logits or K edges a token for its tokens to be counted", "neither")
    return len(routing.expert_N) // (k or 1)


def needed(info: TokenInfo | None, name: str, who: str) -> Tensor:
    """A field of `info`, (T,).

    Raises:
        ValueError: it is None, and `who` needs it.
    """
    value = None if info is None else getattr(info, name)
    check(value is not None, f"info.{name}", f"is needed by {who}", "None", f"pass info=TokenInfo({name}=...)")
    assert value is not None
    return value


def flatten(routings: Routing | Sequence[Routing]) -> list[Routing]:
    """Every routing, those of mixtures used as experts included, outer before inner."""
    if isinstance(routings, Routing):
        return [routings, *flatten(routings.inner)]
    return [found for routing in routings for found in flatten(routing)]


def concat(routings: Sequence[Routing], num_tokens: Sequence[int]) -> Routing:
    """One router's routings of several batches as the routing of all their tokens, batch after batch.

    Args:
        routings: at least one; a field but `live_N` and `valid_T` is in all of them or in none.
        num_tokens: T of each.

    Returns:
        Edges, rows of tokens and gradients as they were; `loss` is the mean over all valid tokens. Routings inside
        are joined likewise, the first of each with the first, so that a loss sees each router once.

    Raises:
        ValueError: a field that only some of the routings have.
    """
    ks = {routing.edges_per_token for routing in routings}
    inner = zip(*(routing.inner for routing in routings), strict=True)
    return Routing(
        token_N=torch.cat([r.token_N + first for r, first in zip(routings, accumulate(num_tokens, initial=0))]),
        expert_N=torch.cat([routing.expert_N for routing in routings]),
        weight_N=torch.cat([routing.weight_N for routing in routings]),
        live_N=_joined_masks([r.live_N for r in routings], [len(r.expert_N) for r in routings]),
        logits_TE=_joined("logits_TE", [routing.logits_TE for routing in routings]),
        probs_TE=_joined("probs_TE", [routing.probs_TE for routing in routings]),
        load_TE=_joined("load_TE", [routing.load_TE for routing in routings]),
        edges_per_token=ks.pop() if len(ks) == 1 else None,
        info=_joined_info([routing.info for routing in routings], num_tokens),
        loss=_mean_loss(routings, num_tokens),
        inner=tuple(concat(parts, [count_tokens(part) for part in parts]) for parts in inner),
    )


def _joined(name: str, tensors: Sequence[Tensor | None]) -> Tensor | None:
    given = [tensor for tensor in tensors if tensor is not None]
    seen = f"{len(given)} of {len(tensors)}"
    check(len(given) in (0, len(tensors)), f"routings.{name}", "must be in all of them or in none", seen)
    return torch.cat(given) if given else None


def _mean_loss(routings: Sequence[Routing], num_tokens: Sequence[int]) -> Tensor | None:
    losses = _joined("loss", [None if routing.loss is None else routing.loss[None] for routing in routings])
    if losses is None:
        return None
    valid = [num_valid_tokens(routing, size) for routing, size in zip(routings, num_tokens)]
    weights = torch.stack([losses.new_tensor(n) if isinstance(n, int) else n.to(losses.dtype) for n in valid])
    return (losses * weights).sum() / weights.sum().clamp(min=1)


def _joined_masks(masks: Sequence[Tensor | None], sizes: Sequence[int]) -> Tensor | None:
    """None in some means True."""
    given = next((mask for mask in masks if mask is not None), None)
    if given is None:
        return None
    return torch.cat([given.new_ones(n) if mask is None else mask for mask, n in zip(masks, sizes)])


def _joined_info(infos: Sequence[TokenInfo | None], num_tokens: Sequence[int]) -> TokenInfo | None:
    if all(info is None for info in infos):
        return None
    valid, *fields = zip(*(info or TokenInfo() for info in infos))
    others = [_joined(name, field) for name, field in zip(TokenInfo._fields[1:], fields)]
    return TokenInfo(_joined_masks(valid, num_tokens), *others)
