"""On which device and in which precision a model runs, found by asking the machine."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple

import torch

from sparsemix.checks import check

DTypeName = Literal["auto", "float32", "bfloat16"]


class Precision(NamedTuple):
    """Where the model is, and what autocast computes in."""

    device: torch.device = torch.device("cpu")
    autocast: torch.dtype | None = None
    """None: everything in the dtype of the parameters."""

    def scope(self) -> AbstractContextManager[object]:
        """Forward passes belong inside."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)


def choose_precision(device: str = "auto", dtype: DTypeName = "auto") -> Precision:
    """The device of that name, and how to compute there.

    Args:
        device: `auto` is the accelerator that torch finds, otherwise the CPU.
        dtype: `auto` is bfloat16 autocast on a GPU with instructions for it, and float32 elsewhere, any CPU included:
            most emulate bfloat16, many times slower, and on others casting eats up what small matrices gain.

    Raises:
        ValueError: no such device, or it cannot compute in bfloat16.
    """
    place = _device(device)
    check(
        dtype != "bfloat16" or _multiplies(place, torch.bfloat16),
        "dtype",
        "must be one that the device computes in",
        f"{dtype} on {place}",
        "use float32",
    )
    if dtype == "auto":
        dtype = "bfloat16" if place.type == "cuda" and multiplies_bfloat16(place) else "float32"
    return Precision(place, torch.bfloat16 if dtype == "bfloat16" else None)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for matrix products in bfloat16; without, they are emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # torch 2.10 cannot say
        return False
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _device(name: str) -> torch.device:
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return torch.device("cpu") if found is None else found
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device: must be one that torch can use, got {name!r} ({reason}); use auto or cpu") from None
    return device


def _multiplies(device: torch.device, dtype: torch.dtype) -> bool:
    try:
        one = torch.ones(8, 8, dtype=dtype, device=device)
        return bool(((one @ one) == 8).all())
    except RuntimeError:
        return False
