"""Matrix products and linear layers are the same whoever computes them."""

import pytest
import torch
from cases import same

from sparsemix.kernels import gemm, linear

SHAPES = [(40, 300, 200), (300, 40, 200), (129, 64, 300), (1, 2048, 1024)]


@pytest.fixture(params=["as the machine likes it", "onednn", "torch.mm"])
def library(request, monkeypatch):
    if request.param == "onednn" and not torch.backends.mkldnn.is_available():
        pytest.skip("PyTorch was built without oneDNN")
    if request.param != "as the machine likes it":
        monkeypatch.setattr(gemm, "onednn_is_faster", lambda: request.param == "onednn")
    return request.param


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("rows", "inner", "columns"), SHAPES)
def test_products(library, rows, inner, columns, transposed):
    a_MK, b_KN = torch.randn(rows, inner), torch.randn(inner, columns)
    if transposed:
        a_MK, b_KN = a_MK.T.contiguous().T, b_KN.T.contiguous().T
    expected_MN = (a_MK.double() @ b_KN.double()).float()
    same(gemm.product(a_MK, b_KN), expected_MN, library, 1e-4)

    total_MN = torch.empty(rows, columns)
    gemm.write_product(total_MN, a_MK, b_KN)
    same(total_MN, expected_MN, "written", 1e-4)
    total_MN.fill_(torch.nan)
    gemm.add_product(total_MN, a_MK, b_KN, first=True)
    gemm.add_product(total_MN, a_MK, b_KN, first=False)
    same(total_MN, 2 * expected_MN, "added up", 2e-4)

    wide_MN = torch.empty(rows, columns, dtype=torch.float64)
    for first in (True, False):
        gemm.add_product(wide_MN, a_MK, b_KN, first)
    same(wide_MN, 2 * expected_MN.double(), "added up in a wider type", 2e-4)


def test_sizes_decide_who_computes(monkeypatch):
    monkeypatch.setattr(gemm, "onednn_is_faster", lambda: True)
    large, narrow = torch.empty(512, 512), torch.empty(512, 16)
    assert gemm.onednn_pays(large, large)
    assert gemm.onednn_pays(large, narrow)
    assert not gemm.onednn_pays(large.T, narrow)  # a copy of a for few columns
    assert not gemm.onednn_pays(large[:4], narrow)
    assert not gemm.onednn_pays(large[:1], large)
    assert gemm.onednn_pays(torch.empty(1, 2048), torch.empty(2048, 512))
    assert not gemm.onednn_pays(large.double(), large.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert not gemm.onednn_pays(large, large)
    assert [gemm.round_up(rows, large) for rows in (3, 13, 500, 513)] == [3, 16, 504, 544]
    assert gemm.round_up(513, large.double()) == 513


@pytest.mark.parametrize("bias", [False, True])
def test_linear_has_the_value_and_gradients_of_torch(library, bias):
    inputs = [torch.randn(2, 150, 200), torch.randn(300, 200), *([torch.randn(300)] if bias else [])]
    ours, theirs = ([tensor.clone().requires_grad_() for tensor in inputs] for _ in range(2))
    upstream = torch.randn(2, 150, 300)
    actual, expected = linear(*ours), torch.nn.functional.linear(*theirs)
    same(actual, expected, library, 1e-4)
    (actual * upstream).sum().backward()
    (expected * upstream).sum().backward()
    for mine, other in zip(ours, theirs):
        same(mine.grad, other.grad, "gradient", 1e-3)


@pytest.mark.parametrize("bias", [False, True])
def test_linear_has_the_second_derivatives_of_torch(library, bias):
    inputs = [torch.randn(2, 150, 200), torch.randn(300, 200), *([torch.randn(300)] if bias else [])]
    found = []
    for function in (linear, torch.nn.functional.linear):
        own = [tensor.clone().requires_grad_() for tensor in inputs]
        first = torch.autograd.grad(function(*own).square().mean(), own, create_graph=True)
        found.append(torch.autograd.grad(sum(grad.square().sum() for grad in first), own))
    for mine, other in zip(*found):
        same(mine / other.abs().max(), other / other.abs().max(), "gradient of a gradient's norm", 1e-4)


def test_linear_leaves_autocast_and_other_types_to_torch(monkeypatch):
    monkeypatch.setattr(gemm, "onednn_is_faster", lambda: True)
    x_TD, w_FD = torch.randn(128, 256), torch.randn(128, 256)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x_TD, w_FD).dtype == torch.bfloat16
    assert linear(x_TD.double(), w_FD.double()).dtype == torch.float64
