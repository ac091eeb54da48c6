"""Routers: x_TD -> Routing. One class a file; score.py and select.py hold the pure functions they share."""

from typing import Annotated

from pydantic import Field

from sparsemix.routers.base import Router
from sparsemix.routers.base_layer import BaseRouter, BaseRouterConfig
from sparsemix.routers.batchwise import BatchwiseRouter, BatchwiseRouterConfig
from sparsemix.routers.capacity import CapacityConfig
from sparsemix.routers.expert_choice import ExpertChoiceRouter, ExpertChoiceRouterConfig, TokenSoftmaxConfig
from sparsemix.routers.hashing import HashRouter, HashRouterConfig
from sparsemix.routers.noisy import NoisyTopKRouter, NoisyTopKRouterConfig
from sparsemix.routers.selection_bias import SelectionBiasConfig
from sparsemix.routers.sinkhorn import SinkhornRouter, SinkhornRouterConfig
from sparsemix.routers.switch import SwitchRouter, SwitchRouterConfig
from sparsemix.routers.token_rounding import TokenRoundingRouter, TokenRoundingRouterConfig
from sparsemix.routers.topk import TopKRouter, TopKRouterConfig

RouterConfig = Annotated[
    TopKRouterConfig
    | NoisyTopKRouterConfig
    | SwitchRouterConfig
    | BaseRouterConfig
    | BatchwiseRouterConfig
    | ExpertChoiceRouterConfig
    | HashRouterConfig
    | SinkhornRouterConfig
    | TokenRoundingRouterConfig,
    Field(discriminator="type"),
]

__all__ = [
    "BaseRouter",
    "BaseRouterConfig",
    "BatchwiseRouter",
    "BatchwiseRouterConfig",
    "CapacityConfig",
    "ExpertChoiceRouter",
    "ExpertChoiceRouterConfig",
    "HashRouter",
    "HashRouterConfig",
    "NoisyTopKRouter",
    "NoisyTopKRouterConfig",
    "Router",
    "RouterConfig",
    "SelectionBiasConfig",
    "SinkhornRouter",
    "SinkhornRouterConfig",
    "SwitchRouter",
    "SwitchRouterConfig",
    "TokenRoundingRouter",
    "TokenRoundingRouterConfig",
    "TokenSoftmaxConfig",
    "TopKRouter",
    "TopKRouterConfig",
]
