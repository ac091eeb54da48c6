import pytest
import torch
from torch import nn

from sparsemix.train.muon import Muon, orthogonalize

SHAPES = [(3, 8, 8), (3, 6, 20), (3, 20, 6), (2, 9, 11), (1, 1, 5)]


def polynomial_of_singular_values(x, iterations):
    """The definition: an SVD, and the odd polynomial on each singular value."""
    u, s, vt = torch.linalg.svd(x / torch.linalg.matrix_norm(x, keepdim=True), full_matrices=False)
    for _ in range(iterations):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ torch.diag_embed(s) @ vt


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("iterations", [1, 3, 5])
def test_is_the_polynomial_of_the_singular_values(shape, iterations):
    x = torch.randn(shape, dtype=torch.float64)
    expected = polynomial_of_singular_values(x, iterations)
    torch.testing.assert_close(orthogonalize(x, iterations), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES[:4])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_singular_values_are_near_one(shape, scale):
    u, _, vt = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    x = scale * u @ torch.diag_embed(torch.rand(vt.shape[:2]) + 0.1) @ vt
    values = torch.linalg.svdvals(orthogonalize(x))
    assert values.min() > 0.6
    assert values.max() < 1.25


def test_ill_conditioned_matrices_keep_their_directions_in_float32():
    """Iterating on the square, as long matrices do, must not drown small singular values in rounding."""
    u, _ = torch.linalg.qr(torch.randn(2, 64, 16, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(2, 16, 16, dtype=torch.float64))
    x = u * torch.logspace(0, -5, 16, dtype=torch.float64) @ v
    expected = polynomial_of_singular_values(x, 5)
    assert (orthogonalize(x.float()).double() - expected).norm() < 1e-3 * expected.norm()


@pytest.mark.parametrize("shape", [(4, 6, 6), (4, 6, 20), (4, 20, 6)])
def test_a_batch_is_its_matrices_one_by_one(shape):
    x = torch.randn(shape, dtype=torch.float64)
    one_by_one = torch.cat([orthogonalize(matrix[None]) for matrix in x])
    torch.testing.assert_close(orthogonalize(x), one_by_one, rtol=1e-12, atol=1e-12)


def test_does_not_change_its_argument():
    x = torch.randn(2, 4, 4)
    before = x.clone()
    orthogonalize(x)
    assert torch.equal(x, before)


def stacked_and_separate(steps=3, **settings):
    """The same matrices as one stack of experts and as parameters of their own, moved by the same gradients."""
    start, generator = torch.randn(3, 8, 4), torch.Generator().manual_seed(1)
    stack, alone = nn.Parameter(start.clone()), [nn.Parameter(matrix.clone()) for matrix in start]
    one, many = Muon([stack], **settings), Muon(alone, **settings)
    for _ in range(steps):
        gradient = torch.randn(start.shape, generator=generator)
        stack.grad = gradient
        for parameter, part in zip(alone, gradient):
            parameter.grad = part
        one.step()
        many.step()
    return stack, torch.stack(list(alone)), start


@pytest.mark.parametrize("scale", ["shape", "rms"])
def test_an_expert_moves_like_a_matrix_of_its_own(scale):
    stack, alone, start = stacked_and_separate(lr=0.1, weight_decay=0.1, scale=scale)
    torch.testing.assert_close(stack, alone)
    assert (stack - start).abs().max() > 0.01


@pytest.mark.parametrize(("scale", "factor"), [("shape", 2**0.5), ("rms", 0.2 * 8**0.5)])
def test_first_step_by_hand(scale, factor):
    weight, gradient = torch.randn(8, 4), torch.randn(8, 4)
    parameter = nn.Parameter(weight.clone())
    parameter.grad = gradient
    Muon([parameter], lr=0.1, weight_decay=0.5, scale=scale).step()
    expected = weight * (1 - 0.1 * 0.5) - 0.1 * factor * orthogonalize(gradient[None])[0]
    torch.testing.assert_close(parameter.detach(), expected)


def test_second_step_has_nesterov_momentum():
    first, second = torch.randn(2, 4, 4)
    parameter = nn.Parameter(torch.zeros(4, 4))
    muon = Muon([parameter], lr=1.0, momentum=0.9)
    parameter.grad = first
    muon.step()
    before = parameter.detach().clone()
    parameter.grad = second
    muon.step()
    momentum = 0.9 * 0.1 * first + 0.1 * second
    expected = before - orthogonalize((0.1 * second + 0.9 * momentum)[None])[0]
    torch.testing.assert_close(parameter.detach(), expected)


def test_an_expert_without_tokens_stays_and_keeps_its_momentum():
    parameter = nn.Parameter(torch.randn(3, 4, 6))
    muon = Muon([parameter], lr=0.1)
    parameter.grad = torch.randn(3, 4, 6)
    muon.step()
    weight, momentum = parameter.detach().clone(), muon.state[parameter]["momentum"].clone()
    parameter.grad = torch.randn(3, 4, 6)
    parameter.grad[1] = 0
    muon.step()
    moved = (parameter.detach() != weight).flatten(1).any(1)
    assert moved.tolist() == [True, False, True]
    assert torch.equal(muon.state[parameter]["momentum"][1], momentum[1])
    assert not torch.equal(muon.state[parameter]["momentum"][0], momentum[0])


def test_all_gradients_zero_moves_nothing():
    parameter = nn.Parameter(torch.randn(2, 4, 4))
    before = parameter.detach().clone()
    parameter.grad = torch.zeros(2, 4, 4)
    Muon([parameter]).step()
    assert torch.equal(parameter.detach(), before)


def test_parameters_without_gradient_are_left_alone():
    with_gradient, without = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.ones(4, 4))
    with_gradient.grad = torch.randn(4, 4)
    muon = Muon([with_gradient, without])
    muon.step()
    assert torch.equal(without.detach(), torch.ones(4, 4))
    assert without not in muon.state


def test_bfloat16_is_close():
    parameters = [nn.Parameter(torch.zeros(2, 16, 16)) for _ in range(2)]
    gradient = torch.randn(2, 16, 16)
    for parameter, dtype in zip(parameters, (None, torch.bfloat16)):
        parameter.grad = gradient
        Muon([parameter], lr=1.0, dtype=dtype).step()
    wide, narrow = parameters
    assert narrow.dtype == torch.float32
    assert not torch.equal(wide, narrow)
    assert (wide - narrow).norm() < 0.1 * wide.norm()
