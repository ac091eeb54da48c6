"""What a run trains with, for the proof of it: its balance losses, and a step of its optimiser."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from sparsemix.balance import Loss
from sparsemix.data import Batch
from sparsemix.models import Decoder
from sparsemix.train import TrainConfig
from sparsemix.verify import Step


def losses_of(config: TrainConfig) -> tuple[Loss, ...]:
    """Those of the config, or of its router's paper."""
    return config.balance.build(config.model).losses


def step_of(config: TrainConfig) -> Step:
    """A step of this training, at its peak learning rate: the first ones of a warm-up are too short to be seen."""

    def step(decoder: Decoder, tokens_BS: Tensor) -> None:
        tokens = tokens_BS.cpu().numpy()
        ones = np.ones(tokens[:, 1:].shape, dtype=np.float32)
        batch = Batch(tokens[:, :-1], tokens[:, 1:], ones, None, None)
        config.build(decoder, multiplier=lambda number: 1.0).step([batch])

    return step
