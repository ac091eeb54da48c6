"""Soft MoE against the definition in loops, and what its weights, its gradients and padding are like."""

import math

import pytest
import torch
from cases import gradients, numbers, same
from hypothesis import given
from hypothesis import strategies as st

from sparsemix import (
    GLUExpertsConfig,
    MLPExpertsConfig,
    ModuleExpertsConfig,
    MoEConfig,
    SoftMoE,
    SoftMoEConfig,
    TokenInfo,
    TopKRouterConfig,
    balance_loss,
)
from sparsemix.soft import SoftRouter

DIM = 3
IDENTITY = ModuleExpertsConfig(make=lambda dim: torch.nn.Identity())
GLU, MLP = GLUExpertsConfig(hidden=4), MLPExpertsConfig(hidden=4, activation="gelu", bias=True)


def soft_of(num_experts: int, slots: int, experts=GLU, dim: int = DIM, dtype=torch.float64) -> SoftMoE:
    """All of whose parameters are of size 1."""
    moe = SoftMoEConfig(num_experts=num_experts, slots_per_expert=slots, experts=experts).build(dim).to(dtype)
    with torch.no_grad():
        for i, parameter in enumerate(moe.parameters()):
            parameter.copy_(numbers(i, *parameter.shape))
    return moe


def reference(x_SD, weight_PD, scale, functions, slots):
    """One sequence: the outputs, D and C, a token and a slot at a time."""
    unit = lambda v_D: v_D / torch.sqrt((v_D * v_D).sum() + 1e-6)  # noqa: E731
    logits = [[(unit(x_D) * unit(phi_D)).sum() * scale for phi_D in weight_PD] for x_D in x_SD]
    powers = torch.stack([torch.stack([torch.exp(logit) for logit in row]) for row in logits])
    dispatch_SP, combine_SP = powers / powers.sum(0), powers / powers.sum(1, keepdim=True)
    outputs = []
    for i in range(len(weight_PD)):
        slot_D = sum(dispatch_SP[s, i] * x_SD[s] for s in range(len(x_SD)))
        outputs.append(functions[i // slots](slot_D))
    y_SD = torch.stack([sum(combine_SP[s, i] * outputs[i] for i in range(len(outputs))) for s in range(len(x_SD))])
    return y_SD, dispatch_SP, combine_SP


def functions_of(moe, num_experts):
    """Each expert as a function of one vector, in plain PyTorch."""
    if moe.experts.config.type == "mlp":
        names = ("up_EFD", "up_bias_EF", "down_EDF", "down_bias_ED")
        stacks = [getattr(moe.experts, name) for name in names]

        def mlp(e):
            up, up_bias, down, down_bias = (stack[e] for stack in stacks)
            gelu = lambda h: h * (1 + torch.erf(h / math.sqrt(2))) / 2  # noqa: E731
            return lambda x_D: down @ gelu(up @ x_D + up_bias) + down_bias

        return [mlp(e) for e in range(num_experts)]

    def glu(e):
        gate, up = moe.experts.gate_up_EFD[e].chunk(2)
        return lambda x_D: moe.experts.down_EDF[e] @ (gate @ x_D * torch.sigmoid(gate @ x_D) * (up @ x_D))

    return [glu(e) for e in range(num_experts)]


@given(
    st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.sampled_from([GLU, MLP]), st.data()
)
def test_values_and_gradients_are_those_of_a_loop(num_sequences, length, num_experts, slots, experts, data):
    moe = soft_of(num_experts, slots, experts)
    x = numbers(data.draw(st.integers(0, 99)), num_sequences, length, DIM).requires_grad_()
    y, routing = moe(x)
    loops = [
        reference(x_SD, moe.router.weight_PD, moe.router.scale, functions_of(moe, num_experts), slots) for x_SD in x
    ]
    for actual, expected in zip((y, *routing[:2]), zip(*loops), strict=True):
        same(actual, torch.stack(expected))
    parameters, direction = [x, *moe.parameters()], numbers(1000, *y.shape)
    expected = gradients((torch.stack([loop[0] for loop in loops]) * direction).sum(), parameters)
    for actual, wanted in zip(gradients((y * direction).sum(), parameters), expected, strict=True):
        same(actual, wanted, "gradient")


def test_slots_hold_means_of_tokens_and_tokens_means_of_slots():
    _, (dispatch_BSP, combine_BSP, _) = soft_of(3, 2)(numbers(50, 2, 5, DIM))
    assert dispatch_BSP.shape == combine_BSP.shape == (2, 5, 6)
    assert dispatch_BSP.min() > 0
    assert combine_BSP.min() > 0
    same(dispatch_BSP.sum(1), torch.ones(2, 6, dtype=torch.float64))
    same(combine_BSP.sum(2), torch.ones(2, 5, dtype=torch.float64))


def test_experts_that_do_nothing_leave_c_d_transposed_x():
    x_BSD = numbers(50, 2, 5, DIM)
    y_BSD, (dispatch_BSP, combine_BSP, _) = soft_of(3, 2, IDENTITY)(x_BSD)
    same(y_BSD, torch.einsum("bsp,btp,btd->bsd", combine_BSP, dispatch_BSP, x_BSD))


def test_permuted_tokens_give_permuted_outputs():
    moe, x_BSD = soft_of(3, 2), numbers(50, 2, 5, DIM)
    order = torch.tensor([3, 0, 4, 1, 2])
    same(moe(x_BSD[:, order])[0], moe(x_BSD)[0][:, order])


def test_it_is_differentiable_everywhere():
    """Also where a token is 0 and points nowhere."""
    moe = soft_of(2, 2, MLP)
    x_BSD = numbers(50, 1, 4, DIM)
    x_BSD[0, 1] = 0
    parameters = [p.detach().requires_grad_() for p in moe.parameters()]
    names = [name for name, _ in moe.named_parameters()]

    def run(x_BSD, *given):
        return torch.func.functional_call(moe, dict(zip(names, given)), (x_BSD,))[0]

    assert torch.autograd.gradcheck(run, (x_BSD.requires_grad_(), *parameters), eps=1e-7, atol=1e-4)


@pytest.mark.parametrize("garbage", [1e6, torch.nan])
def test_padding_has_no_influence(garbage):
    moe, x_BSD = soft_of(3, 2), numbers(50, 2, 6, DIM)
    valid_BS = torch.tensor([[False, True, True, False, True, False], [True] * 6])
    x_BSD[~valid_BS] = garbage
    x_BSD.requires_grad_()
    y_BSD, routing = moe(x_BSD, info=TokenInfo(valid_T=valid_BS.flatten()))
    same(y_BSD[0, valid_BS[0]], moe(x_BSD[0, valid_BS[0]])[0])
    same(y_BSD[1], moe(x_BSD[1])[0])
    assert (y_BSD[~valid_BS] == 0).all()
    assert (routing.dispatch_BSP[~valid_BS] == 0).all()
    (grad_BSD,) = torch.autograd.grad(y_BSD.square().sum(), x_BSD)
    assert (grad_BSD[~valid_BS] == 0).all()
    assert (grad_BSD[valid_BS] != 0).any(-1).all()


def test_a_sequence_of_nothing_but_padding_gives_zeros_and_finite_gradients():
    moe, x_BSD = soft_of(3, 2, MLP), numbers(50, 2, 3, DIM).requires_grad_()
    y_BSD, _ = moe(x_BSD, info=TokenInfo(valid_T=torch.tensor([False] * 3 + [True] * 3)))
    assert (y_BSD[0] == 0).all()
    grads = torch.autograd.grad(y_BSD.square().sum(), [x_BSD, *moe.parameters()])
    assert all(grad.isfinite().all() for grad in grads)


def test_a_sequence_does_not_see_the_others():
    moe, x_BSD = soft_of(3, 2), numbers(50, 2, 5, DIM)
    same(moe(x_BSD)[0][1], moe(x_BSD[1])[0])


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 3, 5), (2, 0), (0, 5), (1, 1)])
def test_any_leading_axes(shape):
    x = numbers(50, *shape, DIM)
    y, routing = soft_of(3, 2)(x)
    assert y.shape == x.shape
    assert routing.dispatch_BSP.shape == (math.prod(shape[:-1]), shape[-1], 6)


def test_a_bfloat16_layer_weighs_in_float32():
    moe = soft_of(3, 2, dim=8, dtype=torch.bfloat16)
    x_BSD = numbers(50, 2, 5, 8).bfloat16().requires_grad_()
    y_BSD, routing = moe(x_BSD)
    assert y_BSD.dtype == torch.bfloat16
    assert routing.dispatch_BSP.dtype == routing.combine_BSP.dtype == moe.router.weight_PD.dtype == torch.float32
    exact = soft_of(3, 2, dim=8).router(x_BSD.double())
    same(routing.combine_BSP.double(), exact.combine_BSP, tolerance=1e-5)
    y_BSD.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in moe.parameters())


def test_autocast_narrows_the_experts_and_not_the_weights():
    moe, x_BSD = soft_of(3, 2, dim=8, dtype=torch.float32), numbers(50, 2, 5, 8).float()
    y_BSD, routing = moe(x_BSD)
    with torch.autocast("cpu", torch.bfloat16):
        narrow_BSD, narrow = moe(x_BSD)
    assert narrow_BSD.dtype == torch.bfloat16
    assert torch.equal(narrow.dispatch_BSP, routing.dispatch_BSP)
    assert torch.equal(narrow.combine_BSP, routing.combine_BSP)
    assert (narrow_BSD - y_BSD).abs().mean() < 0.02 * y_BSD.abs().mean()


def test_mixtures_as_experts_bring_their_routings_along():
    inner = MoEConfig(num_experts=2, router=TopKRouterConfig(k=2), experts=GLU)

    class Inner(torch.nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.moe = inner.build(dim)
            self.num_experts = 1

        def forward(self, x_TD, dispatch):
            y_TD, routing = self.moe(x_TD)
            return y_TD, (routing,)

    moe = SoftMoE(SoftRouter(DIM, 2), Inner(DIM)).double()
    _, routing = moe(numbers(50, 4, DIM))
    balance_loss(routing.inner).backward()
    assert moe.experts.moe.router.weight_ED.grad.abs().sum() > 0


@pytest.mark.slow
def test_it_compiles_whole():
    torch.use_deterministic_algorithms(False)
    moe, x_BSD = soft_of(3, 2), numbers(50, 2, 5, DIM)
    same(torch.compile(moe, fullgraph=True, backend="aot_eager")(x_BSD)[0], moe(x_BSD)[0])


def test_refuses():
    with pytest.raises(ValueError, match="router: must have as many slots for each expert, got 5 slots for 2 experts"):
        SoftMoE(SoftRouter(DIM, 5), GLU.build(DIM, 2))
    with pytest.raises(ValueError, match=r"x: must be \(..., sequence, dim\), got shape \(3,\)"):
        soft_of(2, 1)(numbers(0, DIM))
    with pytest.raises(ValueError, match="x: size of axis -1 must be 3, got shape"):
        soft_of(2, 1)(numbers(0, 5, DIM + 1))
    with pytest.raises(ValueError, match=r"info.valid_T: must be bool of shape \(10,\)"):
        soft_of(2, 1)(numbers(0, 2, 5, DIM), info=TokenInfo(valid_T=torch.ones(5, dtype=torch.bool)))
    with pytest.raises(ValueError, match="num_experts"):
        SoftMoEConfig(num_experts=0, experts=GLU)
