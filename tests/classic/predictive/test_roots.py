"""Roots of rising functions, against what is known of them."""

from __future__ import annotations

import numpy as np
import pytest

from sparsemix.classic.predictive.roots import rising_roots

FUNCTIONS = {
    "straight": lambda x, root: x - root,
    "a step": lambda x, root: np.where(x < root, -1.0, 1.0),
    "flat at the root": lambda x, root: (x - root) ** 7,
    "steep": lambda x, root: np.tanh(1e9 * (x - root)),
    "a spike far off": lambda x, root: np.exp(np.minimum(x - root, 300.0)) - 1,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_root_is_found_to_the_tolerance(name: str) -> None:
    root_R = np.array([-3.0, -1e-3, 0.0, 0.7, 4.0])
    low_R, high_R = np.full(5, -3.0), np.full(5, 400.0)
    found_R = rising_roots(lambda x_R: FUNCTIONS[name](x_R, root_R), low_R, high_R, np.full(5, 1e-10))
    np.testing.assert_allclose(found_R, root_R, rtol=0, atol=3e-2 if name == "flat at the root" else 2e-10)


def test_interpolation_saves_most_evaluations() -> None:
    calls = []

    def function(x_R: np.ndarray) -> np.ndarray:
        calls.append(x_R)
        return np.expm1(x_R)

    rising_roots(function, np.full(3, -2.0), np.full(3, 5.0), np.full(3, 1e-12))
    assert len(calls) < 16, "bisection needs 43"


def test_a_bracket_of_no_width_is_its_root() -> None:
    np.testing.assert_array_equal(
        rising_roots(lambda x: x - 2, np.full(1, 2.0), np.full(1, 2.0), np.full(1, 1e-9)), [2.0]
    )
