"""What losses read of a routing: means over valid tokens, and how a part of a batch sees the whole of it."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsemix.checks import check
from sparsemix.routing import Routing, count_tokens, load, num_valid_tokens, valid_edges


def field(routing: Routing, name: str, loss: str) -> Tensor:
    """A field of the routing, or `ValueError` where this router has none."""
    value = getattr(routing, name)
    remedy = "use a router that gives it (load_TE: a noisy one, in training), or another loss"
    check(value is not None, loss, f"needs routing.{name}", "None", remedy)
    return value


def valid_tokens(routing: Routing) -> Tensor | int:
    """How many there are, perhaps none."""
    return num_valid_tokens(routing, count_tokens(routing))


def num_tokens(routing: Routing) -> Tensor | int:
    """Valid tokens, at least 1 so that an empty batch has losses of 0 rather than NaN."""
    count = valid_tokens(routing)
    return count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1)


def valid_rows(routing: Routing, value_TE: Tensor) -> Tensor:
    """The values with those of padding 0, whatever they were."""
    if routing.info is None or routing.info.valid_T is None:
        return value_TE
    return torch.where(routing.info.valid_T[:, None], value_TE, 0)


def mean_over_tokens(routing: Routing, value_TE: Tensor) -> Tensor:
    """Mean of each column over the valid tokens, (E,)."""
    return valid_rows(routing, value_TE).sum(0) / num_tokens(routing)


def fixed_k(routing: Routing) -> int:
    """k, or `ValueError` where tokens have no fixed number of edges."""
    k = routing.edges_per_token
    check(k is not None, "form", "needs a router of k edges a token", "a ragged routing", "use form='all'")
    assert k is not None
    return k


def first_choices(routing: Routing) -> Routing:
    """The edges that are their token's best: choices lie token by token, best first."""
    k = fixed_k(routing)
    return routing._replace(
        token_N=routing.token_N[::k],
        expert_N=routing.expert_N[::k],
        weight_N=routing.weight_N[::k],
        live_N=None if routing.live_N is None else routing.live_N[::k],
        edges_per_token=1,
    )


def count(routing: Routing, loss: str) -> Tensor:
    """Valid choices of each expert, (E,) int64."""
    return load(routing, field(routing, "probs_TE", loss).shape[1])


def share(load_E: Tensor, dtype: torch.dtype) -> Tensor:
    """Each expert's share of all choices; 0 where there are none."""
    load_E = load_E.to(dtype)
    return load_E / load_E.sum().clamp(min=1)


def combine_weight(routing: Routing, num_experts: int) -> Tensor:
    """Summed combine weight of each expert, (E,); padding does not count, dropped edges do."""
    valid_N = valid_edges(routing)
    weight_N = routing.weight_N if valid_N is None else torch.where(valid_N, routing.weight_N, 0)
    return weight_N.new_zeros(num_experts).index_add(0, routing.expert_N, weight_N)


def seen_from_the_whole(part_E: Tensor, whole_E: Tensor | None) -> Tensor:
    """The value of the whole batch with the gradient of this part: exact once averaged over the parts by tokens."""
    return part_E if whole_E is None else part_E + (whole_E - part_E).detach()


def with_count(sum_E: Tensor, routing: Routing) -> Tensor:
    """A sum over the valid tokens and their number, (E + 1,): the mean of a batch as something additive."""
    tokens = torch.as_tensor(valid_tokens(routing), dtype=sum_E.dtype, device=sum_E.device)
    return torch.cat([sum_E.detach(), tokens.view(1)])


def mean_of(total: Tensor | None) -> Tensor | None:
    """The mean that a `with_count`, added up over a batch, stands for."""
    return None if total is None else total[:-1] / total[-1].clamp(min=1)
