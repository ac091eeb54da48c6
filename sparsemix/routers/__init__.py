"""Routers: x_TD -> Routing. One class a file; score.py and select.py hold the pure functions they share."""

from typing import Annotated

from pydantic import Field

from sparsemix.routers.base import Router
from sparsemix.routers.capacity import CapacityConfig
from sparsemix.routers.noisy import NoisyTopKRouter, NoisyTopKRouterConfig
from sparsemix.routers.selection_bias import SelectionBiasConfig
from sparsemix.routers.switch import SwitchRouter, SwitchRouterConfig
from sparsemix.routers.topk import TopKRouter, TopKRouterConfig

RouterConfig = Annotated[
    TopKRouterConfig | NoisyTopKRouterConfig | SwitchRouterConfig,
    Field(discriminator="type"),
]

__all__ = [
    "CapacityConfig",
    "NoisyTopKRouter",
    "NoisyTopKRouterConfig",
    "Router",
    "RouterConfig",
    "SelectionBiasConfig",
    "SwitchRouter",
    "SwitchRouterConfig",
    "TopKRouter",
    "TopKRouterConfig",
]
