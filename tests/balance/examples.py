"""Routings that the tests of balance losses share: any at all for hypothesis, or with stated choices."""

from __future__ import annotations

from typing import NamedTuple

import torch
from cases import gradients, numbers, same
from hypothesis import strategies as st
from torch import Tensor

from sparsemix import Routing, TokenInfo


class Situation(NamedTuple):
    """A routing in float64 all of whose tensors come from one leaf, and what the references take."""

    routing: Routing
    logits_TE: Tensor
    """The leaf."""
    choices: list[list[int]]
    weights: list[list[Tensor]]
    valid: list[bool]
    sequence: list[int]
    modality: list[int]

    @property
    def num_experts(self) -> int:
        return self.logits_TE.shape[1]


@st.composite
def situations(
    draw: st.DrawFn, min_experts: int = 1, ragged: bool | None = None, num_tokens: int | None = None
) -> Situation:
    """No token or several, k choices each or any number, best first or not, with or without padding."""
    num_tokens = draw(st.integers(0, 6)) if num_tokens is None else num_tokens
    num_experts = draw(st.integers(min_experts, 6))
    ragged = draw(st.booleans()) if ragged is None else ragged
    k = None if ragged else draw(st.integers(1, num_experts))
    order = st.permutations(range(num_experts))
    chosen = st.lists(st.integers(0, num_experts - 1), unique=True) if k is None else order.map(lambda row: row[:k])
    several = {"min_size": num_tokens, "max_size": num_tokens}
    valid = draw(st.none() | st.lists(st.booleans(), **several))
    sequence, modality = (draw(st.lists(st.integers(0, 2), **several)) for _ in range(2))
    info = TokenInfo(
        valid_T=None if valid is None else torch.tensor(valid, dtype=torch.bool),
        sequence_T=torch.tensor(sequence, dtype=torch.int64),
        modality_T=torch.tensor(modality, dtype=torch.int64),
    )
    logits_TE = numbers(draw(st.integers(0, 9)), num_tokens, num_experts).requires_grad_()
    choices = draw(st.lists(chosen, **several))
    return of_choices(logits_TE, choices, info, k, sequence=sequence, modality=modality)


def of_choices(logits_TE: Tensor, choices: list[list[int]], info: TokenInfo, k: int | None, **fields) -> Situation:
    """The routing of these choices: weights are probabilities, and chances of selection are sigmoids."""
    token_N = torch.tensor([t for t, row in enumerate(choices) for _ in row], dtype=torch.int64)
    expert_N = torch.tensor([e for row in choices for e in row], dtype=torch.int64)
    probs_TE = logits_TE.softmax(-1)
    routing = Routing(
        token_N,
        expert_N,
        probs_TE[token_N, expert_N],
        live_N=torch.arange(len(token_N)) % 3 != 0,  # dropping changes no loss
        logits_TE=logits_TE,
        probs_TE=probs_TE,
        load_TE=torch.sigmoid(logits_TE),
        edges_per_token=k,
        info=info,
    )
    weights = [[probs_TE[t, e] for e in row] for t, row in enumerate(choices)]
    valid = [True] * len(choices) if info.valid_T is None else info.valid_T.tolist()
    return Situation(routing, logits_TE, choices, weights, valid, **fields)


def chosen(expert: list[int], probs: list[list[float]], **fields) -> Routing:
    """One choice a token, with these probabilities as leaves."""
    probs_TE = torch.tensor(probs, dtype=torch.float64).requires_grad_()
    expert_N = torch.tensor(expert)
    weight_N = probs_TE.gather(1, expert_N[:, None])[:, 0]
    token_N = torch.arange(len(expert))
    return Routing(
        token_N, expert_N, weight_N, probs_TE=probs_TE, logits_TE=probs_TE.log(), edges_per_token=1, **fields
    )


def uniform(num_experts: int, k: int) -> Routing:
    """As many tokens as experts, all experts chosen k times, by tokens that do not prefer any."""
    choices = [[(t + j) % num_experts for j in range(k)] for t in range(num_experts)]
    logits_TE = torch.zeros(num_experts, num_experts, dtype=torch.float64)
    return of_choices(logits_TE, choices, TokenInfo(), k, sequence=[], modality=[]).routing


def collapsed(num_experts: int, num_tokens: int = 3) -> Routing:
    """All tokens, with all their probability, at expert 0."""
    return chosen([0] * num_tokens, [[1.0] + [0.0] * (num_experts - 1)] * num_tokens)


def agree(actual: Tensor, expected: Tensor, leaf: Tensor) -> None:
    """Value and gradient."""
    same(actual, expected)
    same(*gradients(actual, [leaf]), *gradients(expected, [leaf]), "gradient")


def is_nothing(actual: Tensor, leaf: Tensor) -> None:
    """0, and so is its gradient."""
    assert actual.item() == 0
    assert not gradients(actual, [leaf])[0].any()
