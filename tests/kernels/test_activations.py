"""Activations against their formulas, and their written-out derivatives against autograd."""

import pytest
import references
import torch
from cases import ACTIVATIONS, numbers, same

from sparsemix.kernels import Gated, Plain
from sparsemix.kernels.activations import pointwise


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_value(name):
    x = torch.cat([numbers(0, 50) * 4, torch.zeros(1, dtype=torch.float64)])
    same(pointwise(name, x), references.activation(name, x), name)


@pytest.mark.parametrize("kind", [Plain, Gated])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_recompute_gives_the_value_again_and_the_derivative(kind, name):
    activation = kind(name)
    h, da = (numbers(0, 7, 5 * activation.width) * 3).requires_grad_(), numbers(1, 7, 5)
    a = activation.forward(h)
    (expected,) = torch.autograd.grad(a, h, da)

    again, dh = activation.recompute(h.detach(), da)

    assert a.shape == (7, 5)
    same(again, a.detach(), "a")
    same(dh, expected, "dh")


def test_the_gate_comes_before_the_up_projection():
    h = torch.tensor([[1.0, -1.0, 10.0, 20.0]])
    assert Gated("relu").forward(h).tolist() == [[10.0, 0.0]]
