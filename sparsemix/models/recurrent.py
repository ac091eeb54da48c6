"""Recurrent networks with a mixture of experts in the place of their weight matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from sparsemix.checks import check, check_dim
from sparsemix.config import config
from sparsemix.layer import MoEConfig
from sparsemix.routing import Routing, TokenInfo, concat

State = TypeVar("State")


@config
class MoERNNConfig:
    """h_s = tanh(MoE([x_s, h_{s-1}])): a simple recurrent network. Source: the proposal in 1701.06538, section 3.1."""

    hidden: int = Field(ge=1)
    """H, the width of h."""
    moe: MoEConfig
    """From width D + H to H."""

    def build(self, dim: int) -> MoERNN:
        """The network over x of width `dim`."""
        return MoERNN(self, dim)


@config
class MoELSTMConfig:
    """An LSTM, [i, f, g, o] = MoE([x_s, h_{s-1}]). Source: the proposal in 1701.06538, section 3.1.

    c_s = sigmoid(f) c_{s-1} + sigmoid(i) tanh(g) and h_s = sigmoid(o) tanh(c_s). A bias of the gates is one of the
    experts', if they have one.
    """

    hidden: int = Field(ge=1)
    """H, the width of h and of c."""
    moe: MoEConfig
    """From width D + H to 4 H."""

    def build(self, dim: int) -> MoELSTM:
        """The network over x of width `dim`."""
        return MoELSTM(self, dim)


class MoERNN(nn.Module):
    """A simple recurrent network whose state is h, (B, H)."""

    def __init__(self, config: MoERNNConfig, dim: int) -> None:
        super().__init__()
        self.config, self.dim = config, dim
        self.moe = config.moe.build(dim + config.hidden, config.hidden)

    def forward(
        self, x_BSD: Tensor, state: Tensor | None = None, valid_BS: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Routing]:
        """Run over sequences.

        Args:
            x_BSD: sequences, at least one step long.
            state: h, (B, H), to go on from; None: 0.
            valid_BS: bool, False for padding: it reaches no expert, and the state stays as it was.

        Returns:
            h of each step, (B, S, H); the last; and the routing of all steps. Its tokens lie step after step: the
            token of sequence b in step s has number s B + b.
        """
        check_dim("x_BSD", x_BSD, -1, self.dim)
        return _unroll(self._step, x_BSD, _zeros(x_BSD, self.config.hidden) if state is None else state, valid_BS)

    def _step(self, x_BD: Tensor, h_BH: Tensor, info: TokenInfo | None) -> tuple[Tensor, Tensor, Routing]:
        y_BH, routing = self.moe(torch.cat([x_BD, h_BH], dim=1), info=info)
        h_BH = _where_valid(info, torch.tanh(y_BH), h_BH)
        return h_BH, h_BH, routing


class MoELSTM(nn.Module):
    """An LSTM whose state is h and c, each (B, H)."""

    def __init__(self, config: MoELSTMConfig, dim: int) -> None:
        super().__init__()
        self.config, self.dim = config, dim
        self.moe = config.moe.build(dim + config.hidden, 4 * config.hidden)

    def forward(
        self, x_BSD: Tensor, state: tuple[Tensor, Tensor] | None = None, valid_BS: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Routing]:
        """Run over sequences.

        Args:
            x_BSD: sequences, at least one step long.
            state: h and c to go on from; None: 0.
            valid_BS: bool, False for padding: it reaches no expert, and the state stays as it was.

        Returns:
            h of each step, (B, S, H); the last h and c; and the routing of all steps. Its tokens lie step after step:
            the token of sequence b in step s has number s B + b.
        """
        check_dim("x_BSD", x_BSD, -1, self.dim)
        if state is None:
            state = _zeros(x_BSD, self.config.hidden), _zeros(x_BSD, self.config.hidden)
        return _unroll(self._step, x_BSD, state, valid_BS)

    def _step(
        self, x_BD: Tensor, state: tuple[Tensor, Tensor], info: TokenInfo | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Routing]:
        h_BH, c_BH = state
        gates, routing = self.moe(torch.cat([x_BD, h_BH], dim=1), info=info)
        i_BH, f_BH, g_BH, o_BH = gates.chunk(4, dim=1)
        c_BH = _where_valid(info, torch.sigmoid(f_BH) * c_BH + torch.sigmoid(i_BH) * torch.tanh(g_BH), c_BH)
        h_BH = _where_valid(info, torch.sigmoid(o_BH) * torch.tanh(c_BH), h_BH)
        return h_BH, (h_BH, c_BH), routing


def _unroll(
    step: Callable[[Tensor, State, TokenInfo | None], tuple[Tensor, State, Routing]],
    x_BSD: Tensor,
    state: State,
    valid_BS: Tensor | None,
) -> tuple[Tensor, State, Routing]:
    """Step by step, since each needs the state before it; the routings of all steps become one."""
    batch_size, length, _ = x_BSD.shape
    check(length > 0, "x_BSD", "must have a step or more", f"shape {tuple(x_BSD.shape)}")
    outputs, routings = [], []
    infos = [None] * length if valid_BS is None else [TokenInfo(valid_T=valid_B) for valid_B in valid_BS.unbind(1)]
    for x_BD, info in zip(x_BSD.unbind(1), infos, strict=True):
        y_BH, state, routing = step(x_BD, state, info)
        outputs.append(y_BH)
        routings.append(routing)
    return torch.stack(outputs, dim=1), state, concat(routings, [batch_size] * length)


def _where_valid(info: TokenInfo | None, new_BH: Tensor, old_BH: Tensor) -> Tensor:
    return new_BH if info is None or info.valid_T is None else torch.where(info.valid_T[:, None], new_BH, old_BH)


def _zeros(x_BSD: Tensor, hidden: int) -> Tensor:
    return x_BSD.new_zeros(len(x_BSD), hidden)
