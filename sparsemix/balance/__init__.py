"""Load balancing: losses of routings, each a pure function and a config, the selection-bias rules, and their sum."""

from sparsemix.balance.bias import bias_step, proportional_bias_step
from sparsemix.balance.costs import CostLoss, NullLoss, cost_loss, null_loss
from sparsemix.balance.devices import CommunicationLoss, DeviceLoss, communication_loss, device_loss
from sparsemix.balance.entropy import GlobalEntropyLoss, LocalEntropyLoss, global_entropy_loss, local_entropy_loss
from sparsemix.balance.logits import ZLoss, z_loss
from sparsemix.balance.sequence import SequenceLoss, sequence_loss
from sparsemix.balance.switch import SwitchForm, SwitchLoss, switch_loss
from sparsemix.balance.total import USUAL, Loss, LossConfig, balance_loss
from sparsemix.balance.variation import (
    ImportanceLoss,
    LoadLoss,
    cv_squared,
    expected_load,
    importance,
    importance_loss,
    load_loss,
)

__all__ = [
    "USUAL",
    "CommunicationLoss",
    "CostLoss",
    "DeviceLoss",
    "GlobalEntropyLoss",
    "ImportanceLoss",
    "LoadLoss",
    "LocalEntropyLoss",
    "Loss",
    "LossConfig",
    "NullLoss",
    "SequenceLoss",
    "SwitchForm",
    "SwitchLoss",
    "ZLoss",
    "balance_loss",
    "bias_step",
    "communication_loss",
    "cost_loss",
    "cv_squared",
    "device_loss",
    "expected_load",
    "global_entropy_loss",
    "importance",
    "importance_loss",
    "load_loss",
    "local_entropy_loss",
    "null_loss",
    "proportional_bias_step",
    "sequence_loss",
    "switch_loss",
    "z_loss",
]
