"""Mixture of depths: only some of the tokens go through a block, the others pass it by."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sparsemix.config import config
from sparsemix.experts.base import init_fan_in
from sparsemix.models.cache import LayerCache
from sparsemix.models.tokens import Tokens
from sparsemix.routers.base import WideModule, wide_dtype
from sparsemix.routers.score import linear_scores
from sparsemix.routing import Routing, TokenInfo


@config
class DepthConfig:
    """Mixture of depths: in every so many-th block, a share of each sequence's tokens is computed.

    Source: Raposo et al., 2024 (arXiv 2404.02258).
    """

    capacity: float = Field(default=0.125, gt=0, le=1)
    """The share of a sequence's tokens that go through in training."""
    every: int = Field(default=2, ge=1)
    """Every so many-th block has it (the last of each group)."""
    predictor: Literal["mlp", "router"] = "mlp"
    """Who says, where later tokens are not known, which would be chosen: a perceptron that nothing else is trained by,
    or the router's own score, which is then trained to be positive for these."""
    predictor_hidden: int = Field(default=64, ge=1)
    """Width of that perceptron."""
    predictor_weight: float = Field(default=0.01, ge=0)
    """Multiplies the predictor's cross-entropy before it is added to the loss; at 1, a router that predicts forgets
    what else it is for."""

    def places(self, num_tokens: int) -> int:
        """Tokens of a sequence of so many, padding included, that go through in training: at least one."""
        return max(1, math.ceil(round(self.capacity * num_tokens, 6)))  # 0.1 * 30 is a hair above 3 in floating point

    def build(self, dim: int) -> Depth:
        """What stands before a block of width `dim`."""
        return Depth(self, dim)


class Chosen(NamedTuple):
    """The tokens that go through a block: C places a sequence, of which some may be left over."""

    x_BCD: Tensor
    """The residual stream."""
    tokens: Tokens
    """What the block is told of them."""
    token_N: Tensor
    """int64, which of all tokens each place holds."""
    weight_N: Tensor
    """Their scores, float32 or wider; carries the router's gradient."""
    live_N: Tensor | None
    """bool, False for places left over: whoever stands there passes by all the same. None: none are."""
    routing: Routing
    """The choice: an edge from each chosen token to the block, as the one expert there is."""

    def put_back(self, x_BSD: Tensor, y_BCD: Tensor) -> Tensor:
        """x + r (y - x) for the chosen tokens, y what the block made of them; x for all others."""
        x_ND = self.x_BCD.flatten(0, 1)
        wide = wide_dtype(x_ND)
        weight_N1 = self.weight_N[:, None].to(wide)
        y_ND = torch.lerp(x_ND.to(wide), y_BCD.flatten(0, 1).to(wide), weight_N1).to(x_ND.dtype)
        if self.live_N is not None:
            y_ND = torch.where(self.live_N[:, None], y_ND, x_ND)
        return x_BSD.flatten(0, 1).index_copy(0, self.token_N, y_ND).view_as(x_BSD)


class Depth(nn.Module):
    """Chooses the tokens that go through a block.

    In training these are the best of each sequence by r = w x, which only a whole sequence can tell: later tokens take
    part in the choice. In evaluation, and with a cache, a predictor says of each token by itself whether it would be
    among them, so that sampling token by token gives what evaluating the whole sequence gives. r is the weight in both.
    """

    def __init__(self, config: DepthConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.router = DepthRouter(dim, config.predictor_hidden if config.predictor == "mlp" else None)

    def forward(self, x_BSD: Tensor, tokens: Tokens, cache: LayerCache | None = None) -> Chosen:
        """The chosen tokens, in the order of their positions.

        The loss that the routing asks for is the predictor's cross-entropy, in training; gradient reaches r through
        the weights alone, unless r is what predicts.
        """
        score_TE, predicted_TE = self.router(x_BSD.flatten(0, 1))
        shape, valid_T = x_BSD.shape[:2], tokens.info.valid_T
        valid_BS = None if valid_T is None else valid_T.view(shape)
        whole = self.training and cache is None
        if whole:
            index_BC, live_BC = best(score_TE.detach().view(shape), valid_BS, self.config.places(shape[1]))
        else:
            index_BC, live_BC = positive(predicted_TE.view(shape), valid_BS)
        token_N = (index_BC + shape[1] * torch.arange(shape[0], device=x_BSD.device)[:, None]).flatten()
        live_N = None if live_BC is None else live_BC.flatten()
        routing = _routing(score_TE, predicted_TE, tokens.info, token_N if whole or live_N is None else token_N[live_N])
        if whole:
            routing = routing._replace(
                live_N=live_N, loss=self.config.predictor_weight * prediction_loss(predicted_TE[:, 0], token_N, valid_T)
            )
        return Chosen(
            x_BCD=x_BSD.flatten(0, 1)[token_N].view(*index_BC.shape, x_BSD.shape[2]),
            tokens=tokens.select(index_BC, token_N, live_BC, cache),
            token_N=token_N,
            weight_N=score_TE[token_N, 0],
            live_N=live_N,
            routing=routing,
        )


class DepthRouter(WideModule):
    """r = w x, and the logit of the chance to be chosen: a perceptron's behind a stopped gradient, or r itself."""

    def __init__(self, dim: int, predictor_hidden: int | None) -> None:
        super().__init__()
        self.weight_ED = nn.Parameter(torch.empty(1, dim, dtype=wide_dtype()))
        self.predictor = None if predictor_hidden is None else Predictor(dim, predictor_hidden)
        nn.init.normal_(self.weight_ED, std=dim**-0.5)

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Score and predicted logit, (T, 1) each, float32 or wider."""
        x_TD = x_TD.to(wide_dtype(x_TD))  # once: both keep it for backward
        score_TE = linear_scores(x_TD, self.weight_ED)
        return score_TE, score_TE if self.predictor is None else self.predictor(x_TD.detach())


class Predictor(WideModule):
    """A perceptron with one output."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden_FD = nn.Parameter(torch.empty(hidden, dim, dtype=wide_dtype()))
        self.hidden_bias_F = nn.Parameter(torch.zeros(hidden, dtype=wide_dtype()))
        self.score_EF = nn.Parameter(torch.empty(1, hidden, dtype=wide_dtype()))
        self.score_bias_E = nn.Parameter(torch.zeros(1, dtype=wide_dtype()))
        init_fan_in(self)

    def forward(self, x_TD: Tensor) -> Tensor:
        """The logit, (T, 1)."""
        hidden_TF = F.silu(linear_scores(x_TD, self.hidden_FD) + self.hidden_bias_F)
        return linear_scores(hidden_TF, self.score_EF) + self.score_bias_E


def best(score_BS: Tensor, valid_BS: Tensor | None, places: int) -> tuple[Tensor, Tensor | None]:
    """The `places` tokens of each row with the largest score, by position.

    Returns:
        int64 (B, C), and bool (B, C), False for padding that filled places where tokens ran out; None: there is none.
    """
    if valid_BS is not None:
        score_BS = score_BS.masked_fill(~valid_BS, -torch.inf)
    index_BC = score_BS.topk(places, dim=1).indices.sort(dim=1).values
    return index_BC, None if valid_BS is None else valid_BS.gather(1, index_BC)


def positive(logit_BS: Tensor, valid_BS: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The tokens of each row with a logit above 0, by position; as many places as the fullest row needs.

    Their number is not known beforehand: the host waits for it. Returns as `best`.
    """
    chosen_BS = logit_BS > 0 if valid_BS is None else (logit_BS > 0) & valid_BS
    counts: list[int] = chosen_BS.sum(dim=1).tolist()
    places = max(counts, default=0)
    index_BC = (~chosen_BS).byte().argsort(dim=1, stable=True)[:, :places]
    return index_BC, None if min(counts, default=0) == places else chosen_BS.gather(1, index_BC)


def prediction_loss(logit_T: Tensor, token_N: Tensor, valid_T: Tensor | None) -> Tensor:
    """Cross-entropy of who is predicted with the chosen tokens, the mean over those that are no padding."""
    target_T = torch.zeros_like(logit_T).index_fill(0, token_N, 1)
    loss_T = F.binary_cross_entropy_with_logits(logit_T, target_T, reduction="none")
    if valid_T is None:
        return loss_T.mean()
    return torch.where(valid_T, loss_T, 0).sum() / valid_T.sum().clamp(min=1)


def _routing(score_TE: Tensor, predicted_TE: Tensor, info: TokenInfo, token_N: Tensor) -> Routing:
    return Routing(
        token_N=token_N,
        expert_N=torch.zeros_like(token_N),
        weight_N=score_TE[token_N, 0],
        logits_TE=score_TE,
        load_TE=predicted_TE.sigmoid(),
        info=info,
    )
