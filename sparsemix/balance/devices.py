"""Balance between devices that hold a group of experts each, and of what is sent to them."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sparsemix.balance.batch import count, field, mean_of, mean_over_tokens, num_tokens, share, with_count
from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.routing import Routing, valid_edges


def device_loss(routing: Routing, num_devices: int, load_E: Tensor | None = None) -> Tensor:
    """sum_d f'_d P'_d: f' the mean over a device's experts of E f_i, P' the sum of their mean probabilities.

    1 for a uniform load; with as many devices as experts it is the switch loss. Arguments and gradient as there.

    Args:
        routing: of one layer.
        num_devices: D, which must divide E; device d has experts d E / D to (d + 1) E / D.
        load_E: choices of each expert over a larger batch.

    Source: DeepSeekMoE (2401.06066) equations 16 to 18; DeepSeek-V2 (2405.04434) equations 26 to 28.
    """
    probs_TE = field(routing, "probs_TE", "device_loss")
    num_experts = probs_TE.shape[1]
    _check_devices(num_devices, num_experts)
    share_E = share(count(routing, "device_loss") if load_E is None else load_E, probs_TE.dtype)
    share_D = num_experts * share_E.view(num_devices, -1).mean(-1)
    return (share_D * _probability(routing, num_devices)).sum()


def communication_loss(
    routing: Routing, num_devices: int, devices_per_token: int, sent_D: Tensor | None = None
) -> Tensor:
    """sum_d f''_d P''_d: f'' = D / M times the share of tokens sent to device d, P'' its experts' probabilities.

    1 where every token goes to M devices, all equally often.

    Args:
        routing: of one layer.
        num_devices: D.
        devices_per_token: M, the most devices that a token may go to.
        sent_D: the mean of `sent` over a larger batch.

    Source: DeepSeek-V2 (2405.04434) equations 29 to 31.
    """
    _check_devices(num_devices, field(routing, "probs_TE", "communication_loss").shape[1])
    sent_D = sent(routing, num_devices) / num_tokens(routing) if sent_D is None else sent_D
    return (num_devices / devices_per_token * sent_D * _probability(routing, num_devices)).sum()


def sent(routing: Routing, num_devices: int) -> Tensor:
    """How many valid tokens have an expert on each device, (D,)."""
    probs_TE = field(routing, "probs_TE", "communication_loss")
    num_tokens, num_experts = probs_TE.shape
    device_N = routing.expert_N // (num_experts // num_devices)
    valid_N = valid_edges(routing)
    here_N = torch.ones_like(device_N) if valid_N is None else valid_N.long()
    edges = here_N.new_zeros(num_tokens * num_devices)
    edges.index_add_(0, routing.token_N * num_devices + device_N, here_N)
    return (edges.view(num_tokens, num_devices) > 0).sum(0).to(probs_TE.dtype)


def _probability(routing: Routing, num_devices: int) -> Tensor:
    assert routing.probs_TE is not None
    return mean_over_tokens(routing, routing.probs_TE).view(num_devices, -1).sum(-1)


def _check_devices(num_devices: int, num_experts: int) -> None:
    rule, remedy = f"must divide the {num_experts} experts", "choose a divisor"
    check(num_experts % num_devices == 0, "num_devices", rule, num_devices, remedy)


@config
class DeviceLoss:
    """Balance between devices."""

    type: Literal["device"] = "device"
    num_devices: int = Field(ge=1)
    """D, which must divide the number of experts."""
    weight: float = Field(0.05, ge=0)
    """Coefficient; DeepSeek-V2: 0.05."""

    def statistic(self, routing: Routing) -> Tensor:
        """Choices of each expert."""
        return count(routing, "device_loss")

    def __call__(self, routing: Routing, total: Tensor | None = None) -> Tensor:
        """`device_loss`."""
        return device_loss(routing, self.num_devices, total)


@config
class CommunicationLoss:
    """Balance of what devices receive."""

    type: Literal["communication"] = "communication"
    num_devices: int = Field(ge=1)
    """D, which must divide the number of experts."""
    devices_per_token: int = Field(ge=1)
    """M, the most devices that a token may go to."""
    weight: float = Field(0.02, ge=0)
    """Coefficient; DeepSeek-V2: 0.02."""

    def statistic(self, routing: Routing) -> Tensor:
        """Tokens sent to each device, and how many tokens there were."""
        return with_count(sent(routing, self.num_devices), routing)

    def __call__(self, routing: Routing, total: Tensor | None = None) -> Tensor:
        """`communication_loss`."""
        return communication_loss(routing, self.num_devices, self.devices_per_token, mean_of(total))
