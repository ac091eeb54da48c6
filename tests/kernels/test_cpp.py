"""The compiled back end where tiles, panels, slabs and batches end, with vectors of each width; and what it refuses."""

import platform
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cases import ACTIVATIONS, same

from sparsemix import Dispatch, Routing, sort_by_expert
from sparsemix.kernels import ClampedGated, ExpertWeights, Gated, Plain, cpp, cpu, expert_mlp, linear, rms_norm
from sparsemix.kernels.cpp import library as built
from sparsemix.kernels.weights import Needs

pytestmark = pytest.mark.skipif(built.library().functions is None, reason=f"refused: {built.library().reason}")

TARGETS = ["native"]
if platform.machine() == "x86_64":
    TARGETS += ["x86-64"]
    TARGETS += ["haswell"] if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") else []
BIASED = ("biased", "clamped")
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


def activation_of(form, name="silu"):
    match form:
        case "gated":
            return Gated(name)
        case "interleaved":
            return Gated(name, interleaved=True)
        case "clamped":
            return ClampedGated(limit=2.0, alpha=1.3)
        case _:
            return Plain(name)


def tensors(size, form, transposed=False):
    tokens, dim, hidden, experts, _ = size
    generator = torch.Generator().manual_seed(dim)
    wide = activation_of(form).width * hidden
    up, down = (
        torch.randn(experts, wide, dim, generator=generator),
        torch.randn(experts, dim, hidden, generator=generator),
    )
    up, down = up / dim**0.5, down / hidden**0.5
    if transposed:
        up, down = up.mT.contiguous().mT, down.mT.contiguous().mT
    biases = (torch.randn(experts, wide, generator=generator), torch.randn(experts, dim, generator=generator))
    x_TD, dy_TD = torch.randn(2, tokens, dim, generator=generator)
    return x_TD, dy_TD, ExpertWeights(up, down, *(biases if form in BIASED else ()))


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
    act, needs = activation_of(form, name), Needs(*[True] * 4, *[form in BIASED] * 2)
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


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("form", ["interleaved", "clamped"])
@pytest.mark.parametrize("size", [*SIZES[:5], SIZES[8]], ids=str)
def test_layouts_of_other_libraries(target, size, form, dead):
    agrees(size, form, dead=dead)


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
def test_the_experts_of_one_token(target, form, k):
    x_1D, _, weights = tensors((1, 37, 21, 5, 2), form)
    both_2K = torch.tensor([[4, 0, 3], [0, 0, 0]])[:, :k]
    expert_K, weight_K = both_2K.int()[0], torch.tensor([0.3, -2.0, 1.5], dtype=torch.float64)[:k]
    dispatch = sort_by_expert(Routing(torch.zeros(k).long(), both_2K[0], weight_K), 5)
    wide = ExpertWeights(*(w if w is None else w.double() for w in weights))
    expected, _ = cpu.forward(x_1D.double(), dispatch, wide, activation_of(form))
    found = cpp.one_token(x_1D, expert_K, weight_K, weights, activation_of(form))
    same(found, expected.float(), tolerance=1e-5)


def bad(field, change):
    """The dispatch of 6 tokens, two edges each, with one field changed."""
    dispatch = dispatch_of_size(6, 4, 2, dead=True)
    return dispatch._replace(**{field: change(getattr(dispatch, field))})


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("token_N", lambda token: token + 1, r"token_N: must be int64 from 0 to 5, got torch.int64 from 1 to 6"),
        ("token_N", lambda token: token - 1, r"token_N: .* from -1 to 4"),
        ("token_N", lambda token: token.int(), r"token_N: .* got torch.int32"),
        ("weight_N", lambda weight: weight[1:], r"weight_N: must be a number a row, got \(11,\)"),
        ("bounds", lambda bounds: bounds.long(), r"bounds: must be int32, .* got torch.int64"),
        ("bounds", lambda bounds: bounds[1:], r"bounds: .* 5 offsets"),
        ("bounds", lambda bounds: bounds + 1, r"bounds: .* rise from 0"),
        ("bounds", lambda bounds: bounds * 9, r"bounds: .* at most 12"),
        ("bounds", lambda bounds: bounds[[0, 2, 1, 3, 4]], r"bounds: .* rise"),
        ("slot_TK", lambda slot: slot[1:], r"slot_TK: must be a row a token, got \(5, 2\)"),
        ("slot_TK", lambda slot: slot + 1, r"slot_TK: must be int64 from 0 to 11"),
        ("slot_TK", lambda slot: slot.int(), r"slot_TK: must be int64"),
    ],
)
def test_a_dispatch_of_rows_that_are_not_there_is_refused(field, change, message):
    x_TD, dy_TD, weights = tensors((6, 8, 6, 4, 2), "gated")
    _, saved = cpp.forward(x_TD, dispatch_of_size(6, 4, 2, dead=True), weights, Gated("silu"))
    with pytest.raises(ValueError, match=f"^{message}"):
        cpp.forward(x_TD, bad(field, change), weights, Gated("silu"))
    with pytest.raises(ValueError, match=f"^{message}"):
        cpp.backward(dy_TD, x_TD, saved, bad(field, change), weights, Gated("silu"), Needs())


@pytest.mark.parametrize(
    ("field", "axis"),
    [(field, axis) for field in ("up_EGD", "down_EDF") for axis in range(3)]
    + [(field, axis) for field in ("up_bias_EG", "down_bias_ED") for axis in range(2)],
)
def test_weights_that_do_not_go_together_are_refused(field, axis):
    size = (6, 8, 6, 4, 2)
    x_TD, _, weights = tensors(size, "clamped")
    weights = weights._replace(**{field: getattr(weights, field).narrow(axis, 1, 3)})
    for run_one in (
        lambda: cpp.forward(x_TD, dispatch_of_size(6, 4, 2, dead=False), weights, activation_of("clamped")),
        lambda: cpp.one_token(x_TD[:1], torch.tensor([0]), torch.ones(1), weights, activation_of("clamped")),
    ):
        with pytest.raises(ValueError, match=r"^\w+: must be of shape .*, to go with down_EDF, got \("):
            run_one()


def test_an_expert_that_is_not_there_is_refused():
    x_1D, _, weights = tensors((1, 8, 6, 4, 1), "gated")
    for expert in (-1, 4):
        with pytest.raises(ValueError, match=rf"^expert_K: must be in 0\.\.3, got \[{expert}\]$"):
            cpp.one_token(x_1D, torch.tensor([expert]), torch.ones(1), weights, Gated("silu"))


def test_a_row_or_a_norm_of_another_length_is_refused():
    with pytest.raises(
        ValueError, match=r"^x_1D: must be one row, as long as those of w_FD, got torch.Size\(\[1, 2\]\)$"
    ):
        cpp.one_row(torch.ones(1, 2), torch.ones(5, 3))
    with pytest.raises(ValueError, match=r"^bias_F: must be as long as w_FD has rows, got torch.Size\(\[1\]\)$"):
        cpp.one_row(torch.ones(1, 3), torch.ones(5, 3), torch.ones(1))
    with pytest.raises(ValueError, match=r"^weight_D: must be as long as the last axis of x, got torch.Size\(\[4\]\)$"):
        cpp.rms_norm(torch.ones(2, 3), torch.ones(4), 1e-6)


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
