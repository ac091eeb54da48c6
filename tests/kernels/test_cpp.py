"""The compiled back end where tiles, panels, slabs and batches end, with vectors of each width."""

import platform
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cases import ACTIVATIONS, same
from cpp_cases import SIZES, activation_of, dispatch_of_size, needs_a_compiler, run, tensors

from sparsemix import Routing, sort_by_expert
from sparsemix.kernels import ExpertWeights, Plain, cpp, cpu, expert_mlp, linear, rms_norm
from sparsemix.kernels.cpp import library as built
from sparsemix.kernels.weights import Needs

pytestmark = needs_a_compiler

TARGETS = ["native"]
if platform.machine() == "x86_64":
    TARGETS += ["x86-64"]
    TARGETS += ["haswell"] if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") else []


def agrees(size, form, **options):
    for found, expected in zip(run(cpp, size, form, **options), run(cpu, size, form, dtype=torch.float64, **options)):
        assert (found is None) == (expected is None)
        if expected is not None:
            scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
            same(found / scale, expected.float() / scale, f"{size} {form} {options}", 3e-6)


@pytest.fixture(scope="module", params=TARGETS)
def target(request, tmp_path_factory):
    """The library for one width of vector, in the place of the machine's own."""
    flags = (*(flag for flag in built.FLAGS if not flag.startswith("-march")), f"-march={request.param}")
    library = built.opened(built.compiled(built.cxx(), tmp_path_factory.mktemp("cache"), flags))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(built, "library", lambda: library)
        yield request.param


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("form", ["gated", "plain", "biased"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_value_and_every_gradient(target, size, form, dead):
    agrees(size, form, dead=dead)


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("form", ["interleaved", "clamped"])
@pytest.mark.parametrize("size", [*SIZES[:5], SIZES[8]], ids=str)
def test_layouts_of_other_libraries(target, size, form, dead):
    agrees(size, form, dead=dead)


@pytest.mark.parametrize("out", [1, 30, 700])
@pytest.mark.parametrize("form", ["gated", "biased"])
@pytest.mark.parametrize("size", [*SIZES[1:3], SIZES[5], SIZES[7]], ids=str)
def test_y_may_be_of_another_width_than_x(target, size, form, out):
    agrees(size, form, out=out, dead=True)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("form", ["gated", "plain", "interleaved"])
def test_every_activation(target, form, name):
    agrees((60, 20, 24, 3, 2), form, name=name)


@pytest.mark.parametrize("size", [SIZES[2], SIZES[5], SIZES[7], SIZES[8]], ids=str)
def test_transposed_weights_are_read_where_they_are(target, size):
    agrees(size, "gated", transposed=True)


def test_lanes_are_those_of_the_target(target):
    lanes = built.functions().sparsemix_lanes()
    assert lanes == {"x86-64": 4, "haswell": 8}.get(target, lanes)


def test_activations_far_out(target):
    """Where exponentials over- and underflow, and where there is no number."""
    far = torch.tensor([-200.0, -90, -88, -20, -1e-30, 0, 1e-30, 20, 88, 90, 200, torch.nan])
    dispatch = sort_by_expert(
        Routing(torch.zeros(1).long(), torch.zeros(1).long(), torch.ones(1), edges_per_token=1), 1
    )
    weights = ExpertWeights(torch.ones(1, 1, 1), torch.ones(1, 1, 1))
    for name in ACTIVATIONS:
        for x in far.view(-1, 1, 1):
            y, saved = cpp.forward(x, dispatch, weights, Plain(name))
            dx = cpp.backward(torch.ones(1, 1), x, saved, dispatch, weights, Plain(name), Needs()).x_TD
            leaf = x.clone().requires_grad_()
            wanted = Plain(name).forward(leaf)
            wanted.sum().backward()
            if x.isfinite():
                same(y, wanted.detach(), f"{name}({x.item()})", 1e-6)
                same(dx, leaf.grad, f"{name}'({x.item()})", 1e-6)
            assert y.isnan() or not x.isnan()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("size", [SIZES[3], SIZES[6]], ids=str)
def test_the_same_bits_every_time_and_as_good_with_any_number_of_threads(size, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        agrees(size, "gated")
        first = run(cpp, size, "gated")
        for _ in range(3):
            assert all(one is None or torch.equal(one, again) for one, again in zip(first, run(cpp, size, "gated")))
    finally:
        torch.set_num_threads(before)


def test_threads_of_pythons_own_do_not_disturb_each_other():
    expected = {size: run(cpp, size, "gated") for size in SIZES[2:6]}
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda size: (size, run(cpp, size, "gated")), SIZES[2:6] * 4))
    for size, actual in found:
        for one, other in zip(actual, expected[size]):
            assert one is None or torch.equal(one, other)


@pytest.mark.parametrize("shape", [(1, 7), (3, 5, 300), (2, 1024)])
def test_norms_without_autograd_are_those_with_it(target, shape):
    x, weight_D = torch.randn(shape), torch.randn(shape[-1])
    with torch.no_grad():
        same(rms_norm(x, weight_D, 1e-6), torch.nn.functional.rms_norm(x, shape[-1:], weight_D, 1e-6), tolerance=1e-5)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("inner", "columns"), [(3, 5), (65, 100), (1024, 300)])
def test_one_row_without_autograd_is_one_row_with_it(target, inner, columns, bias):
    whole = torch.randn(columns, inner + 3)
    x_1D, bias_F = torch.randn(1, 1, inner), torch.randn(columns) if bias else None
    for w_FD in (whole[:, :inner], whole[:, :inner].contiguous(), whole[:, :inner].T.contiguous().T):
        with torch.no_grad():
            same(linear(x_1D, w_FD, bias_F), torch.nn.functional.linear(x_1D, w_FD, bias_F), tolerance=1e-4)


@pytest.mark.parametrize("form", ["gated", "plain", "biased", "interleaved", "clamped"])
@pytest.mark.parametrize("k", [0, 1, 3])
@pytest.mark.parametrize("out", [37, 1, 50])
def test_the_experts_of_one_token(target, form, k, out):
    x_1D, _, weights = tensors((1, 37, 21, 5, 2), form, out=out)
    both_2K = torch.tensor([[4, 0, 3], [0, 0, 0]])[:, :k]
    expert_K, weight_K = both_2K.int()[0], torch.tensor([0.3, -2.0, 1.5], dtype=torch.float64)[:k]
    dispatch = sort_by_expert(Routing(torch.zeros(k).long(), both_2K[0], weight_K), 5)
    wide = ExpertWeights(*(w if w is None else w.double() for w in weights))
    expected, _ = cpu.forward(x_1D.double(), dispatch, wide, activation_of(form))
    found = cpp.one_token(x_1D, expert_K, weight_K, weights, activation_of(form))
    same(found, expected.float(), tolerance=1e-5)


def test_gradients_arrive_through_autograd_too():
    dispatch = dispatch_of_size(30, 4, 2, dead=False)
    x_TD, dy_TD, weights = tensors((30, 8, 6, 4, 2), "biased")
    found = []
    for backend in ("cpp", "cpu"):
        leaves = [tensor.clone().requires_grad_() for tensor in (x_TD, dispatch.weight_N, *weights)]
        own = dispatch._replace(weight_N=leaves[1])
        y_TD = expert_mlp(leaves[0], own, ExpertWeights(*leaves[2:]), Plain("gelu"), backend)
        found.append(torch.autograd.grad(y_TD, leaves, dy_TD))
    for actual, expected in zip(*found):
        same(actual, expected, tolerance=1e-5)
