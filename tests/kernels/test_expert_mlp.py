"""Every back end of the expert MLP against a loop over rows: the value and every gradient; and what it saves."""

from itertools import pairwise

import pytest
import references
import torch
from cases import ACTIVATIONS, dispatch_of, edge_lists, gradients, numbers, same
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsemix import sort_by_expert
from sparsemix.kernels import Gated, Plain, expert_mlp

FORMS = ["gated", "plain", "biased"]
INPUTS = ["x", "weight", "up", "down", "up_bias", "down_bias"]


def parameters(form: str, num_experts: int, dim: int, hidden: int, seed: int = 0, dtype=torch.float64):
    """up, down and, in the biased form, their biases; scaled so that activations stay within reach."""
    wide = 2 * hidden if form == "gated" else hidden
    shapes = [(num_experts, wide, dim), (num_experts, dim, hidden)]
    if form == "biased":
        shapes += [(num_experts, wide), (num_experts, dim)]
    return [numbers(seed + i, *shape).to(dtype).requires_grad_() for i, shape in enumerate(shapes)]


def activation_of(form: str, name: str):
    return Gated(name) if form == "gated" else Plain(name)


def loop(form, name, x_TD, dispatch, tensors):
    """The definition, row by row."""
    rows, bounds = [], dispatch.bounds.tolist()
    for e, (start, end) in enumerate(pairwise(bounds)):
        for n in range(start, end):
            x_D, own = x_TD[int(dispatch.token_N[n])], [tensor[e] for tensor in tensors]
            y_D = references.glu(x_D, *own, name) if form == "gated" else references.mlp(x_D, *own[:2], name, *own[2:])
            rows.append(dispatch.weight_N[n] * y_D)
    return torch.stack(rows) if rows else x_TD.new_zeros(0, x_TD.shape[1])


def compare(form, name, x_TD, routing, num_experts, tensors, backend, tolerance=1e-10):
    dispatch = sort_by_expert(routing, num_experts)
    expected = loop(form, name, x_TD, dispatch, tensors)
    actual = expert_mlp(x_TD, dispatch, *tensors[:2], activation_of(form, name), *tensors[2:], backend=backend)
    same(actual, expected, f"{backend} {form} {name}", tolerance)

    upstream = numbers(9, *actual.shape).to(actual.dtype)
    inputs = [x_TD, routing.weight_N, *tensors]
    # Every input is in the graph, whatever the rows; the loop then goes back through the same sorting.
    grads = torch.autograd.grad((actual * upstream).sum(), inputs, retain_graph=True)
    for what, grad, wanted in zip(INPUTS, grads, gradients((expected * upstream).sum(), inputs)):
        same(grad, wanted, f"{backend} {form} {name}: gradient of {what}", tolerance)


@settings(max_examples=200)
@given(
    edge_lists(),
    st.integers(1, 5),
    st.integers(1, 4),
    st.sampled_from(FORMS),
    st.sampled_from(ACTIVATIONS),
    st.sampled_from(["reference", "cpu", "auto"]),
)
def test_value_and_every_gradient(case, dim, hidden, form, name, backend):
    routing, num_tokens, num_experts = case
    x_TD = numbers(5, num_tokens, dim).requires_grad_()
    compare(form, name, x_TD, routing, num_experts, parameters(form, num_experts, dim, hidden), backend)


@settings(max_examples=100)
@given(
    edge_lists(),
    st.sampled_from([4, 8]),
    st.sampled_from([4, 12]),
    st.sampled_from(FORMS),
    st.sampled_from(ACTIVATIONS),
)
def test_value_and_every_gradient_of_native(case, dim, hidden, form, name):
    routing, num_tokens, num_experts = case
    routing = routing._replace(weight_N=routing.weight_N.detach().float().requires_grad_())
    x_TD = numbers(5, num_tokens, dim).float().requires_grad_()
    tensors = [
        (tensor.detach() / tensor.shape[-1]).requires_grad_()
        for tensor in parameters(form, num_experts, dim, hidden, dtype=torch.float32)
    ]
    compare(form, name, x_TD, routing, num_experts, tensors, "native", tolerance=2e-5)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("form", FORMS)
def test_gradcheck(form, name):
    dispatch = dispatch_of([0, 0, 1, 1, 2, 2], [3, 0, 0, 1, 3, 0], num_experts=4, k=2)  # expert 2 has no rows
    x_TD, tensors = numbers(5, 3, 2).requires_grad_(), parameters(form, 4, 2, 3)

    def run(x_TD, weight_N, *tensors):
        own = dispatch._replace(weight_N=weight_N)
        return expert_mlp(x_TD, own, *tensors[:2], activation_of(form, name), *tensors[2:], backend="cpu")

    assert torch.autograd.gradcheck(run, (x_TD, dispatch.weight_N.requires_grad_(), *tensors))


@pytest.mark.parametrize("backend", ["reference", "cpu", "native"])
def test_an_expert_without_rows_has_gradient_zero_and_an_expanded_gradient_is_taken(backend):
    dispatch = dispatch_of([0, 1, 2], [0, 0, 3], num_experts=5)
    dispatch = dispatch._replace(weight_N=dispatch.weight_N.float())
    tensors = parameters("biased", 5, 4, 4, dtype=torch.float32)
    y_ND = expert_mlp(torch.randn(3, 4), dispatch, *tensors[:2], Plain("silu"), *tensors[2:], backend=backend)
    y_ND.sum().backward()
    for tensor in tensors:
        assert (tensor.grad[[1, 2, 4]] == 0).all()
        assert (tensor.grad[[0, 3]] != 0).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("form", FORMS)
def test_y_has_the_dtype_of_x_and_the_weights_keep_theirs(form, dtype):
    dispatch = dispatch_of([0, 1, 1], [0, 0, 1], num_experts=3)
    weight_N = torch.rand(3, requires_grad=True)
    tensors, x_TD = parameters(form, 3, 4, 5, dtype=dtype), numbers(5, 2, 4).to(dtype).requires_grad_()
    y_ND = expert_mlp(
        x_TD, dispatch._replace(weight_N=weight_N), *tensors[:2], activation_of(form, "silu"), *tensors[2:]
    )
    y_ND.sum().backward()
    assert y_ND.dtype == x_TD.grad.dtype == dtype
    assert weight_N.grad.dtype == torch.float32
    assert all(tensor.grad.dtype == dtype for tensor in tensors)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("k", [3, None])
def test_backward_keeps_x_and_the_pre_activation_and_nothing_of_n_by_d(form, k):
    num_tokens, dim, hidden, num_experts = 5, 7, 11, 4
    expert = [(t + j) % num_experts for t in range(num_tokens) for j in range(3)]
    dispatch = dispatch_of([t for t in range(num_tokens) for _ in range(3)], expert, num_experts, k)
    x_TD, tensors = numbers(5, num_tokens, dim).requires_grad_(), parameters(form, num_experts, dim, hidden)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        expert_mlp(x_TD, dispatch, *tensors[:2], activation_of(form, "silu"), *tensors[2:])

    given_to_it = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    numbers_saved = [
        tuple(tensor.shape)
        for tensor in saved
        if tensor.is_floating_point() and tensor.untyped_storage().data_ptr() not in given_to_it
    ]
    wide = 2 * hidden if form == "gated" else hidden
    assert sorted(numbers_saved) == sorted([(num_tokens, dim), (15, wide), (15,)])
    integers_saved = [tuple(tensor.shape) for tensor in saved if not tensor.is_floating_point()]
    assert sorted(integers_saved) == sorted([(15,), (num_experts + 1,)] + ([(num_tokens, 3)] if k else []))
