"""The sum of each token's rows, through slots and ragged."""

import pytest
import torch
from cases import dispatch_of, edge_lists, gradients, numbers, same
from hypothesis import given
from hypothesis import strategies as st

from sparsemix import sort_by_expert
from sparsemix.kernels import combine, spread


@given(edge_lists(), st.integers(1, 5))
def test_values_and_gradient_are_those_of_a_loop(case, dim):
    routing, num_tokens, num_experts = case
    dispatch = sort_by_expert(routing, num_experts)
    y_ND = numbers(0, len(dispatch.token_N), dim).requires_grad_()
    rows = [torch.zeros(dim, dtype=torch.float64) for _ in range(num_tokens)]
    for n, t in enumerate(dispatch.token_N.tolist()):
        rows[t] = rows[t] + y_ND[n]
    expected = torch.stack(rows) if rows else torch.zeros(0, dim, dtype=torch.float64)

    y_TD = combine(y_ND, dispatch, num_tokens)

    same(y_TD, expected)
    upstream = numbers(1, num_tokens, dim)
    same(gradients((y_TD * upstream).sum(), [y_ND])[0], gradients((expected * upstream).sum(), [y_ND])[0])


@pytest.mark.parametrize("slots", [True, False])
def test_gradcheck(slots):
    dispatch = dispatch_of([0, 0, 1, 1, 2, 2], [3, 0, 0, 1, 3, 0], num_experts=5, k=2 if slots else None)
    assert (dispatch.slot_TK is not None) == slots
    assert torch.autograd.gradcheck(lambda y: combine(y, dispatch, 3), numbers(0, 6, 3).requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k", [2, None])
def test_keeps_the_dtype_and_takes_an_expanded_gradient(dtype, k):
    dispatch = dispatch_of([0, 0, 1, 1], [1, 0, 0, 2], num_experts=3, k=k)
    y_ND = torch.ones(4, 3, dtype=dtype, requires_grad=True)
    y_TD = combine(y_ND, dispatch, 2)
    y_TD.sum().backward()
    assert y_TD.dtype == dtype
    assert (y_TD == 2).all()
    assert (y_ND.grad == 1).all()


@given(edge_lists(), st.integers(1, 5))
def test_spread_is_the_transpose_of_combine(case, dim):
    routing, num_tokens, num_experts = case
    dispatch = sort_by_expert(routing, num_experts)
    x_TD, y_ND = numbers(0, num_tokens, dim).requires_grad_(), numbers(1, len(dispatch.token_N), dim)
    x_ND = spread(x_TD, dispatch)
    same(x_ND, x_TD[dispatch.token_N])
    same(gradients((x_ND * y_ND).sum(), [x_TD])[0], combine(y_ND, dispatch, num_tokens))


def test_a_token_without_live_edges_gets_zero():
    dispatch = dispatch_of([2, 0], [0, 0], num_experts=1)
    assert combine(torch.ones(2, 1), dispatch, 4).flatten().tolist() == [1, 0, 1, 0]
