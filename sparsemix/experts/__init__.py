"""Experts: (x_TD, Dispatch) -> each token's weighted sum. Whatever changes where or how experts run is one of these."""

from typing import Annotated

from pydantic import Field

from sparsemix.experts.base import Experts, OneTokenExperts
from sparsemix.experts.glu import GLU, GLUExperts, GLUExpertsConfig
from sparsemix.experts.mlp import MLP, MLPExperts, MLPExpertsConfig
from sparsemix.experts.modules import ModuleExperts, ModuleExpertsConfig

ExpertsConfig = Annotated[GLUExpertsConfig | MLPExpertsConfig | ModuleExpertsConfig, Field(discriminator="type")]
DenseConfig = Annotated[GLUExpertsConfig | MLPExpertsConfig, Field(discriminator="type")]

__all__ = [
    "GLU",
    "MLP",
    "DenseConfig",
    "Experts",
    "ExpertsConfig",
    "GLUExperts",
    "GLUExpertsConfig",
    "MLPExperts",
    "MLPExpertsConfig",
    "ModuleExperts",
    "ModuleExpertsConfig",
    "OneTokenExperts",
]
