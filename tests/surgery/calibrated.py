"""What calibrated surgery reads off a model, computed token by token from the definitions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from experts import loops
from surgery.models import built
from torch import Tensor

from sparsemix.interop.stored import StoredModel
from sparsemix.surgery import Text

TOKENS_BS = torch.randint(17, (6, 12), generator=torch.Generator().manual_seed(5))
TEXT = Text(TOKENS_BS, num_bytes=100)
Gates = dict[int, float]


def mixture_inputs(model: StoredModel, layer: int, tokens_BS: Tensor = TOKENS_BS) -> Tensor:
    """x_TD of the mixture of a block."""
    decoder, seen = built(model), []
    decoder.blocks[layer].ffn.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, 1)))
    with torch.no_grad():
        decoder(tokens_BS)
    return seen[0]


def tensor(model: StoredModel, layer: int, name: str) -> Tensor:
    return model.tensors.read(f"blocks.{layer}.ffn.{name}")


def expert(model: StoredModel, layer: int, e: int) -> Callable[[Tensor], Tensor]:
    up, down = (tensor(model, layer, f"experts.{name}")[e] for name in ("gate_up_EFD", "down_EDF"))
    return lambda x_D: loops.glu(x_D, up, down, "silu", torch.zeros(1).double(), torch.zeros(1).double())


def gates(logits: list[float], k: int, among: list[int], normalize: bool = True) -> Gates:
    """Softmax over `among`, the k best of them, over their sum."""
    exps = {e: torch.tensor(logits[e]).double().exp().item() for e in among}
    total = sum(exps.values())
    chosen = sorted(among, key=lambda e: -exps[e])[:k]
    over = sum(exps[e] for e in chosen) if normalize else total
    return {e: exps[e] / over for e in chosen}


def output(weights: Gates, functions: list[Callable[[Tensor], Tensor]], x_D: Tensor) -> Tensor:
    return sum(weight * functions[e](x_D) for e, weight in weights.items())
