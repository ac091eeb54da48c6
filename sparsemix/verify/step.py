"""One optimiser step on a copy: what got gradient has moved, and nothing is frozen or forgotten."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sparsemix.models import Decoder
from sparsemix.verify.finding import Finding
from sparsemix.verify.learning import Learning, gradients_by_expert

Step = Callable[[Decoder, Tensor], None]
"""(decoder, tokens_BS): one step of training on these tokens, as the run takes it."""


def check_step(decoder: Decoder, tokens_BS: Tensor, step: Step, learnings: Sequence[Learning]) -> list[Finding]:
    """A row for each mixture: the parameters of its router and of each expert."""
    moved = copy.deepcopy(decoder)
    step(moved, tokens_BS)
    return [_finding(learning, _of(moved, learning.where)) for learning in learnings]


def _of(moved: Decoder, where: str) -> nn.Module:
    ffn = moved.blocks[int(where.removeprefix("block "))].ffn
    assert ffn is not None
    return ffn


def _finding(learning: Learning, after: nn.Module) -> Finding:
    pairs = list(zip(learning.moe.parameters(), after.parameters(), strict=True))
    change = {before: later.detach() - before.detach() for before, later in pairs}
    gradient = {parameter: learning.of_task[parameter] + learning.of_balance[parameter] for parameter, _ in pairs}
    names = dict(learning.moe.named_parameters())
    still = [name for name, p in names.items() if bool(gradient[p].any()) and not bool(change[p].any())]
    by_expert = zip(
        gradients_by_expert(learning.moe.experts, gradient), gradients_by_expert(learning.moe.experts, change)
    )
    idle = [e for e, parts in enumerate(by_expert) if any(_stands(part, moved) for part, moved in zip(*parts))]
    broken = [name for name, p in names.items() if not bool(change[p].isfinite().all())]
    problems = [*(f"{name} did not move" for name in still), *(f"{name} became NaN" for name in broken)]
    problems += [f"expert {e} did not move" for e in idle]
    pushed = sum(bool(gradient[p].any()) for p in names.values())
    detail = f"{pushed} parameters with gradient moved, and so did each expert with gradient"
    return Finding("optimiser step", learning.where, "; ".join(problems[:3]) or detail, not problems)


def _stands(gradient: Tensor, change: Tensor) -> bool:
    """Whether there is a gradient, and yet no change."""
    return bool(gradient.any()) and not bool(torch.any(change))
