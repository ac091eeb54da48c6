"""Routers: x_TD -> Routing. One class a file; score.py and select.py hold the pure functions they share."""

from typing import Annotated

from pydantic import Field

from sparsemix.routers.base import Router
from sparsemix.routers.capacity import CapacityConfig
from sparsemix.routers.dense import DenseRouter, DenseRouterConfig
from sparsemix.routers.moepp import MoEPPRouter, MoEPPRouterConfig
from sparsemix.routers.noisy import NoisyTopKRouter, NoisyTopKRouterConfig
from sparsemix.routers.null import NullRouter, NullRouterConfig
from sparsemix.routers.relu import ReLURouter, ReLURouterConfig
from sparsemix.routers.selection_bias import SelectionBiasConfig
from sparsemix.routers.switch import SwitchRouter, SwitchRouterConfig
from sparsemix.routers.top_p import TopPRouter, TopPRouterConfig
from sparsemix.routers.topk import TopKRouter, TopKRouterConfig

RouterConfig = Annotated[
    TopKRouterConfig
    | NoisyTopKRouterConfig
    | SwitchRouterConfig
    | TopPRouterConfig
    | ReLURouterConfig
    | NullRouterConfig
    | MoEPPRouterConfig
    | DenseRouterConfig,
    Field(discriminator="type"),
]

__all__ = [
    "CapacityConfig",
    "DenseRouter",
    "DenseRouterConfig",
    "MoEPPRouter",
    "MoEPPRouterConfig",
    "NoisyTopKRouter",
    "NoisyTopKRouterConfig",
    "NullRouter",
    "NullRouterConfig",
    "ReLURouter",
    "ReLURouterConfig",
    "Router",
    "RouterConfig",
    "SelectionBiasConfig",
    "SwitchRouter",
    "SwitchRouterConfig",
    "TopKRouter",
    "TopKRouterConfig",
    "TopPRouter",
    "TopPRouterConfig",
]
