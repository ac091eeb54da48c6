"""The compiled back end where tiles, panels, slabs and batches end, with vectors of each width; and how it is built."""

import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from cases import ACTIVATIONS, same

from sparsemix import Dispatch, Routing, sort_by_expert
from sparsemix.kernels import ExpertWeights, Gated, Plain, cpp, cpu, expert_mlp, linear, rms_norm
from sparsemix.kernels.cpp import library as built
from sparsemix.kernels.weights import Needs

pytestmark = pytest.mark.skipif(built.library().functions is None, reason=f"refused: {built.library().reason}")

TARGETS = ["native"]
if platform.machine() == "x86_64":
    TARGETS += ["x86-64"]
    TARGETS += ["haswell"] if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") else []
# tokens, dim, hidden, experts, k
SIZES = [
    (1, 16, 16, 2, 1),
    (5, 7, 3, 4, 2),
    (40, 33, 17, 3, 2),
    (300, 64, 48, 4, 2),
    (100, 16, 16, 64, 2),  # few rows an expert, and none
    (700, 48, 40, 1, 1),  # several blocks
    (2600, 40, 24, 2, 1),  # several batches
    (150, 600, 530, 2, 2),  # several slabs of the depth, in both projections
    (40, 600, 530, 3, 1),  # the same with few rows
]


def dispatch_of_size(tokens: int, experts: int, k: int, dead: bool) -> Dispatch:
    generator = torch.Generator().manual_seed(tokens)
    routing = Routing(
        token_N=torch.arange(tokens).repeat_interleave(k),
        expert_N=torch.randint(experts, (tokens * k,), generator=generator),
        weight_N=torch.rand(tokens * k, generator=generator),
        live_N=torch.rand(tokens * k, generator=generator) > 0.3 if dead else None,
        edges_per_token=None if tokens == 5 else k,
    )
    return sort_by_expert(routing, experts)


def tensors(size, form, transposed=False):
    tokens, dim, hidden, experts, _ = size
    generator = torch.Generator().manual_seed(dim)
    wide = 2 * hidden if form == "gated" else hidden
    up, down = (
        torch.randn(experts, wide, dim, generator=generator),
        torch.randn(experts, dim, hidden, generator=generator),
    )
    up, down = up / dim**0.5, down / hidden**0.5
    if transposed:
        up, down = up.mT.contiguous().mT, down.mT.contiguous().mT
    biases = (torch.randn(experts, wide, generator=generator), torch.randn(experts, dim, generator=generator))
    x_TD, dy_TD = torch.randn(2, tokens, dim, generator=generator)
    return x_TD, dy_TD, ExpertWeights(up, down, *(biases if form == "biased" else ()))


def run(ops, size, form, name="silu", transposed=False, dead=False, dtype=torch.float32):
    """y and every gradient."""
    dispatch = dispatch_of_size(size[0], *size[3:], dead)
    x_TD, dy_TD, weights = tensors(size, form, transposed)
    dispatch = dispatch._replace(weight_N=dispatch.weight_N.to(dtype))
    x_TD, dy_TD, weights = (
        x_TD.to(dtype),
        dy_TD.to(dtype),
        ExpertWeights(*(w if w is None else w.to(dtype) for w in weights)),
    )
    act, needs = Gated(name) if form == "gated" else Plain(name), Needs(*[True] * 4, *[form == "biased"] * 2)
    y_TD, saved = ops.forward(x_TD, dispatch, weights, act)
    return y_TD, *ops.backward(dy_TD, x_TD, saved, dispatch, weights, act, needs)


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


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("form", ["gated", "plain"])
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


def test_what_it_refuses():
    _, _, weights = tensors(SIZES[2], "gated")
    x_TD = torch.randn(3, SIZES[2][1])
    assert cpp.refuses(x_TD, weights, Plain("silu")) == ""
    assert cpp.refuses(x_TD.double(), weights, Plain("silu")) == "the type torch.float64"
    assert (
        cpp.refuses(x_TD, weights._replace(up_EGD=weights.up_EGD.bfloat16()), Plain("silu"))
        == "the type torch.bfloat16"
    )
    assert cpp.refuses(x_TD.to("meta"), weights, Plain("silu")) == "the device meta"


HELLO = """
import torch
from sparsemix import GLUExpertsConfig, MoEConfig
from sparsemix.kernels.backend import choose_backend
from sparsemix.kernels import ExpertWeights, Gated
moe = MoEConfig(num_experts=3, experts=GLUExpertsConfig(hidden=4)).build(8)
moe(torch.randn(5, 8))[0].sum().backward()
with torch.no_grad():
    moe(torch.randn(1, 8))
weights = ExpertWeights(moe.experts.gate_up_EFD, moe.experts.down_EDF)
choice = choose_backend("auto", torch.zeros(1, 8), weights, Gated("silu"))
print(choice.name, "|", choice.reason)
"""


def hello(cache: Path, **environment: str) -> str:
    everything = {**os.environ, "XDG_CACHE_HOME": str(cache), **environment}
    done = subprocess.run([sys.executable, "-c", HELLO], env=everything, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_is_built_once(tmp_path):
    assert hello(tmp_path) == "cpp | float32 on a CPU"
    (library,) = (tmp_path / "sparsemix").iterdir()
    before = library.stat().st_mtime_ns
    assert hello(tmp_path) == "cpp | float32 on a CPU"
    assert [path.stat().st_mtime_ns for path in (tmp_path / "sparsemix").iterdir()] == [before]


def test_processes_that_start_together_may_all_build_it(tmp_path):
    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(hello, [tmp_path] * 3)) == {"cpp | float32 on a CPU"}
    assert len(list((tmp_path / "sparsemix").iterdir())) == 1


def test_without_a_compiler_there_is_another_back_end(tmp_path):
    assert hello(tmp_path, CXX=str(tmp_path / "none")).startswith("cpu | cpp refuses the compiled library: [Errno 2]")


def test_a_compiler_that_fails_is_quoted(tmp_path):
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho 'unknown option -march' >&2; exit 1\n")
    compiler.chmod(0o755)
    said = hello(tmp_path, CXX=str(compiler))
    assert said == "cpu | cpp refuses what the C++ compiler says: unknown option -march"


def test_a_cache_that_cannot_be_written_costs_the_back_end_only(tmp_path):
    (tmp_path / "sparsemix").write_text("a file where the folder should be")
    assert hello(tmp_path).startswith("cpu | cpp refuses the compiled library: ")


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
