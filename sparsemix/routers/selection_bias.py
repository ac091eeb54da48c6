"""Balance without a loss: a bias that takes part in the selection only, and follows the load."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sparsemix.balance import bias_step, proportional_bias_step
from sparsemix.config import config
from sparsemix.routers.base import WideModule, wide_dtype
from sparsemix.routing import Routing, load


@config
class SelectionBiasConfig:
    """A bias that raises the scores of idle experts and lowers those of overloaded ones."""

    rate: float = Field(0.001, ge=0)
    """Its step, once an optimiser step."""
    rule: Literal["sign", "proportional"] = "sign"
    """Steps of one size, or the larger the further an expert's load is off, relative to the mean."""
    form: Literal["additive", "multiplicative"] = "additive"
    """Added to the scores, or multiplied with them."""

    def build(self, num_experts: int) -> SelectionBias:
        """The bias of E experts."""
        return SelectionBias(self, num_experts)


class SelectionBias(WideModule):
    """b_E, a buffer without gradient: 0 at first where it is added, 1 where it is multiplied.

    Source: auxiliary-loss-free balancing (2408.15664), DeepSeek-V3 (2412.19437).
    """

    def __init__(self, config: SelectionBiasConfig, num_experts: int) -> None:
        super().__init__()
        self.config = config
        neutral = 0.0 if config.form == "additive" else 1.0
        self.register_buffer("bias_E", torch.full((num_experts,), neutral, dtype=wide_dtype()))
        self.bias_E: Tensor

    def forward(self, scores_TE: Tensor) -> Tensor:
        """What the best experts are chosen by."""
        return scores_TE + self.bias_E if self.config.form == "additive" else scores_TE * self.bias_E

    def statistic(self, routing: Routing) -> Tensor:
        """The load of each expert."""
        return load(routing, len(self.bias_E))

    @torch.no_grad()
    def update(self, total: Tensor) -> None:
        """One step against the load of the whole batch."""
        step = bias_step if self.config.rule == "sign" else proportional_bias_step
        self.bias_E.copy_(step(self.bias_E, total, self.config.rate))


class MaybeBiased:
    """For routers that may have a selection bias: what it follows, if there is one."""

    selection_bias: SelectionBias | None

    def statistic(self, routing: Routing) -> Tensor | None:
        """The load of each expert, where a selection bias follows it."""
        return None if self.selection_bias is None else self.selection_bias.statistic(routing)

    def update(self, total: Tensor) -> None:
        """Move the selection bias one step against the load of the whole batch."""
        assert self.selection_bias is not None
        self.selection_bias.update(total)
