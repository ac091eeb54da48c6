"""What the system says a process holds: run by memory.py in a fresh process, prints JSON. Linux only."""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path

import torch
from ours import LayerShape, our_layer, our_moe, tokens
from saved_tensors import address, saved_bytes, saved_storages
from torch import Tensor

from sparsemix.train.optim import AdamWConfig

PROCESS = Path("/proc/self")


def live(shape: LayerShape) -> dict[str, int]:
    """Growth from before forward to between forward and backward, and the bytes of the tensors alive there."""
    moe, (x_TD, dy_TD) = our_moe(shape), tokens(shape)
    for _ in range(2):  # what libraries allocate once is not ours
        our_layer(moe).train_step(x_TD, dy_TD)
    moe.zero_grad()
    x_TD.grad = None
    before = resident()
    (y_TD, routing), saved = saved_storages(lambda: moe(x_TD), without=[x_TD, *moe.parameters()])
    grown = resident() - before
    outputs = [y_TD, *(value for value in routing if isinstance(value, Tensor))]
    alive = {address(tensor): tensor for tensor in (*saved, *outputs)}
    return {"grown": grown, "accounted": saved_bytes(alive.values())}


class Training:
    """A layer, its tokens and AdamW."""

    def __init__(self, shape: LayerShape) -> None:
        self.moe, (self.x_TD, self.dy_TD) = our_moe(shape), tokens(shape)
        self.optimizer = AdamWConfig().build(self.moe)

    def step(self) -> None:
        our_layer(self.moe).train_step(self.x_TD, self.dy_TD)
        self.optimizer.step(1.0)

    def forget_gradients(self) -> None:
        self.optimizer.zero_grad()
        self.x_TD.grad = None

    def held(self) -> dict[str, int]:
        """Bytes by kind, after a step."""
        parameters = list(self.moe.parameters())
        return {
            "parameters": saved_bytes(parameters),
            "gradients": saved_bytes(p.grad for p in parameters if p.grad is not None),
            "optimizer": saved_bytes(self.optimizer.state().values()),
            "tokens": saved_bytes((self.x_TD, self.dy_TD)),
        }


def step(shape: LayerShape) -> dict[str, int]:
    """Peak of a training step over what is held before it, when there are no gradients yet; and what is held then."""
    Training(shape._replace(tokens=16, dim=16, hidden=16)).step()  # libraries load what they need
    at_first = resident()
    training = Training(shape)
    for _ in range(2):  # the first makes the optimiser's state
        training.step()
    training.forget_gradients()
    before = resident()
    reset_high_water()
    training.step()
    return {"held_before": before - at_first, "peak": high_water() - before, **training.held()}


def resident() -> int:
    """Bytes of memory that this process holds."""
    gc.collect()
    pages = (PROCESS / "statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def reset_high_water() -> None:
    """Let the peak begin anew from what is held now."""
    (PROCESS / "clear_refs").write_text("5", encoding="ascii")


def high_water() -> int:
    """The most that it held since that was last reset."""
    status = (PROCESS / "status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    what, shapes, threads = sys.argv[1:]
    torch.manual_seed(0)
    torch.set_num_threads(int(threads))
    probe = {"live": live, "step": step}[what]
    print(json.dumps([probe(LayerShape(*shape)) for shape in json.loads(shapes)]))
