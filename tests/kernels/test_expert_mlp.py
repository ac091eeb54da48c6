"""Every back end of the expert MLP against a loop over rows: the value and every gradient; and what it saves."""

from dataclasses import replace
from itertools import pairwise

import pytest
import references
import torch
from cases import ACTIVATIONS, dispatch_of, edge_lists, gradients, numbers, same
from cpp_cases import needs_a_compiler
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsemix import GLUExpertsConfig, MLPExpertsConfig, MoEConfig, TopKRouterConfig, sort_by_expert
from sparsemix.kernels import ClampedGated, Custom, ExpertWeights, Gated, Plain, expert_mlp, gemm, layout, reference

FORMS = ["gated", "plain", "biased"]
INPUTS = ["x", "weight", "up", "down", "up_bias", "down_bias"]


def parameters(form: str, num_experts: int, dim: int, hidden: int, out: int | None = None, dtype=torch.float64):
    """up, down and, in the biased form, their biases; y is as wide as x, or `out`."""
    wide, out = 2 * hidden if form == "gated" else hidden, out or dim
    shapes = [(num_experts, wide, dim), (num_experts, out, hidden)]
    if form == "biased":
        shapes += [(num_experts, wide), (num_experts, out)]
    return [numbers(i, *shape).to(dtype).requires_grad_() for i, shape in enumerate(shapes)]


def activation_of(form: str, name: str):
    return Gated(name) if form == "gated" else Plain(name)


def loop(form, name, x_TD, dispatch, tensors):
    """The definition, row by row."""
    y_TD, bounds = x_TD.new_zeros(len(x_TD), tensors[1].shape[1]), dispatch.bounds.tolist()
    for e, (start, end) in enumerate(pairwise(bounds)):
        for n in range(start, end):
            token = dispatch.token_N[n]
            x_D, own = x_TD[int(token)], [tensor[e] for tensor in tensors]
            y_D = references.glu(x_D, *own, name) if form == "gated" else references.mlp(x_D, *own[:2], name, *own[2:])
            y_TD = y_TD.index_add(0, token[None], (dispatch.weight_N[n] * y_D)[None])
    return y_TD


def compare(form, name, x_TD, routing, num_experts, tensors, backend, tolerance=1e-10):
    dispatch = sort_by_expert(routing, num_experts)
    expected = loop(form, name, x_TD, dispatch, tensors)
    actual = expert_mlp(x_TD, dispatch, ExpertWeights(*tensors), activation_of(form, name), backend)
    same(actual, expected, f"{backend} {form} {name}", tolerance)

    upstream = numbers(9, *actual.shape).to(actual.dtype)
    inputs = [x_TD, routing.weight_N, *tensors]
    # Every input is in the graph, whatever the rows; the loop then goes back through the same sorting.
    grads = torch.autograd.grad((actual * upstream).sum(), inputs, retain_graph=True)
    for what, grad, wanted in zip(INPUTS, grads, gradients((expected * upstream).sum(), inputs)):
        same(grad, wanted, f"{backend} {form} {name}: gradient of {what}", tolerance)


def compare_in_float32(case, dim, out, hidden, form, name, backend):
    routing, num_tokens, num_experts = case
    routing = routing._replace(weight_N=routing.weight_N.detach().float().requires_grad_())
    x_TD = numbers(5, num_tokens, dim).float().requires_grad_()
    tensors = [
        (tensor.detach() / tensor.shape[-1]).requires_grad_()
        for tensor in parameters(form, num_experts, dim, hidden, out, dtype=torch.float32)
    ]
    compare(form, name, x_TD, routing, num_experts, tensors, backend, tolerance=5e-5)


@settings(max_examples=200)
@given(
    edge_lists(),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 4),
    st.sampled_from(FORMS),
    st.sampled_from(ACTIVATIONS),
    st.sampled_from(["reference", "cpu", "auto"]),
)
def test_value_and_every_gradient(case, dim, out, hidden, form, name, backend):
    routing, num_tokens, num_experts = case
    x_TD = numbers(5, num_tokens, dim).requires_grad_()
    compare(form, name, x_TD, routing, num_experts, parameters(form, num_experts, dim, hidden, out), backend)


@pytest.fixture
def everything_to_onednn(monkeypatch):
    """Also products that are too small to pay, on CPUs where it never pays, and so that rows are rounded up."""
    monkeypatch.setattr(gemm, "SMALL", 1)
    monkeypatch.setattr(gemm, "NARROW", 1)
    monkeypatch.setattr(gemm, "onednn_is_faster", lambda: True)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN")
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edge_lists(),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 4),
    st.sampled_from(FORMS),
    st.sampled_from([1, 3, 1024]),
)
def test_value_and_every_gradient_by_onednn(everything_to_onednn, case, dim, out, hidden, form, rows_in_a_block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "ROWS", rows_in_a_block)
        compare_in_float32(case, dim, out, hidden, form, "silu", "cpu")


@needs_a_compiler
@settings(max_examples=150)
@given(
    edge_lists(),
    st.sampled_from([1, 3, 17, 40]),
    st.sampled_from([1, 3, 17, 40]),
    st.sampled_from([1, 5, 16, 20]),
    st.sampled_from(FORMS),
    st.sampled_from(ACTIVATIONS),
)
def test_value_and_every_gradient_by_compiled_code(case, dim, out, hidden, form, name):
    compare_in_float32(case, dim, out, hidden, form, name, "cpp")


def test_an_expert_of_several_blocks_and_several_experts_in_a_block(monkeypatch):
    monkeypatch.setattr(layout, "ROWS", 4)
    dispatch = dispatch_of(list(range(14)), [0] * 9 + [1, 2, 2, 4, 4], num_experts=5)
    laid = layout.lay_out(dispatch, torch.empty(5, 6, 3, dtype=torch.float64))
    found = [(block.rows, [(part.expert, part.rows, part.first) for part in block.parts]) for block in laid.blocks()]
    assert found == [
        (slice(0, 4), [(0, slice(0, 4), True)]),
        (slice(4, 8), [(0, slice(0, 4), False)]),
        (slice(8, 12), [(0, slice(0, 1), False), (1, slice(1, 2), True), (2, slice(2, 4), True)]),
        (slice(12, 14), [(4, slice(0, 2), True)]),
    ]


@pytest.mark.parametrize("k", [2, None])
@pytest.mark.parametrize("backend", ["reference", "cpu", "native"])
def test_everything_is_made_where_the_tensors_are(backend, k):
    """Whatever the default device, and with dead rows, which have places of their own."""
    dispatch = dispatch_of([0, 0, 1, 1, 2, 2], [3, 0, 4, 1, 3, 4], num_experts=4, k=k)  # those of expert 4 are dead
    dispatch = dispatch._replace(weight_N=dispatch.weight_N.float().requires_grad_(), all_live=False)
    x_TD, tensors = numbers(5, 3, 4).float().requires_grad_(), parameters("biased", 4, 4, 4, dtype=torch.float32)
    inputs = [x_TD, dispatch.weight_N, *tensors]

    def run():
        y_TD = expert_mlp(x_TD, dispatch, ExpertWeights(*tensors), Plain("silu"), backend)
        return [y_TD, *torch.autograd.grad(y_TD.square().sum(), inputs)]

    expected = run()
    with torch.device("meta"):
        found = run()
    assert all(one.equal(other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("frozen", range(4))
@pytest.mark.parametrize("backend", ["auto", "cpu", "native"])
def test_what_is_frozen_gets_no_gradient_and_all_else_the_same(backend, frozen):
    dispatch = dispatch_of([0, 1, 1, 2], [0, 0, 3, 3], num_experts=4)
    dispatch = dispatch._replace(weight_N=dispatch.weight_N.float())

    def run(trained):
        x_TD, tensors = (
            torch.randn(3, 4, generator=torch.Generator().manual_seed(1)),
            parameters("biased", 4, 4, 4, dtype=torch.float32),
        )
        for index, tensor in enumerate(tensors):
            tensor.requires_grad_(index in trained)
        expert_mlp(x_TD, dispatch, ExpertWeights(*tensors), Plain("silu"), backend).square().sum().backward()
        return [tensor.grad for tensor in tensors]

    expected, found = run(range(4)), run(set(range(4)) - {frozen})
    assert found.pop(frozen) is None
    expected.pop(frozen)
    for grad, wanted in zip(found, expected):
        assert torch.equal(grad, wanted)


@settings(max_examples=100)
@given(
    edge_lists(),
    st.sampled_from([4, 8]),
    st.sampled_from([4, 8]),
    st.sampled_from([4, 12]),
    st.sampled_from(FORMS),
    st.sampled_from(ACTIVATIONS),
)
def test_value_and_every_gradient_of_native(case, dim, out, hidden, form, name):
    compare_in_float32(case, dim, out, hidden, form, name, "native")


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("form", FORMS)
def test_gradcheck(form, name):
    dispatch = dispatch_of([0, 0, 1, 1, 2, 2], [3, 0, 0, 1, 3, 0], num_experts=4, k=2)  # expert 2 has no rows
    x_TD, tensors = numbers(5, 3, 2).requires_grad_(), parameters(form, 4, 2, 3)

    def run(x_TD, weight_N, *tensors):
        own = dispatch._replace(weight_N=weight_N)
        return expert_mlp(x_TD, own, ExpertWeights(*tensors), activation_of(form, name), "cpu")

    assert torch.autograd.gradcheck(run, (x_TD, dispatch.weight_N.requires_grad_(), *tensors))


@pytest.mark.parametrize("backend", ["reference", "auto", "cpu", "native"])
def test_an_expert_without_rows_has_gradient_zero_and_an_expanded_gradient_is_taken(backend):
    dispatch = dispatch_of([0, 1, 2], [0, 0, 3], num_experts=5)
    dispatch = dispatch._replace(weight_N=dispatch.weight_N.float())
    tensors = parameters("biased", 5, 4, 4, dtype=torch.float32)
    y_TD = expert_mlp(torch.randn(3, 4), dispatch, ExpertWeights(*tensors), Plain("silu"), backend)
    y_TD.sum().backward()
    for tensor in tensors:
        assert (tensor.grad[[1, 2, 4]] == 0).all()
        assert (tensor.grad[[0, 3]] != 0).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("form", FORMS)
def test_y_has_the_dtype_of_x_and_the_weights_keep_theirs(form, dtype):
    dispatch = dispatch_of([0, 1, 1], [0, 0, 1], num_experts=3)
    weight_N = torch.rand(3, requires_grad=True)
    tensors, x_TD = parameters(form, 3, 4, 5, dtype=dtype), numbers(5, 2, 4).to(dtype).requires_grad_()
    y_TD = expert_mlp(x_TD, dispatch._replace(weight_N=weight_N), ExpertWeights(*tensors), activation_of(form, "silu"))
    y_TD.sum().backward()
    assert y_TD.dtype == x_TD.grad.dtype == dtype
    assert weight_N.grad.dtype == torch.float32
    assert all(tensor.grad.dtype == dtype for tensor in tensors)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("k", [3, None])
@pytest.mark.parametrize("recompute", [False, True])
def test_backward_keeps_x_and_the_pre_activation_and_nothing_of_n_by_d(form, k, recompute):
    num_tokens, dim, hidden, num_experts = 5, 7, 11, 4
    expert = [(t + j) % num_experts for t in range(num_tokens) for j in range(3)]
    dispatch = dispatch_of([t for t in range(num_tokens) for _ in range(3)], expert, num_experts, k)
    x_TD, tensors = numbers(5, num_tokens, dim).requires_grad_(), parameters(form, num_experts, dim, hidden)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        expert_mlp(x_TD, dispatch, ExpertWeights(*tensors), activation_of(form, "silu"), recompute=recompute)

    given_to_it = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    numbers_saved = [
        tuple(tensor.shape)
        for tensor in saved
        if tensor.is_floating_point() and tensor.untyped_storage().data_ptr() not in given_to_it
    ]
    wide = 2 * hidden if form == "gated" else hidden
    if recompute:
        assert sorted(numbers_saved) == [(num_tokens, dim), (15,)]
        return
    pre_activation = [shape for shape in numbers_saved if shape[1:] == (wide,)]
    assert sum(rows for rows, _ in pre_activation) == 15
    assert sorted(set(numbers_saved) - set(pre_activation)) == [(num_tokens, dim), (15,)]
    integers_saved = [tuple(tensor.shape) for tensor in saved if not tensor.is_floating_point()]
    assert sorted(integers_saved) == sorted([(15,), (15,), (num_experts + 1,)] + ([(num_tokens, 3)] if k else []))


@pytest.mark.parametrize("backend", ["auto", "cpu", "native", "reference"])
@pytest.mark.parametrize("config", [GLUExpertsConfig(hidden=8), MLPExpertsConfig(hidden=8, bias=True)])
def test_a_pre_activation_computed_again_gives_the_same_gradients(config, backend):
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        own = replace(config, backend=backend, recompute=recompute)
        moe = MoEConfig(num_experts=4, router=TopKRouterConfig(k=2), experts=own).build(8)
        x_TD = torch.randn(9, 8, requires_grad=True)
        moe(x_TD)[0].square().sum().backward()
        found.append([x_TD.grad, *(parameter.grad for parameter in moe.parameters())])
    for kept, again in zip(*found):
        assert torch.equal(kept, again)


def test_the_reference_too_computes_again_where_it_is_told_to(monkeypatch):
    calls, once = [], reference.expert_mlp
    monkeypatch.setattr(reference, "expert_mlp", lambda *arguments: calls.append(arguments) or once(*arguments))
    dispatch, weights = dispatch_of([0, 1], [0, 1], num_experts=2), ExpertWeights(*parameters("gated", 2, 3, 4))
    for recompute, expected in ((False, 1), (True, 2)):
        calls.clear()
        y_TD = expert_mlp(numbers(5, 2, 3), dispatch, weights, Gated("silu"), "reference", recompute)
        assert len(calls) == 1
        y_TD.sum().backward()
        assert len(calls) == expected


@settings(max_examples=50)
@given(edge_lists(), st.sampled_from(["auto", "cpu", "reference", "native"]))
def test_a_function_of_pytorch_is_what_the_same_activation_is(case, backend):
    routing, num_tokens, num_experts = case
    dtype = torch.float32 if backend == "native" else torch.float64
    routing = routing._replace(weight_N=routing.weight_N.detach().to(dtype).requires_grad_())
    x_TD, tensors = numbers(5, num_tokens, 4).to(dtype).requires_grad_(), parameters("gated", num_experts, 4, 8)
    inputs = [x_TD, routing.weight_N, *(tensor.detach().to(dtype).requires_grad_() for tensor in tensors)]
    silu = Custom(lambda h: torch.nn.functional.silu(h[:, :8]) * h[:, 8:], width=2)
    found = []
    for activation, by in ((silu, backend), (Gated("silu"), "reference")):
        dispatch = sort_by_expert(routing, num_experts)
        y_TD = expert_mlp(x_TD, dispatch, ExpertWeights(*inputs[2:]), activation, by)
        found.append([y_TD, *gradients(y_TD.sum(), inputs)])
    for what, actual, expected in zip(["y", *INPUTS], *found):
        same(actual, expected, f"{backend}: {what}", 1e-10 if dtype == torch.float64 else 1e-3)


@pytest.mark.parametrize("backend", ["auto", "cpu", "native"])
@pytest.mark.parametrize(
    "activation", [ClampedGated(limit=0.5), Gated("silu", interleaved=True), ClampedGated(interleaved=False)]
)
def test_layouts_of_other_libraries_without_a_copy(activation, backend):
    """Transposed weights, gate and up rows in turns, biases, clamps: as gpt-oss has them."""
    dispatch = dispatch_of([0, 0, 1, 1, 2, 2], [3, 0, 0, 1, 3, 0], num_experts=4, k=2)
    up, down, up_bias, down_bias = numbers(1, 4, 8, 16), numbers(2, 4, 8, 8), numbers(3, 4, 16), numbers(4, 4, 8)
    leaves = [
        tensor.float().requires_grad_()
        for tensor in (numbers(0, 3, 8), dispatch.weight_N, up, down, up_bias, down_bias)
    ]

    def run(backend):
        x_TD, weight_N, up_EDG, down_EFD, *biases = leaves
        weights = ExpertWeights(up_EDG.mT, down_EFD.mT, *biases)
        y_TD = expert_mlp(x_TD, dispatch._replace(weight_N=weight_N), weights, activation, backend)
        return y_TD, torch.autograd.grad(y_TD.square().sum(), leaves)

    (actual, grads), (expected, wanted) = run(backend), run("reference")
    same(actual, expected, "y", 1e-4)
    for what, grad, target in zip(INPUTS, grads, wanted):
        same(grad / target.abs().max(), target / target.abs().max(), what, 1e-5)
