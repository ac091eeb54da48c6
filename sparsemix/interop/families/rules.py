"""Rules between one tensor of ours and those of theirs that it is made of; each goes both ways and loses nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from sparsemix.interop.pairs import half_apart, side_by_side


class Rule(Protocol):
    """One tensor of ours, and how it is made of theirs and they of it."""

    def names(self, num_experts: int) -> tuple[str, ...]:
        """Theirs, in order, with `*` for the number of the block."""
        ...

    def join(self, theirs: Sequence[Tensor]) -> Tensor:
        """Ours, of theirs."""
        ...

    def cut(self, ours: Tensor, index: int) -> Tensor:
        """Theirs number `index`, of ours."""
        ...


Table = Mapping[str, Rule]
"""Our names, with `*` for the number of the block -> rule. A family's table may say more than one model has."""


class Same:
    """The same tensor under another name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def names(self, num_experts: int) -> tuple[str, ...]:
        return (self.name,)

    def join(self, theirs: Sequence[Tensor]) -> Tensor:
        return theirs[0]

    def cut(self, ours: Tensor, index: int) -> Tensor:
        return ours


class Joined:
    """Tensors of one shape behind each other: the rows of the gate, then those of the up projection."""

    def __init__(self, *parts: str) -> None:
        self.parts = parts

    def names(self, num_experts: int) -> tuple[str, ...]:
        return self.parts

    def join(self, theirs: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(theirs))

    def cut(self, ours: Tensor, index: int) -> Tensor:
        return ours.chunk(len(self.parts))[index]


class Stacked:
    """A matrix an expert, or several behind each other; `#` in a name is the number of the expert."""

    def __init__(self, *parts: str) -> None:
        self.parts = parts

    def names(self, num_experts: int) -> tuple[str, ...]:
        return tuple(part.replace("#", str(expert)) for expert in range(num_experts) for part in self.parts)

    def join(self, theirs: Sequence[Tensor]) -> Tensor:
        rows, *others = theirs[0].shape
        count = len(self.parts)
        return torch.cat(list(theirs)).view(len(theirs) // count, count * rows, *others)

    def cut(self, ours: Tensor, index: int) -> Tensor:
        expert, part = divmod(index, len(self.parts))
        return ours[expert].chunk(len(self.parts))[part]


class Transposed(Same):
    """Stored (E, in, out)."""

    def join(self, theirs: Sequence[Tensor]) -> Tensor:
        return theirs[0].mT

    def cut(self, ours: Tensor, index: int) -> Tensor:
        return ours.mT


class Alternating(Same):
    """Along the last axis, gate and up projection take turns, where ours has one behind the other."""

    def join(self, theirs: Sequence[Tensor]) -> Tensor:
        return theirs[0].unflatten(-1, (-1, 2)).mT.flatten(-2)

    def cut(self, ours: Tensor, index: int) -> Tensor:
        return ours.unflatten(-1, (2, -1)).mT.flatten(-2)


class AlternatingTransposed(Same):
    """Both: stored (E, in, 2 out), with gate and up projection taking turns."""

    def join(self, theirs: Sequence[Tensor]) -> Tensor:
        by_kind = theirs[0].unflatten(-1, (-1, 2))  # (E, in, out, 2)
        return by_kind.permute(0, 3, 2, 1).flatten(1, 2)

    def cut(self, ours: Tensor, index: int) -> Tensor:
        by_kind = ours.unflatten(1, (2, -1))  # (E, 2, out, in)
        return by_kind.permute(0, 3, 2, 1).flatten(-2)


class TurningPairs(Same):
    """The last rows of every head turn with the position, in pairs: neighbours there, half of these rows apart in ours.

    Args:
        name: theirs.
        head: rows of a head.
        turning: how many of these turn.
    """

    def __init__(self, name: str, head: int, turning: int) -> None:
        super().__init__(name)
        self.head, self.turning = head, turning

    def join(self, theirs: Sequence[Tensor]) -> Tensor:
        return half_apart(theirs[0], self.head, self.turning)

    def cut(self, ours: Tensor, index: int) -> Tensor:
        return side_by_side(ours, self.head, self.turning)
