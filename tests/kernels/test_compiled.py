"""Layer and decoder compile without a graph break, and are then what they were."""

import pytest
import torch
from cases import dispatch_of, numbers, same

from sparsemix import (
    CapacityConfig,
    DecoderConfig,
    GLUExpertsConfig,
    MLPExpertsConfig,
    MoEConfig,
    SelectionBiasConfig,
    TokenInfo,
    TopKRouterConfig,
)
from sparsemix.kernels import Custom, ExpertWeights, compiled, expert_mlp
from sparsemix.models import AttentionConfig

EXPERTS = [GLUExpertsConfig(hidden=6), MLPExpertsConfig(hidden=6, bias=True, activation="gelu")]
ROUTERS = [
    TopKRouterConfig(k=2),
    TopKRouterConfig(
        k=2, gate="sigmoid", selection_bias=SelectionBiasConfig(), capacity=CapacityConfig(factor=1.0, factor_eval=1.0)
    ),
    TopKRouterConfig(k=1, normalize=False, capacity=CapacityConfig(factor=0.5, priority="probability")),
    TopKRouterConfig(k=2, capacity=CapacityConfig(factor=0.5, priority="token", group_size=4)),
]


pytestmark = pytest.mark.usefixtures("compiler")


def run(layer, x_TD, info=None):
    x_TD = x_TD.clone().requires_grad_()
    y_TD, routing = layer(x_TD, info=info)
    (y_TD.square().sum() + routing.probs_TE.square().sum()).backward()
    return [y_TD.detach(), x_TD.grad, routing.weight_N.detach()]


@pytest.mark.parametrize("padded", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("experts", EXPERTS)
def test_a_layer_compiles_whole_and_is_what_it_was(experts, router, padded):
    moe = MoEConfig(num_experts=5, router=router, experts=experts, shared=experts).build(4).double()
    compiled_moe = torch.compile(moe, fullgraph=True, backend="aot_eager")
    info = TokenInfo(valid_T=torch.arange(9) % 4 != 3) if padded else None
    expected = run(moe, numbers(0, 9, 4), info)
    grads = [p.grad.clone() for p in moe.parameters()]
    moe.zero_grad()
    for actual, wanted in zip(run(compiled_moe, numbers(0, 9, 4), info), expected):
        same(actual, wanted)
    for parameter, wanted in zip(moe.parameters(), grads):
        same(parameter.grad, wanted, "gradient")


def test_a_layer_in_float32_compiles_whole_too():
    moe = MoEConfig(num_experts=5, experts=EXPERTS[0]).build(4)
    compiled_moe = torch.compile(moe, fullgraph=True, backend="aot_eager")
    for actual, wanted in zip(run(compiled_moe, numbers(0, 9, 4).float()), run(moe, numbers(0, 9, 4).float())):
        same(actual, wanted, tolerance=1e-5)


def test_another_number_of_tokens_does_not_compile_anew_for_ever():
    moe = MoEConfig(num_experts=5, experts=EXPERTS[0]).build(4).double()
    compiled_moe = torch.compile(moe, fullgraph=True, backend="aot_eager")
    for num_tokens in (3, 7, 8, 20):
        with torch.compiler.set_stance("default" if num_tokens < 8 else "fail_on_recompile"):
            y_TD, _ = compiled_moe(numbers(0, num_tokens, 4))
        same(y_TD, moe(numbers(0, num_tokens, 4))[0])


def test_one_token_without_gradient_compiles_too():
    moe = MoEConfig(num_experts=5, experts=EXPERTS[0]).build(4).double()
    with torch.no_grad():
        y_1D, _ = torch.compile(moe, fullgraph=True, backend="aot_eager")(numbers(0, 1, 4))
        same(y_1D, moe(numbers(0, 1, 4))[0])


def test_an_activation_without_a_name_is_refused_by_the_compiler_and_runs_without_it():
    dispatch = dispatch_of([0, 0, 1], [1, 0, 0], num_experts=2)
    weights = ExpertWeights(numbers(0, 2, 6, 3), numbers(1, 2, 3, 6))

    def run(x_TD):
        return expert_mlp(x_TD, dispatch, weights, Custom(torch.tanh, width=1))

    with pytest.raises(Exception, match="activation: must be one that has a name to be compiled"):
        torch.compile(run, fullgraph=True, backend="eager")(numbers(2, 2, 3))
    same(torch.compile(run, backend="eager")(numbers(2, 2, 3)), run(numbers(2, 2, 3)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # the compiler's own
def test_a_decoder_compiles_whole_by_inductor():
    config = DecoderConfig(
        vocab_size=30,
        dim=16,
        num_layers=2,
        context=8,
        attention=AttentionConfig(num_heads=2),
        moe=MoEConfig(num_experts=4, experts=GLUExpertsConfig(hidden=8)),
    )
    decoder, tokens_BS = config.build(), torch.randint(30, (2, 8))
    compiled_decoder = torch.compile(decoder, fullgraph=True)
    expected = decoder(tokens_BS)
    expected.hidden_BSD.square().sum().backward()
    trained = [p for p in decoder.parameters() if p.grad is not None]  # all but the unembedding
    grads = [p.grad.clone() for p in trained]
    decoder.zero_grad()
    actual = compiled_decoder(tokens_BS)
    actual.hidden_BSD.square().sum().backward()
    same(actual.hidden_BSD, expected.hidden_BSD, "hidden", 1e-4)
    assert [r.expert_N.tolist() for r in actual.collected] == [r.expert_N.tolist() for r in expected.collected]
    for parameter, wanted in zip(trained, grads):
        same(parameter.grad, wanted, "gradient", 1e-3)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_gradients_of_transposed_weights_are_what_the_compiler_was_told(backend):
    if backend == "triton":
        pytest.importorskip("triton")
    dispatch = dispatch_of([0, 0, 1], [1, 0, 0], num_experts=2)
    *indices, all_live = dispatch._replace(weight_N=dispatch.weight_N.float())
    weights = [numbers(0, 2, 3, 12).float().mT, numbers(1, 2, 6, 3).float().mT, None, None]
    x_TD, needs = numbers(2, 2, 3).float(), [True] * 4 + [False] * 2
    inputs = (x_TD, x_TD, *weights, *indices, all_live, '["Gated", "silu", false]', backend, needs)
    for gradient, told in zip(compiled._backward(*inputs), compiled._backward_shapes(*inputs)):
        assert (gradient.shape, gradient.stride()) == (told.shape, told.stride())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("out", [3, 5])
def test_the_operator_keeps_the_rules_of_operators(bias, out):
    dispatch = dispatch_of([0, 0, 1, 1, 2, 2], [3, 0, 0, 1, 3, 0], num_experts=4, k=2)
    shapes = [(4, 6, 3), (4, out, 6), *([(4, 6), (4, out)] if bias else [])]
    weights = [numbers(i, *shape).requires_grad_() for i, shape in enumerate(shapes)]
    weights += [None] * (4 - len(weights))
    x_TD, weight_N = numbers(5, 3, 3).requires_grad_(), dispatch.weight_N.requires_grad_()
    *indices, all_live = dispatch._replace(weight_N=weight_N)
    torch.library.opcheck(compiled._forward, (x_TD, *weights, *indices, all_live, '["Plain", "silu"]', "cpu"))
