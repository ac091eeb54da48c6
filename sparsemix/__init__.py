"""sparsemix: sparse mixture-of-experts models, provably right by default."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name -> the module that defines it. Loaded when first used, so that `import sparsemix` costs nothing.
_HOME = {
    "Dispatch": "routing",
    "Routing": "routing",
    "TokenInfo": "routing",
    "load": "routing",
    "sort_by_expert": "routing",
    "balance_loss": "balance",
    "bias_step": "balance",
    "importance_loss": "balance",
    "load_loss": "balance",
    "switch_loss": "balance",
    "z_loss": "balance",
    "TopKRouter": "routers",
    "TopKRouterConfig": "routers",
    "GLUExperts": "experts",
    "GLUExpertsConfig": "experts",
    "MLPExperts": "experts",
    "MLPExpertsConfig": "experts",
    "ModuleExperts": "experts",
    "ModuleExpertsConfig": "experts",
    "MoE": "layer",
    "MoEConfig": "layer",
    "moe_forward": "layer",
    "Decoder": "models",
    "DecoderConfig": "models",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sparsemix' has no attribute {name!r}")
    return getattr(importlib.import_module(f"sparsemix.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
