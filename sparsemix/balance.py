"""Load balancing: losses of routings, the selection-bias rule, and their sum with the papers' defaults."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsemix.checks import check
from sparsemix.routing import Routing, flatten, load, num_valid_tokens, valid_edges


def switch_loss(routing: Routing, load_E: Tensor | None = None) -> Tensor:
    """E sum_i f_i P_i: f_i the share of choices that went to expert i, P_i the mean gate probability of i.

    1 for a uniform load, E when all tokens and all probability are on one expert. Only P carries gradient; f counts
    all k choices, before capacity dropping, without padding.

    Args:
        routing: of one layer; `probs_TE` is required.
        load_E: choices of each expert over a larger batch (all micro-batches, all ranks). The mean of the losses of
            the parts, weighted by their tokens, is then exactly the loss of the whole, and so is its gradient.

    Returns:
        A scalar.

    Raises:
        ValueError: the routing has no `probs_TE`.

    Source: Switch (2101.03961) equations 4 to 6, with f over all k choices as in OLMoE (2409.02060). For k > 1
        others leave k out, which makes the value at a uniform load k.
    """
    probs_TE = _field(routing, "probs_TE", "switch_loss")
    num_experts = probs_TE.shape[1]
    load_E = (load(routing, num_experts) if load_E is None else load_E).to(probs_TE.dtype)
    share_E = load_E / load_E.sum().clamp(min=1)
    return num_experts * (share_E * _mean_over_tokens(routing, probs_TE)).sum()


def z_loss(routing: Routing) -> Tensor:
    """mean_t (logsumexp_i logits_ti)^2, which keeps the router's logits small; (ln E)^2 for zero logits.

    Padding does not count. Source: ST-MoE (2202.08906) equation 5.
    """
    logits_TE = _field(routing, "logits_TE", "z_loss")
    return _mean_over_tokens(routing, logits_TE.logsumexp(-1, keepdim=True).square()).sum()


def importance(routing: Routing, num_experts: int) -> Tensor:
    """Mean combine weight a token gives to each expert, (E,); padding does not count, dropped edges do."""
    valid_N = valid_edges(routing)
    weight_N = routing.weight_N if valid_N is None else torch.where(valid_N, routing.weight_N, 0)
    total_E = weight_N.new_zeros(num_experts).index_add(0, routing.expert_N, weight_N)
    return total_E / _num_tokens(routing)


def importance_loss(routing: Routing, importance_E: Tensor | None = None) -> Tensor:
    """CV^2 of the importance: population variance over squared mean of the experts' summed combine weights.

    Args:
        routing: of one layer.
        importance_E: the mean importance over a larger batch; value and gradient are then exact as in `switch_loss`.

    Source: Shazeer 2017 (1701.06538) equation 6 and 7.
    """
    probs_TE = _field(routing, "probs_TE", "importance_loss")
    return _cv_squared(_seen_from_the_whole(importance(routing, probs_TE.shape[1]), importance_E))


def expected_load(routing: Routing) -> Tensor:
    """Mean chance of each expert to be selected, (E,): the differentiable load of noisy top-k gating."""
    return _mean_over_tokens(routing, _field(routing, "load_TE", "load_loss"))


def load_loss(routing: Routing, load_E: Tensor | None = None) -> Tensor:
    """CV^2 of the differentiable load, which noisy routers give in training.

    Args:
        routing: of one layer; `load_TE` is required.
        load_E: the mean `expected_load` over a larger batch; value and gradient are then exact.

    Source: Shazeer 2017 (1701.06538) equation 10 and 11.
    """
    return _cv_squared(_seen_from_the_whole(expected_load(routing), load_E))


def balance_loss(
    routings: Routing | Sequence[Routing],
    *,
    switch: float = 0.01,
    z: float = 0.001,
    importance: float = 0.0,
    load: float = 0.0,
) -> Tensor:
    """The weighted balance losses summed over layers: add it to the loss of the task, in one line.

    The sum, not the mean: each layer's router then feels the same force however deep the model is.

    Args:
        routings: of one layer or of all, those of mixtures used as experts found inside.
        switch: coefficient of `switch_loss`; 0.01 as in Switch and OLMoE.
        z: coefficient of `z_loss`; 0.001 as in ST-MoE.
        importance: coefficient of `importance_loss` (0.1 in the 2017 language models).
        load: coefficient of `load_loss` (likewise).

    Returns:
        A scalar.

    >>> import torch; from sparsemix import TopKRouterConfig
    >>> routing = TopKRouterConfig(k=2).build(8, 4)(torch.randn(16, 8))
    >>> balance_loss(routing).requires_grad
    True
    """
    terms = ((switch, switch_loss), (z, z_loss), (importance, importance_loss), (load, load_loss))
    losses = [weight * loss(routing) for routing in flatten(routings) for weight, loss in terms if weight]
    check(len(losses) > 0, "balance_loss", "needs a routing and a coefficient above 0", f"{len(losses)} terms")
    return torch.stack(losses).sum()


def bias_step(bias_E: Tensor, load_E: Tensor, rate: float) -> Tensor:
    """b + rate sign(mean load - load): an overloaded expert's selection bias falls, an idle one's rises.

    Source: auxiliary-loss-free balancing (2408.15664), algorithm 1. Call it once an optimiser step.
    """
    below_mean_E = torch.sign(load_E.sum() - len(load_E) * load_E)  # exact in integers, however large the batch
    return bias_E + rate * below_mean_E.to(bias_E.dtype)


def _field(routing: Routing, name: str, loss: str) -> Tensor:
    value = getattr(routing, name)
    remedy = "use a router that gives it (load_TE: noise=True, in training), or another loss"
    check(value is not None, loss, f"needs routing.{name}", "None", remedy)
    return value


def _num_tokens(routing: Routing) -> Tensor | int:
    """Valid tokens, at least 1 so that an empty batch has losses of 0 rather than NaN."""
    first = routing.probs_TE if routing.probs_TE is not None else routing.logits_TE
    assert first is not None
    count = num_valid_tokens(routing, first.shape[0])
    return count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1)


def _mean_over_tokens(routing: Routing, value_TE: Tensor) -> Tensor:
    if routing.info is not None and routing.info.valid_T is not None:
        value_TE = torch.where(routing.info.valid_T[:, None], value_TE, 0)
    return value_TE.sum(0) / _num_tokens(routing)


def _seen_from_the_whole(part_E: Tensor, whole_E: Tensor | None) -> Tensor:
    """The value of the whole batch with the gradient of this part: exact once averaged over the parts by tokens."""
    return part_E if whole_E is None else part_E + (whole_E - part_E).detach()


def _cv_squared(x_E: Tensor) -> Tensor:
    """Population variance over squared mean, 0 where all is 0; no epsilon, which would weigh more with more experts."""
    return x_E.var(unbiased=False) / x_E.mean().square().clamp(min=torch.finfo(x_E.dtype).tiny)
