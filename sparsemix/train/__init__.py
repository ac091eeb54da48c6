"""Training: configs, one optimiser step, evaluation, and the loop around them."""

from sparsemix.train.balancing import BalanceConfig
from sparsemix.train.config import DataConfig, TrainConfig
from sparsemix.train.evaluate import Evaluation, Score, evaluate
from sparsemix.train.loop import TrainResult, train
from sparsemix.train.muon import Muon
from sparsemix.train.optim import AdamWConfig, ModelOptimizer, MuonConfig, OptimizerConfig
from sparsemix.train.origin import config_of
from sparsemix.train.precision import Precision, choose_precision
from sparsemix.train.saving import Trained, load_run, load_trained, save_checkpoint
from sparsemix.train.schedule import ScheduleConfig
from sparsemix.train.step import Observer
from sparsemix.train.trainer import StepReport, Trainer, TrainerState, TrainingError, load_weights

__all__ = [
    "AdamWConfig",
    "BalanceConfig",
    "DataConfig",
    "Evaluation",
    "ModelOptimizer",
    "Muon",
    "MuonConfig",
    "Observer",
    "OptimizerConfig",
    "Precision",
    "ScheduleConfig",
    "Score",
    "StepReport",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "TrainerState",
    "Trained",
    "TrainingError",
    "choose_precision",
    "config_of",
    "evaluate",
    "load_run",
    "load_trained",
    "load_weights",
    "save_checkpoint",
    "train",
]
