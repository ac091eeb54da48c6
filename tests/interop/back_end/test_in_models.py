"""Models of transformers under our back end: how it is asked for, training, generation, precision, compilation."""

import importlib.util

import pytest
import torch
import transformers
from cases import same
from interop.back_end.examples import experts_of, tokens

from sparsemix.interop.transformers import forward, register


def mixtral(**changes):
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=5,
        max_position_embeddings=64,
        initializer_range=0.2,
        **changes,
    )
    return transformers.MixtralForCausalLM(config)


def by(model, implementation, token_BS, **options):
    model.set_experts_implementation(implementation)
    model.zero_grad()
    found = model(token_BS, labels=token_BS, **options)
    found.loss.backward()
    return [found.logits.detach(), *(parameter.grad for parameter in model.parameters())]


@pytest.fixture
def token_BS():
    return torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def calls(monkeypatch):
    """Which of our functions were called."""
    seen = []

    def watch(name):
        once = getattr(forward, name)

        def watched(*arguments):
            seen.append(name)  # before: checkpoints stop a call that they repeat as soon as they have what they need
            found = once(*arguments)
            if found is None:
                seen.pop()
            return found

        monkeypatch.setattr(forward, name, watched)

    watch("expert_mlp")
    watch("one_token")
    return seen


def test_asking_for_it_in_every_way_that_transformers_has(tmp_path, token_BS, calls):
    mixtral().save_pretrained(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, experts_implementation="sparsemix")
    switched = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    switched.set_experts_implementation("sparsemix")
    for model in (loaded, switched, mixtral(experts_implementation="sparsemix")):
        calls.clear()
        model(token_BS)
        assert calls == ["expert_mlp"] * 2
    expected = by(switched, "eager", token_BS)[0]
    assert calls == ["expert_mlp"] * 2
    same(loaded(token_BS).logits, expected, "logits", 1e-5)


def test_registering_again_changes_nothing():
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    before = dict(ALL_EXPERTS_FUNCTIONS)
    register()
    assert dict(ALL_EXPERTS_FUNCTIONS) == before
    assert before["sparsemix"] is forward.experts_forward


def test_without_transformers_its_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"^transformers: .* run: pip install 'sparsemix\[hf\]'$"):
        register()


def test_training_with_and_without_gradient_checkpointing(token_BS, calls):
    model = mixtral(output_router_logits=True).train()
    expected = by(model, "eager", token_BS)
    for checkpointed in (False, True):
        if checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": False})
        calls.clear()
        for actual, wanted in zip(by(model, "sparsemix", token_BS, use_cache=False), expected):
            same(actual, wanted, "gradient", 1e-5)
        assert calls == ["expert_mlp"] * (4 if checkpointed else 2)


def test_what_is_frozen_gets_no_gradient(token_BS):
    model = mixtral()
    frozen = model.model.layers[0].mlp.experts.gate_up_proj.requires_grad_(False)
    by(model, "sparsemix", token_BS)
    assert frozen.grad is None
    assert model.model.layers[0].mlp.experts.down_proj.grad.any()


def test_generation_is_greedily_the_same_and_goes_token_by_token(token_BS, calls):
    found = []
    for implementation in ("eager", "sparsemix"):
        model = mixtral(experts_implementation=implementation).eval()
        found.append(model.generate(token_BS[:1], max_new_tokens=12, do_sample=False).tolist())
    assert found[0] == found[1]
    assert calls == ["expert_mlp"] * 2 + ["one_token"] * 2 * 11


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types_are_close_and_stay_narrow(dtype):
    x_TD, index_TK, weight_TK = tokens()
    experts = experts_of()
    expected = experts(x_TD, index_TK, weight_TK)
    x_TD = x_TD.detach().to(dtype).requires_grad_()
    y_TD = experts.to(dtype)(x_TD, index_TK, weight_TK.float())
    y_TD.sum().backward()
    assert y_TD.dtype == x_TD.grad.dtype == experts.down_proj.grad.dtype == dtype
    same(y_TD.double(), expected, "y", 0.05)


def test_autocast_computes_in_its_type_and_trains_the_wide_weights():
    x_TD, index_TK, weight_TK = tokens()
    experts = experts_of().float()
    expected = experts(x_TD.float(), index_TK, weight_TK.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y_TD = experts(x_TD.detach().bfloat16(), index_TK, weight_TK.float())
    y_TD.sum().backward()
    assert y_TD.dtype == torch.bfloat16
    assert experts.gate_up_proj.grad.dtype == torch.float32
    same(y_TD.float(), expected, "y", 0.05)


def test_tokens_of_another_type_than_the_weights_come_back_in_theirs():
    x_TD, index_TK, weight_TK = tokens()
    y_TD = experts_of().float()(x_TD.bfloat16(), index_TK, weight_TK.float())
    assert y_TD.dtype == torch.bfloat16


def test_no_tokens_give_none_and_every_parameter_a_gradient():
    experts = experts_of(bias=True)
    x_TD, index_TK, weight_TK = (tensor[:0] for tensor in tokens())
    y_TD = experts(x_TD, index_TK, weight_TK)
    y_TD.sum().backward()
    assert y_TD.shape == (0, 8)
    assert all((parameter.grad == 0).all() for parameter in experts.parameters())


@pytest.mark.usefixtures("compiler")
def test_it_compiles_whole():
    experts, (x_TD, index_TK, weight_TK) = experts_of(bias=True), tokens()
    compiled = torch.compile(experts, fullgraph=True, backend="aot_eager")
    found = []
    for run in (experts, compiled):
        y_TD = run(x_TD, index_TK, weight_TK)
        found.append([y_TD, *torch.autograd.grad(y_TD.square().sum(), [x_TD, weight_TK, *experts.parameters()])])
    for actual, expected in zip(*found):
        same(actual, expected)


@pytest.mark.usefixtures("compiler")
def test_a_gate_of_the_family_itself_is_refused_in_a_whole_graph():
    experts = experts_of("mish")
    with pytest.raises(Exception, match="activation: must be one that has a name to be compiled"):
        torch.compile(experts, fullgraph=True, backend="eager")(*tokens())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # as PEFT asks
def test_low_rank_adapters_of_the_experts_train(token_BS):
    peft = pytest.importorskip("peft")
    found = []
    for implementation in ("eager", "sparsemix"):
        adapters = peft.LoraConfig(
            r=2, target_modules=[], target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
        )
        model = peft.get_peft_model(mixtral(), adapters)
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        by(model.base_model.model, implementation, token_BS)
        found.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert len(found[0]) == 8
    for name, expected in found[0].items():
        assert expected.any()
        same(found[1][name], expected, name, 1e-5)
