"""Pure functions from scores to chosen experts and their weights, and from these to a routing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparsemix.checks import check
from sparsemix.routers.base import live_edges
from sparsemix.routers.score import Gate, gate_distribution, gate_scores, gate_weights
from sparsemix.routing import Routing, TokenInfo

LEAST_NOISE = 1e-6
"""Against logits of size 1; its square is still far from underflow."""


def check_k(k: int, num_experts: int) -> None:
    """Raise `ValueError` unless 1 <= k <= E."""
    seen, remedy = f"k={k} with num_experts={num_experts}", "lower k or add experts"
    check(1 <= k <= num_experts, "k", "must be in 1..num_experts", seen, remedy)


def best(scores_TE: Tensor, k: int) -> Tensor:
    """The k best experts of each token, best first, (T, K)."""
    return scores_TE.detach().topk(k, dim=-1).indices


def among_best(scores_TE: Tensor, k: int) -> Tensor:
    """bool (T, E): whether the expert is one of the token's k best."""
    return torch.zeros_like(scores_TE, dtype=torch.bool).scatter(-1, best(scores_TE, k), True)


def token_choice(expert_TK: Tensor, weight_TK: Tensor, info: TokenInfo | None, **fields: Any) -> Routing:
    """The routing of tokens that chose k experts each, best first.

    Args:
        expert_TK: the choices.
        weight_TK: their combine weights.
        info: `valid_T` makes the edges of padding not live.
        fields: others of the routing.
    """
    num_tokens, k = expert_TK.shape
    token_N = torch.arange(num_tokens, device=expert_TK.device).repeat_interleave(k)
    return Routing(
        token_N=token_N,
        expert_N=expert_TK.reshape(-1),
        weight_N=weight_TK.reshape(-1),
        live_N=live_edges(info, token_N, num_tokens),
        edges_per_token=k,
        info=info,
        **fields,
    )


def gated_choice(
    logits_TE: Tensor,
    k: int,
    gate: Gate,
    normalize: bool,
    info: TokenInfo | None,
    preference: Callable[[Tensor], Tensor] | None = None,
) -> Routing:
    """The routing of tokens to their k best experts by a gate's scores, weighted by these.

    Args:
        logits_TE: what the gate is applied to.
        k: experts a token.
        gate: from logits to scores.
        normalize: divide the k weights by their sum.
        info: `valid_T` makes the edges of padding not live.
        preference: from scores to what the best are chosen by, of which weights know nothing; None: the scores.
    """
    scores_TE = gate_scores(gate, logits_TE)
    expert_TK = best(scores_TE if preference is None else preference(scores_TE), k)
    weight_TK = gate_weights(gate, scores_TE.gather(-1, expert_TK), normalize)
    probs_TE = scores_TE if gate == "softmax_topk" else gate_distribution(gate, logits_TE)
    return token_choice(expert_TK, weight_TK, info, logits_TE=logits_TE, probs_TE=probs_TE)


def ragged_choice(chosen_TE: Tensor, weight_TE: Tensor, info: TokenInfo | None, **fields: Any) -> Routing:
    """The routing of tokens that chose as many experts as they like, which costs no more than these.

    How many edges there are depends on values: the host waits for them, and `torch.compile` breaks the graph here.

    Args:
        chosen_TE: bool, the choices.
        weight_TE: combine weights, read where chosen.
        info: `valid_T` makes the edges of padding not live.
        fields: others of the routing.
    """
    token_N, expert_N = chosen_TE.nonzero(as_tuple=True)
    return Routing(
        token_N=token_N,
        expert_N=expert_N,
        weight_N=weight_TE[token_N, expert_N],
        live_N=live_edges(info, token_N, len(chosen_TE)),
        info=info,
        **fields,
    )


def keep(routing: Routing, keep_N: Tensor) -> Routing:
    """The routing with all other edges not live: choices still, but nobody computes them."""
    return routing._replace(live_N=keep_N if routing.live_N is None else routing.live_N & keep_N)


def selection_probability(clean_TE: Tensor, noisy_TE: Tensor, scale_TE: Tensor, k: int) -> Tensor:
    """P(t, i) = Phi((clean_i - kth largest of the others' noisy logits) / scale_i): chance that i is in the top k.

    The noise of i alone is drawn again, that of the others stays. Gradient flows through the threshold too. 1 for all
    where k = E. Noise below `LEAST_NOISE` counts as that much: without any, the gradient would be 0 / 0.

    Source: Shazeer 2017 (1701.06538), equation 8 and 9.
    """
    if k == clean_TE.shape[-1]:
        return torch.ones_like(clean_TE)
    top_TK, _ = noisy_TE.topk(k + 1, dim=-1)
    selected_TE = noisy_TE > top_TK[:, k:]
    # Without i, the k-th largest is the (k + 1)-th of all where i is among the top k, and otherwise the k-th.
    threshold_TE = torch.where(selected_TE, top_TK[:, k:], top_TK[:, k - 1 : k])
    return torch.special.ndtr((clean_TE - threshold_TE) / scale_TE.clamp(min=LEAST_NOISE))
