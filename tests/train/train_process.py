"""A training run as a process of its own, for tests that kill it: CONFIG OUT [--resume] [--limit BYTES]."""

import argparse
import resource
from pathlib import Path

import torch
from rich.console import Console

from sparsemix.config import read_json
from sparsemix.train import TrainConfig, train

parser = argparse.ArgumentParser()
parser.add_argument("config", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--resume", action="store_true")
parser.add_argument("--limit", type=int)
arguments = parser.parse_args()
torch.set_num_threads(1)
if arguments.limit:  # a file may not grow past it, as on a disk that is full
    resource.setrlimit(resource.RLIMIT_FSIZE, (arguments.limit, arguments.limit))
try:
    result = train(
        read_json(TrainConfig, arguments.config), arguments.out, resume=arguments.resume, console=Console(width=200)
    )
    print("stopped by", result.stopped_by)
except ValueError as error:
    print("refused:", error)
