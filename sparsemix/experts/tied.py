"""Experts that share modules: several columns of a router lead to one, as after merging."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.experts.glu import ClampedGLUExpertsConfig, GLUExperts, GLUExpertsConfig
from sparsemix.experts.mlp import MLPExperts, MLPExpertsConfig
from sparsemix.kernels import expert_of_row
from sparsemix.routing import Dispatch, Routing

StackedConfig = Annotated[
    GLUExpertsConfig | ClampedGLUExpertsConfig | MLPExpertsConfig,
    Field(discriminator="type"),
]


@config
class TiedExpertsConfig:
    """f_e = g_{owner(e)}: fewer modules g than the router has columns. owner is a buffer of each layer, not a setting.

    Source: experts merged as by M-SMoE (2310.01334) keep their columns of the router and share what they compute.
    """

    type: Literal["tied"] = "tied"
    num_distinct: int = Field(ge=1)
    """Modules there are."""
    experts: StackedConfig
    """What each of them computes."""

    def build(self, dim: int, num_experts: int, out_dim: int | None = None) -> TiedExperts:
        """E experts over x of width `dim`; y has that width too, or `out_dim`.

        Raises:
            ValueError: more modules than experts.
        """
        rule, remedy = f"must be at most num_experts={num_experts}", "lower it"
        check(self.num_distinct <= num_experts, "num_distinct", rule, self.num_distinct, remedy)
        return TiedExperts(self.experts.build(dim, self.num_distinct, out_dim), num_experts)


class TiedExperts(nn.Module):
    """Expert e is number `owner_E[e]` of `experts`; at first, columns are dealt out to these in turn."""

    def __init__(self, experts: GLUExperts | MLPExperts, num_experts: int) -> None:
        super().__init__()
        self.experts, self.num_experts = experts, num_experts
        self.register_buffer("owner_E", torch.arange(num_experts) % experts.num_experts)
        self.owner_E: Tensor

    @property
    def num_distinct(self) -> int:
        """Modules there are."""
        return self.experts.num_experts

    def forward(self, x_TD: Tensor, dispatch: Dispatch) -> tuple[Tensor, tuple[Routing, ...]]:
        """Weighted sums (T, D), and no inner routings."""
        return self.experts(x_TD, by_owner(dispatch, self.owner_E, self.num_distinct))

    def one_token(self, x_1D: Tensor, routing: Routing) -> Tensor | None:
        """The weighted sum of one token, straight from its routing, where nobody wants a gradient; else None."""
        return self.experts.one_token(x_1D, routing._replace(expert_N=self.owner_E[routing.expert_N]))


def by_owner(dispatch: Dispatch, owner_E: Tensor, num_owners: int) -> Dispatch:
    """The dispatch sorted by what owns each row's expert; stably, and dead rows stay last."""
    owner_N = owner_E[expert_of_row(dispatch)]
    if not dispatch.all_live:
        row_N = torch.arange(len(owner_N), device=owner_N.device)
        owner_N = torch.where(row_N < dispatch.bounds[-1], owner_N, num_owners)
    owner_N, row_N = torch.sort(owner_N, stable=True)
    slot_TK = dispatch.slot_TK
    if slot_TK is not None:
        places = torch.arange(len(row_N), device=row_N.device)
        slot_TK = torch.empty_like(row_N).scatter_(0, row_N, places)[slot_TK]
    return dispatch._replace(
        token_N=dispatch.token_N[row_N],
        edge_N=dispatch.edge_N[row_N],
        weight_N=dispatch.weight_N[row_N],
        bounds=torch.searchsorted(owner_N, torch.arange(num_owners + 1, device=owner_N.device), out_int32=True),
        slot_TK=slot_TK,
    )
