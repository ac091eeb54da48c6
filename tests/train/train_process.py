"""A training run as a process of its own, for tests that kill it."""

import os
import resource
from pathlib import Path

import torch
from rich.console import Console

from sparsemix.config import read_json
from sparsemix.train import TrainConfig, train


def run(config: Path, out: Path, log: Path, resume: bool = False, limit: int | None = None) -> None:
    """Train, and write to `log` what a person would see; no file may grow past `limit`, as on a disk that is full."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(handle, stream)
    torch.set_num_threads(1)
    try:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        train(read_json(TrainConfig, config), out, resume=resume, console=Console(width=200))
    except ValueError as error:
        os.write(1, f"refused: {error}\n".encode())
