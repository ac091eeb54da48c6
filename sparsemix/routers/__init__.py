"""Routers: x_TD -> Routing. One class a file; score.py and select.py hold the pure functions they share."""

from typing import Annotated

from pydantic import Field

from sparsemix.routers.base import Router
from sparsemix.routers.base_layer import BASERouter, BASERouterConfig
from sparsemix.routers.batchwise import BatchwiseRouter, BatchwiseRouterConfig
from sparsemix.routers.capacity import CapacityConfig
from sparsemix.routers.cosine import CosineRouter, CosineRouterConfig
from sparsemix.routers.dense import DenseRouter, DenseRouterConfig
from sparsemix.routers.expert_choice import ExpertChoiceRouter, ExpertChoiceRouterConfig, TokenSoftmaxConfig
from sparsemix.routers.group_limited import GroupLimitedRouter, GroupLimitedRouterConfig
from sparsemix.routers.gshard import GShardRouter, GShardRouterConfig
from sparsemix.routers.hashing import HashRouter, HashRouterConfig
from sparsemix.routers.hierarchical import HierarchicalRouter, HierarchicalRouterConfig
from sparsemix.routers.limoe import LIMoERouterConfig
from sparsemix.routers.moepp import MoEPPRouter, MoEPPRouterConfig
from sparsemix.routers.no_token_left_behind import NoTokenLeftBehindRouter, NoTokenLeftBehindRouterConfig
from sparsemix.routers.noisy import NoisyTopKRouter, NoisyTopKRouterConfig
from sparsemix.routers.null import NullRouter, NullRouterConfig
from sparsemix.routers.pooled import PooledRouter
from sparsemix.routers.relu import ReLURouter, ReLURouterConfig
from sparsemix.routers.selection_bias import SelectionBiasConfig
from sparsemix.routers.sinkhorn import SinkhornRouter, SinkhornRouterConfig
from sparsemix.routers.switch import SwitchRouter, SwitchRouterConfig
from sparsemix.routers.token_rounding import TokenRoundingRouter, TokenRoundingRouterConfig
from sparsemix.routers.top_p import TopPRouter, TopPRouterConfig
from sparsemix.routers.topk import TopKRouter, TopKRouterConfig
from sparsemix.routers.vmoe import VMoERouter, VMoERouterConfig

RouterConfig = Annotated[
    TopKRouterConfig
    | BASERouterConfig
    | BatchwiseRouterConfig
    | CosineRouterConfig
    | DenseRouterConfig
    | ExpertChoiceRouterConfig
    | GShardRouterConfig
    | GroupLimitedRouterConfig
    | HashRouterConfig
    | HierarchicalRouterConfig
    | LIMoERouterConfig
    | MoEPPRouterConfig
    | NoTokenLeftBehindRouterConfig
    | NoisyTopKRouterConfig
    | NullRouterConfig
    | ReLURouterConfig
    | SinkhornRouterConfig
    | SwitchRouterConfig
    | TokenRoundingRouterConfig
    | TopPRouterConfig
    | VMoERouterConfig,
    Field(discriminator="type"),
]

__all__ = [
    "BASERouter",
    "BASERouterConfig",
    "BatchwiseRouter",
    "BatchwiseRouterConfig",
    "CapacityConfig",
    "CosineRouter",
    "CosineRouterConfig",
    "DenseRouter",
    "DenseRouterConfig",
    "ExpertChoiceRouter",
    "ExpertChoiceRouterConfig",
    "GShardRouter",
    "GShardRouterConfig",
    "GroupLimitedRouter",
    "GroupLimitedRouterConfig",
    "HashRouter",
    "HashRouterConfig",
    "HierarchicalRouter",
    "HierarchicalRouterConfig",
    "LIMoERouterConfig",
    "MoEPPRouter",
    "MoEPPRouterConfig",
    "NoTokenLeftBehindRouter",
    "NoTokenLeftBehindRouterConfig",
    "NoisyTopKRouter",
    "NoisyTopKRouterConfig",
    "NullRouter",
    "NullRouterConfig",
    "PooledRouter",
    "ReLURouter",
    "ReLURouterConfig",
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
    "TopPRouter",
    "TopPRouterConfig",
    "VMoERouter",
    "VMoERouterConfig",
]
