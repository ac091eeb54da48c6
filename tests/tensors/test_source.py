"""Tensors that are made of others when they are read."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from sparsemix.tensors import Derived, Held, Recipe, Spec


class Counted(Held):
    """Counts what is read of it."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__(tensors)
        self.reads: Counter[str] = Counter()

    def read(self, name: str) -> Tensor:
        self.reads[name] += 1
        return super().read(name)


def test_shapes_are_known_without_reading() -> None:
    source = Counted({"a": torch.ones(2, 3), "b": torch.ones(4, 3, dtype=torch.bfloat16)})
    joined = Derived(source, {"ab": Recipe(("a", "b"), lambda found: torch.cat([found[0], found[1].float()]))})
    assert joined.specs == {"ab": Spec((6, 3), torch.float32)}
    assert joined.specs["ab"].nbytes == 72
    assert not source.reads


def test_neighbours_cut_from_one_tensor_read_it_once() -> None:
    source = Counted({"stacked": torch.arange(6.0).view(3, 2)})
    parts = {f"part.{i}": Recipe(("stacked",), lambda found, i=i: found[0][i]) for i in range(3)}
    cut = Derived(source, parts)
    assert [cut.read(name).tolist() for name in parts] == [[0, 1], [2, 3], [4, 5]]
    assert source.reads == {"stacked": 1}


def test_what_is_joined_is_not_kept() -> None:
    source = Counted({"a": torch.ones(2), "b": torch.zeros(2)})
    joined = Derived(source, {"ab": Recipe(("a", "b"), lambda found: torch.cat(list(found)))})
    assert [joined.read("ab").tolist() for _ in range(2)] == [[1, 1, 0, 0]] * 2
    assert source.reads == {"a": 2, "b": 2}
