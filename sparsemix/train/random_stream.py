"""The random numbers of one trainer's forward passes: a stream of its own, whoever else draws from torch's default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor


class RandomStream:
    """Torch's default generators as they are for one trainer, put in place only while it is at work."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device
        with fork(device):
            torch.manual_seed(seed)
            self._state = self._read()

    @contextmanager
    def active(self) -> Iterator[None]:
        """The default generators go on from where this stream was; afterwards they are what they were before."""
        with fork(self._device):
            self._write(self._state)
            yield
            self._state = self._read()

    def state(self) -> dict[str, Tensor]:
        """As named tensors."""
        return dict(self._state)

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self._state = {name: tensors[name].clone() for name in self._state}

    def _read(self) -> dict[str, Tensor]:
        state = {"cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self._device)
        return state

    def _write(self, state: Mapping[str, Tensor]) -> None:
        torch.set_rng_state(state["cpu"])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], self._device)


def fork(device: torch.device) -> AbstractContextManager[None]:
    """Whatever is drawn inside, the default generators of the CPU and of `device` are afterwards as before."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
