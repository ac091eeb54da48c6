"""The balance losses once more, in float64 and token by token where that is the definition."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsemix.routing import Routing


class Counted(NamedTuple):
    """What losses see of a routing: the valid tokens and their choices."""

    routing: Routing
    rows: list[int]
    """Numbers of the valid tokens."""
    choices: list[list[int]]
    """Their experts, best first where the router says k a token."""

    @property
    def num_tokens(self) -> int:
        """At least 1."""
        return max(len(self.rows), 1)

    @property
    def probs(self) -> Tensor:
        """Of the valid tokens."""
        assert self.routing.probs_TE is not None
        return self.routing.probs_TE[self.rows]

    def counts(self, choices: list[list[int]] | None = None) -> list[int]:
        """How often each expert was chosen."""
        assert self.routing.probs_TE is not None
        counts = [0] * self.routing.probs_TE.shape[1]
        for row in self.choices if choices is None else choices:
            for expert in row:
                counts[expert] += 1
        return counts

    def only(self, keep: list[bool]) -> Counted:
        """These of the tokens."""
        kept = [n for n, one in enumerate(keep) if one]
        return self._replace(rows=[self.rows[n] for n in kept], choices=[self.choices[n] for n in kept])


def counted(routing: Routing, num_tokens: int) -> Counted:
    """A routing of T tokens as losses see it."""
    choices: list[list[int]] = [[] for _ in range(num_tokens)]
    for token, expert in zip(routing.token_N.tolist(), routing.expert_N.tolist()):
        choices[token].append(expert)
    valid = [True] * num_tokens
    if routing.info is not None and routing.info.valid_T is not None:
        valid = routing.info.valid_T.tolist()
    return Counted(routing, list(range(num_tokens)), choices).only(valid)


def formula(loss: Any, seen: Counted) -> Tensor:
    """The value of a loss's config without its weight, differentiable."""
    match loss.type:
        case "switch":
            return _switch(seen, loss.form)
        case "z":
            assert seen.routing.logits_TE is not None
            return torch.logsumexp(seen.routing.logits_TE[seen.rows], -1).square().sum() / seen.num_tokens
        case "importance":
            return _squared_variation(_given(seen) if loss.form == "weights" else seen.probs.sum(0))
        case "load":
            assert seen.routing.load_TE is not None
            return _squared_variation(seen.routing.load_TE[seen.rows].sum(0))
        case "sequence":
            return _by_sequence(seen)
        case "device":
            return _device(seen, loss.num_devices)
        case "communication":
            return _communication(seen, loss.num_devices, loss.devices_per_token)
        case "local_entropy":
            return _mean(_entropy(_of_modality(seen, loss.modality).probs))
        case "global_entropy":
            probs = _of_modality(seen, loss.modality).probs
            return (math.log(loss.min_experts) - _entropy(probs.mean(0))).clamp(min=0) if len(probs) else probs.sum()
        case "cost":
            per_token = [count / seen.num_tokens for count in seen.counts()]
            return _dot([c * f for c, f in zip(loss.costs, per_token)], seen.probs.sum(0) / seen.num_tokens)
        case "null":
            return _null(seen, loss.num_null)
    raise TypeError(f"losses: must be of a kind that has a formula, got {loss.type}; write it down")


def _switch(seen: Counted, form: str) -> Tensor:
    """E sum f P, with f of all or of first choices; times k, or over E squared, as the form says."""
    first = form in ("first", "gshard")
    shares = _shares(seen.counts([row[:1] for row in seen.choices] if first else None))
    product = _dot(shares, seen.probs.sum(0) / seen.num_tokens)
    if form == "gshard":
        return product / len(shares)
    return len(shares) * product * ((seen.routing.edges_per_token or 1) if form == "all_times_k" else 1)


def _by_sequence(seen: Counted) -> Tensor:
    assert seen.routing.info is not None
    assert seen.routing.info.sequence_T is not None
    names = seen.routing.info.sequence_T[seen.rows].tolist()
    parts = [_switch(seen.only([one == name for one in names]), "all") for name in dict.fromkeys(names)]
    return torch.stack(parts).mean() if parts else seen.probs.sum()


def _device(seen: Counted, num_devices: int) -> Tensor:
    """Each device's mean of E f times the sum of its P."""
    counts = seen.counts()
    size = len(counts) // num_devices
    shares = [len(counts) * share for share in _shares(counts)]
    means = [sum(shares[d * size : (d + 1) * size]) / size for d in range(num_devices)]
    return _dot(means, _of_devices(seen, num_devices))


def _communication(seen: Counted, num_devices: int, devices_per_token: int) -> Tensor:
    size = len(seen.counts()) // num_devices
    visits = [{expert // size for expert in row} for row in seen.choices]
    sent = [sum(d in visited for visited in visits) / seen.num_tokens for d in range(num_devices)]
    return num_devices / devices_per_token * _dot(sent, _of_devices(seen, num_devices))


def _null(seen: Counted, num_null: int) -> Tensor:
    """The switch loss with the null experts' shares replaced by their mean."""
    shares = _shares(seen.counts())
    shares = shares[:-num_null] + [sum(shares[-num_null:]) / num_null] * num_null
    return len(shares) * _dot(shares, seen.probs.sum(0) / seen.num_tokens)


def _of_devices(seen: Counted, num_devices: int) -> Tensor:
    return torch.stack([part.sum() for part in seen.probs.chunk(num_devices, dim=1)]) / seen.num_tokens


def _given(seen: Counted) -> Tensor:
    """The combine weights that each expert has from valid tokens."""
    weights = [seen.routing.weight_N.new_zeros(()) for _ in seen.counts()]
    rows = set(seen.rows)
    for n, (token, expert) in enumerate(zip(seen.routing.token_N.tolist(), seen.routing.expert_N.tolist())):
        if token in rows:
            weights[expert] = weights[expert] + seen.routing.weight_N[n]
    return torch.stack(weights)


def _of_modality(seen: Counted, modality: int | None) -> Counted:
    if modality is None:
        return seen
    assert seen.routing.info is not None
    assert seen.routing.info.modality_T is not None
    return seen.only([one == modality for one in seen.routing.info.modality_T[seen.rows].tolist()])


def _shares(counts: list[int]) -> list[float]:
    return [count / max(sum(counts), 1) for count in counts]


def _dot(factors: list[float], values: Tensor) -> Tensor:
    return sum((f * value for f, value in zip(factors, values, strict=True)), values.new_zeros(()))


def _squared_variation(sums: Tensor) -> Tensor:
    """Population variance over squared mean, 0 where nothing was given."""
    mean = sums.mean()
    return (sums - mean).square().mean() / mean.square() if mean else 0 * mean


def _entropy(probs: Tensor) -> Tensor:
    return -torch.special.xlogy(probs, probs.clamp(min=1e-300)).sum(-1)


def _mean(values: Tensor) -> Tensor:
    return values.mean() if len(values) else values.sum()
