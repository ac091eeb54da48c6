"""Every layout of transformers' experts interface against a loop over edges, and those that are refused by name."""

import pytest
import torch
from cases import gradients, numbers, same
from interop.back_end.examples import EXPERTS, experts_of, loop, tokens

from sparsemix.interop.transformers.gates import activation_of
from sparsemix.interop.transformers.stored import weights_of
from sparsemix.kernels import ClampedGated, Custom, Gated, Plain


def interleaved_gate(self, gate_up):
    return self.act_fn(gate_up[..., ::2]) * gate_up[..., 1::2]


class Norm(torch.nn.LayerNorm):
    """With a bias, so that a row of zeros does not stay one."""

    def __init__(self):
        super().__init__(8, dtype=torch.float64)
        torch.nn.init.normal_(self.weight)
        torch.nn.init.normal_(self.bias)


class Quantized(torch.Tensor):
    """Of an ordinary dtype, as such tensors say of themselves, with the numbers elsewhere."""


def compare(experts, x_TD, index_TK, weight_TK):
    inputs = [x_TD, weight_TK, *experts.parameters()]
    actual, expected = experts(x_TD, index_TK, weight_TK), loop(experts, x_TD, index_TK, weight_TK)
    same(actual, expected, "y")
    upstream = numbers(9, *actual.shape)
    found = gradients((actual * upstream).sum(), inputs)
    for index, (grad, wanted) in enumerate(zip(found, gradients((expected * upstream).sum(), inputs))):
        same(grad, wanted, f"gradient of input {index}")
    return found


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("gate", [False, True])
def test_value_and_every_gradient(gate, bias, transposed, norm):
    experts = experts_of(gate=gate, bias=bias, transposed=transposed, norm=Norm() if norm else None)
    compare(experts, *tokens())


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("num_tokens", [1, 7])
def test_experts_elsewhere_are_skipped_forward_and_backward(num_tokens, norm):
    experts = experts_of(bias=True, norm=Norm() if norm else None)
    experts._is_expert_parallel = True
    x_TD, index_TK, weight_TK = tokens(num_tokens)
    index_TK[::3, 0] = EXPERTS
    index_TK[1::4] = EXPERTS + 7  # a token all of whose experts are elsewhere
    _, weight_grad_TK, *_ = compare(experts, x_TD, index_TK, weight_TK)
    assert (weight_grad_TK[index_TK >= EXPERTS] == 0).all()
    assert (weight_grad_TK[index_TK < EXPERTS] != 0).all()


@pytest.mark.parametrize("act", ["silu", "swish", "gelu", "gelu_pytorch_tanh", "gelu_new", "relu", "relu2", "sigmoid"])
@pytest.mark.parametrize("gate", [False, True])
def test_activations_that_we_have(act, gate):
    experts = experts_of(act, gate=gate)
    assert isinstance(activation_of(experts), Gated if gate else Plain)
    compare(experts, *tokens())


@pytest.mark.parametrize("act", ["mish", "quick_gelu", "linear", "tanh"])
@pytest.mark.parametrize("gate", [False, True])
def test_activations_of_the_family_itself(act, gate):
    experts = experts_of(act, gate=gate)
    assert isinstance(activation_of(experts), Custom) == (act != "linear")
    compare(experts, *tokens())


def test_a_gate_of_the_family_itself():
    experts = experts_of(bias=True, transposed=True, is_concatenated=False, members={"_apply_gate": interleaved_gate})
    assert isinstance(activation_of(experts), Custom)
    compare(experts, *tokens())


def test_a_gate_known_by_the_module_that_defines_it():
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

    members = {"_apply_gate": GptOssExperts._apply_gate, "limit": 0.7, "alpha": 1.3}
    experts = experts_of(bias=True, transposed=True, is_concatenated=False, members=members)
    assert activation_of(experts) == ClampedGated(0.7, 1.3)
    compare(experts, *tokens())


@pytest.mark.parametrize("transposed", [False, True])
def test_parameters_are_read_where_they_lie(transposed):
    experts = experts_of(bias=True, transposed=transposed)
    weights = weights_of(experts, activation_of(experts))
    stored = [experts.gate_up_proj, experts.down_proj, experts.gate_up_proj_bias, experts.down_proj_bias]
    assert [view.data_ptr() for view in weights] == [parameter.data_ptr() for parameter in stored]


REFUSED = {
    r"MadeUpExperts: must have its gates before .*, got is_concatenated=False; use another": {"is_concatenated": False},
    r"MadeUpExperts: must learn nothing between its projections.*, got act_fn\.weight; use another": {"act": "prelu"},
    r"MadeUpExperts: must learn nothing .*, got steepness; use another": {
        "members": {"_apply_gate": interleaved_gate},
        "steepness": torch.nn.Parameter(torch.ones(3)),
    },
    r"MadeUpExperts: down_proj must be of an ordinary .* type, got torch\.float8_e4m3fn; use another": {
        "down_proj": torch.nn.Parameter(torch.zeros(5, 8, 12).to(torch.float8_e4m3fn), requires_grad=False)
    },
    r"MadeUpExperts: down_proj must have 3 axes, got \(8, 12\); use another": {
        "down_proj": torch.nn.Parameter(torch.zeros(8, 12))
    },
    r"MadeUpExperts: gate_up_proj must be 2 times as wide as what down_proj reads, got 24 and 10; use another": {
        "down_proj": torch.nn.Parameter(torch.zeros(5, 8, 10))
    },
    r"MadeUpExperts: gate_up_proj must be an ordinary tensor of all experts, got ModuleList; use another": {
        "gate_up_proj": torch.nn.ModuleList()
    },
    r"MadeUpExperts: down_proj must be an ordinary tensor of all experts, got Quantized; use another": {
        "down_proj": torch.zeros(5, 8, 12).as_subclass(Quantized)
    },
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_served_is_refused_by_name(message):
    options = dict(REFUSED[message])
    replaced = {name: options.pop(name) for name in list(options) if name not in ("is_concatenated", "act", "members")}
    experts = experts_of(**options)
    for name, value in replaced.items():
        if name in experts._parameters:
            del experts._parameters[name]
        setattr(experts, name, value)
    with pytest.raises(ValueError, match=f"^{message}"):
        experts(*tokens())
