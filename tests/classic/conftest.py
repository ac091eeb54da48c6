"""`sparsemix.classic` has no torch: what watches tensors, at a price for every call in Python, is not needed here."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def seed() -> None:
    """Tests draw from generators of their own."""


@pytest.fixture(autouse=True)
def uninitialised_memory_is_nan() -> None:
    """There is no memory of torch."""


@pytest.fixture(autouse=True)
def shape_suffixes() -> None:
    """There are no tensors whose names say their shape."""
