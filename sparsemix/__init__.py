"""sparsemix: sparse mixture-of-experts models, provably right by default."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # for editors and type checkers; at run time a name is loaded when it is first used
    from sparsemix.balance import (
        ImportanceLoss,
        LoadLoss,
        SequenceLoss,
        SwitchLoss,
        ZLoss,
        balance_loss,
        bias_step,
        importance_loss,
        load_loss,
        sequence_loss,
        switch_loss,
        z_loss,
    )
    from sparsemix.experts import (
        GLUExperts,
        GLUExpertsConfig,
        MLPExperts,
        MLPExpertsConfig,
        ModuleExperts,
        ModuleExpertsConfig,
    )
    from sparsemix.layer import MoE, MoEConfig, moe_forward
    from sparsemix.models import Decoder, DecoderConfig
    from sparsemix.routers import (
        CapacityConfig,
        NoisyTopKRouterConfig,
        SelectionBiasConfig,
        SwitchRouterConfig,
        TopKRouter,
        TopKRouterConfig,
    )
    from sparsemix.routing import Dispatch, Routing, TokenInfo, load, sort_by_expert
    from sparsemix.soft import SoftMoE, SoftMoEConfig, SoftRouting

__all__ = [
    "CapacityConfig",
    "Decoder",
    "DecoderConfig",
    "Dispatch",
    "GLUExperts",
    "GLUExpertsConfig",
    "ImportanceLoss",
    "LoadLoss",
    "MLPExperts",
    "MLPExpertsConfig",
    "MoE",
    "MoEConfig",
    "ModuleExperts",
    "ModuleExpertsConfig",
    "NoisyTopKRouterConfig",
    "Routing",
    "SelectionBiasConfig",
    "SequenceLoss",
    "SoftMoE",
    "SoftMoEConfig",
    "SoftRouting",
    "SwitchLoss",
    "SwitchRouterConfig",
    "TokenInfo",
    "TopKRouter",
    "TopKRouterConfig",
    "ZLoss",
    "__version__",
    "balance_loss",
    "bias_step",
    "importance_loss",
    "load",
    "load_loss",
    "moe_forward",
    "sequence_loss",
    "sort_by_expert",
    "switch_loss",
    "z_loss",
]

_HOMES = {
    "balance": (
        "ImportanceLoss",
        "LoadLoss",
        "SequenceLoss",
        "SwitchLoss",
        "ZLoss",
        "balance_loss",
        "bias_step",
        "importance_loss",
        "load_loss",
        "sequence_loss",
        "switch_loss",
        "z_loss",
    ),
    "experts": (
        "GLUExperts",
        "GLUExpertsConfig",
        "MLPExperts",
        "MLPExpertsConfig",
        "ModuleExperts",
        "ModuleExpertsConfig",
    ),
    "layer": ("MoE", "MoEConfig", "moe_forward"),
    "models": ("Decoder", "DecoderConfig"),
    "routers": (
        "CapacityConfig",
        "NoisyTopKRouterConfig",
        "SelectionBiasConfig",
        "SwitchRouterConfig",
        "TopKRouter",
        "TopKRouterConfig",
    ),
    "routing": ("Dispatch", "Routing", "TokenInfo", "load", "sort_by_expert"),
    "soft": ("SoftMoE", "SoftMoEConfig", "SoftRouting"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'sparsemix' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"sparsemix.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
