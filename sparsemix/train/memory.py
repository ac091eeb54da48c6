"""Out of memory, said in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sparsemix.train.config import TrainConfig
from sparsemix.train.trainer import TrainingError


@contextmanager
def memory_explained(config: TrainConfig) -> Iterator[None]:
    """Turn an allocation that failed into a line that says what to lower.

    Raises:
        TrainingError: memory ran out inside.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        rows = -(-config.batch_size // config.accumulate)
        remedies = [f"raise accumulate above {config.accumulate}"] if rows > 1 else []
        remedies += [] if config.activation_checkpointing else ["set activation_checkpointing"]
        remedies += ["lower sequence_length or the model's size"]
        raise TrainingError(
            f"memory: must hold the model and {rows} sequences of {config.sequence_length} tokens at a time, "
            f"got {str(error).partition(chr(10))[0]}; {', '.join(remedies)}"
        ) from None


def _is_out_of_memory(error: BaseException) -> bool:
    # On a CPU torch raises a plain RuntimeError, which only its text tells from others.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)
