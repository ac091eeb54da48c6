"""The Triton back end in Triton's interpreter against a loop over rows in float64: the value and all gradients."""

import pytest
import torch
from cases import ACTIVATIONS, edge_lists, numbers
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

import triton
import triton.language as tl
from triton_cases import (
    ALL,
    FORMS,
    activation_of,
    check,
    random_routing,
    random_weights,
)

from sparsemix.kernels import Gated
from sparsemix.kernels.triton import refuses
from sparsemix.kernels.triton.backend import backward, forward
from sparsemix.kernels.triton.combine import combine, rows_of_tokens
from sparsemix.kernels.triton.schedule import place_in_group, tile_rows
from sparsemix.kernels.triton.tuning import INTERPRETED, block_rows, dot_precision
from sparsemix.kernels.weights import ExpertWeights, Gradients, Needs
from sparsemix.routing import sort_by_expert

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="Triton was imported without TRITON_INTERPRET=1")


@pytest.mark.slow
@settings(max_examples=24)
@given(
    edge_lists(),
    st.sampled_from([1, 5, 16, 33]),
    st.sampled_from([0, 1, 20]),
    st.sampled_from([1, 7, 32, 50]),
    st.sampled_from(FORMS),
    st.sampled_from(ACTIVATIONS),
    st.booleans(),
)
def test_any_routing(case, dim, out, hidden, form, name, transposed):
    routing, num_tokens, num_experts = case
    routing = routing._replace(weight_N=routing.weight_N.detach().float())
    weights = random_weights(form, num_experts, dim, hidden, torch.float32, transposed, out)
    check(form, name, numbers(5, num_tokens, dim).float(), routing, num_experts, weights)


@pytest.mark.slow
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("form", ["gated", "plain"])
def test_every_activation(form, name):
    x_TD = 2 * numbers(5, 6, 17).float()
    check(form, name, x_TD, random_routing(6, 2, 2), 2, random_weights(form, 2, 17, 20, torch.float32))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["gated_interleaved", "gated_clamped_biased"])
def test_layouts_of_other_libraries(form):
    x_TD = numbers(5, 6, 17).float()
    check(form, "gelu", x_TD, random_routing(6, 2, 2), 2, random_weights(form, 2, 17, 20, torch.float32, True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "ragged"), [("gated", True), ("gated_biased", False), ("biased", True), ("gated_interleaved", False)]
)
def test_many_tiles_with_some_rows_dead(form, ragged):
    routing = random_routing(36, 2, 2, live=0.8, ragged=ragged)
    check(form, "silu", numbers(5, 36, 21).float(), routing, 2, random_weights(form, 2, 21, 50, torch.float32))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_tokens", "num_experts", "k", "live"),
    [(0, 3, 2, 1.0), (1, 3, 2, 1.0), (5, 4, 4, 1.0), (37, 1, 1, 1.0), (6, 3, 2, 0.0), (1, 1, 1, 0.0)],
    ids=["no token", "one token", "every expert", "one expert", "all dead", "the only token dead"],
)
@pytest.mark.parametrize("ragged", [True, False])
def test_corners(num_tokens, num_experts, k, live, ragged):
    routing = random_routing(num_tokens, num_experts, k, live, ragged)
    weights = random_weights("gated_biased", num_experts, 6, 5, torch.float32)
    check("gated_biased", "silu", numbers(5, num_tokens, 6).float(), routing, num_experts, weights)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["gated", "biased"])
def test_float16(form):
    weights = random_weights(form, 3, 24, 40, torch.float16)
    check(form, "silu", numbers(5, 20, 24).half(), random_routing(20, 3, 2, live=0.9), 3, weights)


def test_combine_weights_of_float64_get_a_gradient_of_float64():
    routing = random_routing(4, 3, 2)
    routing = routing._replace(weight_N=routing.weight_N.double())
    check("plain", "gelu", numbers(5, 4, 6).float(), routing, 3, random_weights("plain", 3, 6, 5, torch.float32))


def run(needs: Needs = ALL, form: str = "gated_biased"):
    dispatch = sort_by_expert(random_routing(20, 3, 2, live=0.9), 3)
    x_TD, dy_TD = numbers(5, 20, 18).float(), numbers(6, 20, 18).float()
    weights, activation = random_weights(form, 3, 18, 24, torch.float32), activation_of(form, "silu")
    y_TD, saved = forward(x_TD, dispatch, weights, activation)
    return y_TD, backward(dy_TD, x_TD, saved, dispatch, weights, activation, needs)


@pytest.fixture(scope="module")
def everything():
    return run()


@pytest.mark.slow
def test_two_runs_agree_in_every_bit(everything):
    (y_TD, gradients), (again_TD, gradients_again) = everything, run()
    assert torch.equal(y_TD, again_TD)
    assert all(torch.equal(*pair) for pair in zip(gradients, gradients_again))


@pytest.mark.slow
@pytest.mark.parametrize("wanted", Needs._fields)
def test_one_gradient_alone_is_the_same_and_no_other_is_made(wanted, everything):
    _, found = run(Needs(**{name: name == wanted for name in Needs._fields}))
    assert torch.equal(getattr(found, wanted), getattr(everything[1], wanted))
    assert all(grad is None for name, grad in found._asdict().items() if name != wanted)


def test_no_gradient_at_all():
    assert run(Needs(*[False] * 6))[1] == Gradients(*[None] * 6)


def test_gradients_lie_in_memory_as_the_weights_do():
    dispatch = sort_by_expert(random_routing(5, 3, 2), 3)
    weights, x_TD = random_weights("gated", 3, 6, 5, torch.float32, transposed=True), numbers(5, 5, 6).float()
    y_TD, saved = forward(x_TD, dispatch, weights, Gated("silu"))
    gradients = backward(y_TD, x_TD, saved, dispatch, weights, Gated("silu"), ALL)
    assert gradients.up_EGD.stride() == weights.up_EGD.stride()
    assert gradients.down_EDF.stride() == weights.down_EDF.stride()


def test_tokens_and_gradients_that_are_not_contiguous():
    dispatch = sort_by_expert(random_routing(5, 3, 2), 3)
    weights, x_TD = random_weights("gated", 3, 6, 5, torch.float32), numbers(5, 5, 6).float()
    y_TD, saved = forward(x_TD, dispatch, weights, Gated("silu"))
    strided_TD = x_TD.T.contiguous().T
    assert torch.equal(forward(strided_TD, dispatch, weights, Gated("silu"))[0], y_TD)
    ones = torch.ones(5, 6)
    wanted = backward(ones, x_TD, saved, dispatch, weights, Gated("silu"), ALL)
    found = backward(torch.ones(()).expand(5, 6), strided_TD, saved, dispatch, weights, Gated("silu"), ALL)
    assert all(torch.equal(*pair) for pair in zip(found[:4], wanted[:4]))


@settings(max_examples=50)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=9), st.integers(0, 20))
def test_tiles_cover_each_live_row_once_and_no_other(loads, dead):
    bounds = torch.tensor([0, *loads]).cumsum(0).int()
    num_rows = sum(loads) + dead
    if num_rows == 0:
        return
    tiles = tile_rows(bounds, num_rows)
    covered = []
    for expert, row in zip(tiles.expert.tolist(), tiles.row.tolist()):
        if expert < len(loads):
            end = min(row + tiles.block_rows, int(bounds[expert + 1]))
            assert int(bounds[expert]) <= row < end
            covered += range(row, end)
    assert sorted(covered) == list(range(sum(loads)))


def test_tiles_of_very_many_experts():
    expert_N = torch.randint(0, 9000, (40,)).sort().values
    bounds = torch.searchsorted(expert_N, torch.arange(9001), out_int32=True)
    tiles = tile_rows(bounds, 40)
    used = tiles.expert < 9000
    assert tiles.expert[used].tolist() == expert_N.unique().tolist()
    assert tiles.row[used].tolist() == bounds[expert_N.unique()].tolist()


@pytest.mark.parametrize(("rows", "columns", "group"), [(1, 1, 8), (5, 3, 2), (7, 2, 8), (16, 5, 8)])
def test_each_tile_has_its_place(rows, columns, group):
    places = torch.empty(rows * columns, dtype=torch.int32)
    _place_kernel[(rows * columns,)](places, rows, COLUMNS=columns, GROUP=group)
    assert sorted(places.tolist()) == list(range(rows * columns))
    down_a_column = places[: min(rows, group)].tolist()
    assert down_a_column == [row * columns for row in range(min(rows, group))]


@triton.jit
def _place_kernel(place_ptr, num_rows, COLUMNS: tl.constexpr, GROUP: tl.constexpr):
    row, column = place_in_group(tl.program_id(0), num_rows, COLUMNS, GROUP)
    tl.store(place_ptr + tl.program_id(0), row * COLUMNS + column)


@pytest.mark.parametrize("ragged", [True, False])
def test_combine_never_reads_dead_rows(ragged):
    dispatch = sort_by_expert(random_routing(8, 3, 2, live=0.5, ragged=ragged), 3)
    num_live = int(dispatch.bounds[-1])
    y_ND = numbers(0, 16, 5).float()
    y_ND[num_live:] = torch.nan
    expected = torch.zeros(8, 5).index_add_(0, dispatch.token_N[:num_live], y_ND[:num_live])
    actual = combine(y_ND, rows_of_tokens(dispatch, 8), dispatch.bounds, 8)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("x_dtype", "dtype", "reason"),
    [
        (torch.float32, torch.float32, ""),
        (torch.float16, torch.float16, ""),
        (torch.bfloat16, torch.bfloat16, "dtype torch.bfloat16 in Triton's interpreter"),
        (torch.float64, torch.float64, "dtype torch.float64"),
        (torch.float16, torch.float32, "weights of torch.float32 with tokens of torch.float16"),
    ],
)
def test_what_is_refused(x_dtype, dtype, reason):
    weights = ExpertWeights(torch.zeros(2, 4, 4, dtype=dtype), torch.zeros(2, 4, 4, dtype=dtype))
    assert refuses(torch.zeros(3, 4, dtype=x_dtype), weights) == reason


def test_float32_is_exact_unless_pytorch_is_told_otherwise():
    assert dot_precision() == "ieee"
    torch.set_float32_matmul_precision("high")
    try:
        assert dot_precision() == "tf32"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_block_rows_interpreted():
    assert block_rows(10_000, 8) == 16
