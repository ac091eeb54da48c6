"""Experts: (x_TD, Dispatch) -> each token's weighted sum. Whatever changes where or how experts run is one of these."""

from typing import Annotated

from pydantic import Field

from sparsemix.experts.base import Experts, OneTokenExperts
from sparsemix.experts.concat import ConcatExperts, ConcatExpertsConfig, Part, PartConfig, part_of
from sparsemix.experts.glu import GLU, ClampedGLUExpertsConfig, GLUExperts, GLUExpertsConfig
from sparsemix.experts.lstm import LSTMExpertsConfig
from sparsemix.experts.mlp import MLP, MLPExperts, MLPExpertsConfig
from sparsemix.experts.modules import ModuleExperts, ModuleExpertsConfig
from sparsemix.experts.simple import (
    ConstantExperts,
    ConstantExpertsConfig,
    CopyExperts,
    CopyExpertsConfig,
    ZeroExperts,
    ZeroExpertsConfig,
)
from sparsemix.experts.tied import StackedConfig, TiedExperts, TiedExpertsConfig

ExpertsConfig = Annotated[
    PartConfig | ConcatExpertsConfig | LSTMExpertsConfig | TiedExpertsConfig, Field(discriminator="type")
]
DenseConfig = StackedConfig
"""What can be stacked as experts can also be one dense FFN."""

__all__ = [
    "GLU",
    "MLP",
    "ClampedGLUExpertsConfig",
    "ConcatExperts",
    "ConcatExpertsConfig",
    "ConstantExperts",
    "ConstantExpertsConfig",
    "CopyExperts",
    "CopyExpertsConfig",
    "DenseConfig",
    "Experts",
    "ExpertsConfig",
    "GLUExperts",
    "GLUExpertsConfig",
    "LSTMExpertsConfig",
    "MLPExperts",
    "MLPExpertsConfig",
    "ModuleExperts",
    "ModuleExpertsConfig",
    "OneTokenExperts",
    "Part",
    "PartConfig",
    "TiedExperts",
    "TiedExpertsConfig",
    "ZeroExperts",
    "ZeroExpertsConfig",
    "part_of",
]
