"""Where tensors come from: a source knows the shape and dtype of each, and reads one at a time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Spec(NamedTuple):
    """What is known of a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


class TensorSource(Protocol):
    """Tensors by name. Whatever works through one in order needs the memory of few of them."""

    @property
    def specs(self) -> Mapping[str, Spec]:
        """What there is, in the order in which it is best read."""
        ...

    def read(self, name: str) -> Tensor:
        """The tensor, on the CPU, of the shape and dtype that `specs` says; the caller does not write to it."""
        ...


class Held:
    """Tensors that are in memory already."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.specs = {name: spec_of(tensor) for name, tensor in tensors.items()}

    def read(self, name: str) -> Tensor:
        return self.tensors[name].detach().cpu()


class Recipe(NamedTuple):
    """How a tensor is made of others."""

    inputs: tuple[str, ...]
    """Names in the source that it is made of."""
    make: Callable[[Sequence[Tensor]], Tensor]
    """From these tensors, in this order; pure, and at home on the meta device, where it is asked for shapes."""


class Derived:
    """Tensors made of those of another source when they are read.

    The inputs of the last recipe are kept where other recipes have the same: neighbours that are cut from one tensor
    read it once, and what many are joined to is not held twice.
    """

    def __init__(self, source: TensorSource, recipes: Mapping[str, Recipe]) -> None:
        self.source, self.recipes = source, recipes
        self.specs = {name: spec_of(self._shape_of(recipe)) for name, recipe in recipes.items()}
        self._users = Counter(recipe.inputs for recipe in recipes.values())
        self._last: tuple[tuple[str, ...], list[Tensor]] = ((), [])

    def read(self, name: str) -> Tensor:
        inputs, make = self.recipes[name]
        if inputs == self._last[0]:
            return make(self._last[1])
        self._last = ((), [])  # what was kept goes before more is read
        tensors = [self.source.read(one) for one in inputs]
        if self._users[inputs] > 1:
            self._last = (inputs, tensors)
        return make(tensors)

    def _shape_of(self, recipe: Recipe) -> Tensor:
        specs = [self.source.specs[name] for name in recipe.inputs]
        return recipe.make([torch.empty(spec.shape, dtype=spec.dtype, device="meta") for spec in specs])


def spec_of(tensor: Tensor) -> Spec:
    """Shape and dtype of a tensor, on the meta device too."""
    return Spec(tuple(tensor.shape), tensor.dtype)
