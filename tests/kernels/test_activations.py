"""Activations against their formulas, and their written-out derivatives against autograd."""

import math

import pytest
import references
import torch
from cases import ACTIVATIONS, numbers, same

from sparsemix.kernels import ClampedGated, Custom, Gated, Plain
from sparsemix.kernels.activations import pointwise, read, written


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


@pytest.mark.parametrize(
    "activation",
    [
        *(ClampedGated(interleaved=interleaved) for interleaved in (True, False)),
        ClampedGated(limit=1.5, alpha=1.0),
        ClampedGated(limit=1.5, alpha=1.0, interleaved=False, offset=0.0),
        Gated("gelu", interleaved=True),
        Custom(lambda h: torch.tanh(h[:, :5]) * h[:, 5:].exp(), width=2),
        Custom(lambda h: h[:, 2:7], width=2),
    ],
)
def test_those_of_other_libraries_give_the_value_again_and_the_derivative(activation):
    h, da = (numbers(0, 7, 10) * 5).requires_grad_(), numbers(1, 7, 5)
    a = activation.forward(h)
    (expected,) = torch.autograd.grad(a, h, da)
    again, dh = activation.recompute(h.detach(), da)
    same(again, a.detach(), "a")
    same(dh, expected, "dh")


def test_clamped_by_its_formula():
    h = numbers(0, 40, 2) * 8
    same(ClampedGated().forward(h)[:, 0], references.clamped(*h.unbind(1), limit=7.0, alpha=1.702))
    swiglu = ClampedGated(5.0, alpha=1.0, offset=0.0)
    same(swiglu.forward(h)[:, 0], references.clamped(*h.unbind(1), limit=5.0, alpha=1.0, offset=0.0))


@pytest.mark.parametrize("function", [lambda h: h, lambda h: h[:, ::2]])
def test_a_function_that_gives_back_what_it_got_shares_no_memory_with_it(function):
    h = numbers(0, 3, 4)
    activation, before = Custom(function, width=1), h.clone()
    activation.forward(h).zero_()
    activation.recompute(h, function(torch.ones_like(h)))[0].zero_()
    assert torch.equal(h, before)


def test_interleaved_rows_are_gate_up_gate_up():
    h = torch.tensor([[1.0, 10.0, -1.0, 20.0]])
    assert Gated("relu", interleaved=True).forward(h).tolist() == [[10.0, 0.0]]
    apart = ClampedGated(interleaved=False).forward(h[:, [0, 2, 1, 3]])
    assert torch.equal(ClampedGated(interleaved=True).forward(h), apart)


@pytest.mark.parametrize(
    "activation",
    [
        Plain("relu2"),
        Gated("silu"),
        Gated("gelu", interleaved=True),
        ClampedGated(limit=3.0),
        ClampedGated(1e-7, interleaved=False),
        ClampedGated(math.inf),
    ],
)
def test_what_is_written_can_be_read(activation):
    assert read(written(activation)) == activation
    assert type(read(written(activation))) is type(activation)


def test_the_gate_comes_before_the_up_projection():
    h = torch.tensor([[1.0, -1.0, 10.0, 20.0]])
    assert Gated("relu").forward(h).tolist() == [[10.0, 0.0]]
