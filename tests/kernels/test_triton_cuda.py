"""The Triton back end compiled for a GPU: large sizes against a loop over experts, CUDA graphs, offsets past 2^31."""

import os
from itertools import pairwise

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or PyTorch's deterministic mode refuses the reference

import pytest
import torch
from cases import ACTIVATIONS, numbers

pytest.importorskip("triton")
if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from triton_cases import ALL, FORMS, activation_of, close, random_routing, random_weights

from sparsemix.kernels.triton import grouped, hidden_grad, refuses, up, weight_grad
from sparsemix.kernels.triton.backend import backward, forward
from sparsemix.kernels.triton.tuning import INTERPRETED
from sparsemix.kernels.weights import ExpertWeights, Gradients
from sparsemix.routing import sort_by_expert

pytestmark = [
    pytest.mark.skipif(INTERPRETED, reason="TRITON_INTERPRET is set: nothing is compiled"),
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode"),
]
TUNED = [up._plain_up, up._gated_up, grouped._grouped_matmul_kernel]
TUNED += [hidden_grad._hidden_gradient_kernel, weight_grad._weight_gradient_kernel]
SIZES = [(513, 200, 136, 7, 2), (4096, 512, 384, 16, 4), (64, 256, 128, 32, 8), (3, 64, 64, 8, 2)]


def expected_of(activation, x_TD, dispatch, weights, dy_TD):
    """By autograd through a loop over experts, in float64."""
    x_TD, weight_N, *tensors = (
        tensor.double().requires_grad_() for tensor in (x_TD, dispatch.weight_N, *weights) if tensor is not None
    )
    y_TD, bounds = torch.zeros_like(x_TD), dispatch.bounds.tolist()
    for e, (start, end) in enumerate(pairwise(bounds)):
        token = dispatch.token_N[start:end]
        up_GD, down_DF, *biases = (tensor[e] for tensor in tensors)
        h = x_TD[token] @ up_GD.T + (biases[0] if biases else 0)
        y = activation.forward(h) @ down_DF.T + (biases[1] if biases else 0)
        y_TD = y_TD.index_add(0, token, y * weight_N[start:end, None])
    return y_TD.detach(), torch.autograd.grad(y_TD, [x_TD, weight_N, *tensors], dy_TD.double())


def problem(form, size, dtype, live=0.9, ragged=False, transposed=False):
    num_tokens, dim, hidden, num_experts, k = size
    dispatch = sort_by_expert(random_routing(num_tokens, num_experts, k, live, ragged, "cuda"), num_experts)
    weights = random_weights(form, num_experts, dim, hidden, dtype, transposed)
    weights = ExpertWeights(*(tensor if tensor is None else tensor.cuda() for tensor in weights))
    x_TD, dy_TD = (numbers(seed, num_tokens, dim).to("cuda", dtype) for seed in (5, 6))
    assert not refuses(x_TD, weights)
    return x_TD, dy_TD, dispatch, weights


def check_cuda(form, name, x_TD, dy_TD, dispatch, weights):
    activation = activation_of(form, name)
    expected, wanted = expected_of(activation, x_TD, dispatch, weights, dy_TD)
    y_TD, saved = forward(x_TD, dispatch, weights, activation)
    saved[0][int(dispatch.bounds[-1]) :] = torch.nan
    found = backward(dy_TD, x_TD, saved, dispatch, weights, activation, ALL)
    close(y_TD, expected, x_TD.dtype, "value")
    for what, actual, grad in zip(Gradients._fields, found, wanted):
        close(actual, grad, x_TD.dtype, what, torch.float32 if what == "weight_N" else x_TD.dtype)


@pytest.fixture(params=range(3))
def one_tiling(request, monkeypatch):
    """A tiling of each kernel, the same for all sizes: tuning for every test would compile for an hour."""
    for kernel in TUNED:
        shallow = [tiling for tiling in kernel.configs if tiling.kwargs["BLOCK_K"] == 32]  # float32 takes no other
        monkeypatch.setattr(kernel, "configs", [shallow[request.param % len(shallow)]])


@pytest.mark.usefixtures("one_tiling")
@pytest.mark.parametrize("form", [form for form in FORMS if "clamped" not in form])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_and_every_gradient(form, dtype):
    check_cuda(form, "silu", *problem(form, SIZES[0], dtype))


@pytest.mark.parametrize("size", SIZES)
def test_tuned(size):
    check_cuda("gated", "silu", *problem("gated", size, torch.bfloat16))


@pytest.mark.usefixtures("one_tiling")
@pytest.mark.parametrize("ragged", [True, False])
def test_ragged_and_transposed(ragged):
    check_cuda("gated", "silu", *problem("gated", SIZES[0], torch.float16, ragged=ragged, transposed=True))


@pytest.mark.usefixtures("one_tiling")
def test_clamped():
    """Few numbers, exactly: where rounding carries one across the limit, its gradient jumps."""
    form = "gated_clamped_biased"
    check_cuda(form, "", *problem(form, SIZES[-1], torch.float32))


@pytest.mark.parametrize("one_tiling", [0], indirect=True)
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("form", ["gated", "plain"])
def test_every_activation(form, name, one_tiling):
    check_cuda(form, name, *problem(form, SIZES[-1], torch.float32))


def test_a_cuda_graph_holds_forward_and_backward_of_any_load():
    x_TD, dy_TD, dispatch, weights = problem("gated", SIZES[1], torch.bfloat16)
    activation = activation_of("gated", "silu")

    def step():
        y_TD, saved = forward(x_TD, dispatch, weights, activation)
        return y_TD, *backward(dy_TD, x_TD, saved, dispatch, weights, activation, ALL)[:4]

    step()  # tunes
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    other = sort_by_expert(random_routing(4096, 16, 4, 0.3, device="cuda"), 16)
    for mine, theirs in zip(dispatch, other):
        mine.copy_(theirs)
    graph.replay()
    for actual, wanted in zip(captured, step()):
        assert torch.equal(actual, wanted)


def test_no_call_waits_for_the_device():
    x_TD, dy_TD, dispatch, weights = problem("gated_biased", SIZES[2], torch.bfloat16)
    activation = activation_of("gated", "silu")
    for mode in ("default", "error"):  # the first time round tunes, which does wait
        torch.cuda.set_sync_debug_mode(mode)
        try:
            _, saved = forward(x_TD, dispatch, weights, activation)
            backward(dy_TD, x_TD, saved, dispatch, weights, activation, ALL)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_weights_of_more_than_two_to_the_31_numbers():
    num_experts, dim, hidden = 10, 16384, 8192
    free, _ = torch.cuda.mem_get_info()
    if free < 30 * 2**30:
        pytest.skip("needs 30 GiB")
    routing = random_routing(64, num_experts, 1, device="cuda")
    routing = routing._replace(expert_N=torch.full_like(routing.expert_N, num_experts - 1))
    up_EGD = torch.randn(num_experts, 2 * hidden, dim, device="cuda", dtype=torch.bfloat16).mul_(dim**-0.5)
    down_EDF = torch.randn(num_experts, dim, hidden, device="cuda", dtype=torch.bfloat16).mul_(hidden**-0.5)
    x_TD = torch.randn(64, dim, device="cuda", dtype=torch.bfloat16)
    activation, dispatch = activation_of("gated", "silu"), sort_by_expert(routing, num_experts)
    y_TD, saved = forward(x_TD, dispatch, ExpertWeights(up_EGD, down_EDF), activation)
    gradients = backward(x_TD, x_TD, saved, dispatch, ExpertWeights(up_EGD, down_EDF), activation, ALL)

    alone = dispatch._replace(bounds=dispatch.bounds[-2:].clone())
    last = ExpertWeights(up_EGD[-1:].clone(), down_EDF[-1:].clone())
    wanted_y, wanted = expected_of(activation, x_TD, alone, last, x_TD)
    close(y_TD, wanted_y, x_TD.dtype, "value")
    close(gradients.up_EGD[-1:], wanted[2], x_TD.dtype, "up")
    close(gradients.down_EDF[-1:], wanted[3], x_TD.dtype, "down")
    assert not gradients.up_EGD[:-1].any()
