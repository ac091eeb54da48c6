"""Every check of a decoder, of its checkpoint and of its training finds the fault that it is there for."""

import pytest
import torch
from verify.examples import DIM, LAYER, decoder, decoder_config, failed, passed

from sparsemix import CapacityConfig, DepthConfig, GLUExpertsConfig, MoEConfig, TopKRouterConfig
from sparsemix.models import LatentAttentionConfig, WindowConfig
from sparsemix.tensors import Held
from sparsemix.verify import check_metrics, check_tensors, some_tokens, verify_decoder
from sparsemix.verify.influence import check_decoder_influence
from sparsemix.verify.learning import decoder_learning, experts_learn, router_learns
from sparsemix.verify.step import check_step


def tokens(length: int = 12):
    return some_tokens(40, 2 * length)


def sgd(decoder, tokens_BS, skip=""):
    """A step down the gradient of everything whose name does not have this in it."""
    loss = decoder.logits(decoder(tokens_BS).hidden_BSD).logsumexp(-1).mean()
    loss.backward()
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if parameter.grad is not None and not (skip and skip in name):
                parameter -= 0.1 * parameter.grad


def spoil(module, **methods):
    module.__class__ = type(type(module).__name__, (type(module),), methods)


def test_a_sound_decoder_passes_every_check():
    found = list(verify_decoder(decoder(), tokens(), LAYER.router.losses(6), step=sgd, backends=["cpu"]))
    assert passed(found), failed(found)
    assert {row.where for row in found} == {"block 0", "block 1", "model"}
    assert {"router", "layer", "cache", "optimiser step", "experts learn"} <= {row.check for row in found}


def test_only_the_blocks_asked_for_are_taken_apart():
    found = list(verify_decoder(decoder(), tokens(), (), layers=[1], step=sgd, backends=["cpu"]))
    assert {row.where for row in found} == {"block 1", "model"}


@pytest.mark.parametrize(
    "fields",
    [
        {"depth": DepthConfig(capacity=0.5)},
        {"window": WindowConfig(size=5), "logit_scale": 0.3, "residual_scale": 0.5},
        {
            "attention": LatentAttentionConfig(num_heads=2, kv_rank=8, nope_dim=4, rope_dim=4, value_dim=6),
            "ffn": GLUExpertsConfig(hidden=8),
            "dense_first": 1,
            "tie_embeddings": True,
        },
    ],
    ids=["depth", "window", "latent attention"],
)
def test_decoders_of_other_kinds_pass_too(fields):
    found = list(verify_decoder(decoder(decoder_config(**fields)), tokens(), LAYER.router.losses(6), backends=["cpu"]))
    assert passed(found), failed(found)


def test_a_dense_decoder_gets_the_checks_that_apply():
    found = list(verify_decoder(decoder(decoder_config(None, ffn=GLUExpertsConfig(hidden=8))), tokens(), (), step=sgd))
    assert [row.check for row in found] == ["causality", "batch", "padding", "cache"]
    assert passed(found)


# --- influence --------------------------------------------------------------------------------------------------------


def test_attention_that_looks_ahead_is_found():
    model = decoder()
    own = type(model.blocks[1].attention).forward
    spoil(
        model.blocks[1].attention,
        forward=lambda self, x_BSD, *others: own(self, x_BSD + x_BSD.mean(1, keepdim=True), *others),
    )
    assert "causality" in failed(check_decoder_influence(model, tokens()))


def test_rows_that_mix_are_found():
    model = decoder()
    own = type(model.blocks[0].attention).forward
    spoil(
        model.blocks[0].attention,
        forward=lambda self, x_BSD, *others: own(self, x_BSD + 0.1 * x_BSD.mean(0, keepdim=True), *others),
    )
    assert "batch" in failed(check_decoder_influence(model, tokens()))


def test_a_cache_that_forgets_is_found():
    model = decoder()
    own = type(model.blocks[0].attention).forward

    def forgetful(self, x_BSD, rotary, mask, cache=None):
        if cache is not None and cache.length > 4:
            cache.kept[0][:, :, :1] = 0
        return own(self, x_BSD, rotary, mask, cache)

    spoil(model.blocks[0].attention, forward=forgetful)
    assert failed(check_decoder_influence(model, tokens())) == ["cache"]


def test_padding_that_is_attended_is_found():
    model = decoder()
    own = type(model).forward
    spoil(model, forward=lambda self, tokens_BS, valid_BS=None, **others: own(self, tokens_BS, **others))
    assert failed(check_decoder_influence(model, tokens())) == ["padding"]


def test_what_a_capacity_declares_is_no_fault():
    moe = MoEConfig(
        num_experts=4,
        router=TopKRouterConfig(k=1, normalize=False, capacity=CapacityConfig(factor_eval=0.5)),
        experts=GLUExpertsConfig(hidden=8),
    )
    found = list(check_decoder_influence(decoder(decoder_config(moe)), tokens()))
    assert [(row.check, row.passed) for row in found] == [
        ("causality", True),
        ("batch", None),
        ("padding", None),
        ("cache", None),
    ]


# --- learning ---------------------------------------------------------------------------------------------------------


def test_a_detached_router_is_found_by_the_loss_of_the_task():
    model = decoder()
    own = type(model.blocks[1].ffn.router).forward

    def detached(self, *args):
        routing = own(self, *args)
        return routing._replace(weight_N=routing.weight_N.detach())

    spoil(model.blocks[1].ffn.router, forward=detached)
    found = [router_learns(one) for one in decoder_learning(model, tokens(), LAYER.router.losses(6))]
    assert [row.passed for row in found] == [True, False]
    assert "nothing of the task's gradient arrives" in found[1].detail


def test_experts_that_the_graph_does_not_reach_are_found():
    model = decoder()
    own = type(model.blocks[0].ffn.experts).forward

    def cut_off(self, x_TD, dispatch):
        y_TD, inner = own(self, x_TD, dispatch)
        return y_TD.detach() + 0 * y_TD, inner

    spoil(model.blocks[0].ffn.experts, forward=cut_off)
    found = [experts_learn(one) for one in decoder_learning(model, tokens(), ())]
    assert [row.passed for row in found] == [False, True]


# --- one step ---------------------------------------------------------------------------------------------------------


def stepped(step):
    model = decoder()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = check_step(model, tokens(), step, decoder_learning(model, tokens(), ()))
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    return found


def test_a_step_that_moves_everything_passes_and_happens_on_a_copy():
    assert passed(stepped(sgd))


@pytest.mark.parametrize("forgotten", ["router.weight_ED", "router.bias_E", "experts.down_EDF", "shared"])
def test_a_parameter_that_the_optimiser_forgets_is_found(forgotten):
    found = stepped(lambda model, tokens_BS: sgd(model, tokens_BS, skip=forgotten))
    assert failed(found) == ["optimiser step", "optimiser step"]
    assert forgotten in found[0].detail


def test_one_expert_that_the_optimiser_forgets_is_found():
    def step(model, tokens_BS):
        before = [block.ffn.experts.gate_up_EFD[2].detach().clone() for block in model.blocks]
        sgd(model, tokens_BS)
        with torch.no_grad():
            for block, matrix in zip(model.blocks, before):
                block.ffn.experts.gate_up_EFD[2] = matrix

    found = stepped(step)
    assert failed(found) == ["optimiser step", "optimiser step"]
    assert "expert 2 did not move" in found[0].detail


def test_a_step_into_nan_is_found():
    def step(model, tokens_BS):
        sgd(model, tokens_BS)
        with torch.no_grad():
            model.blocks[0].ffn.router.weight_ED[0, 0] = torch.nan

    assert [row.passed for row in stepped(step)] == [False, True]


# --- checkpoints ------------------------------------------------------------------------------------------------------


def checked(**changes):
    """The checkpoint with tensors replaced; None takes one away."""
    tensors = {name: tensor.clone() for name, tensor in decoder().state_dict().items()}
    for name, change in changes.items():
        tensors[name.replace("__", ".")] = change
    return list(check_tensors(decoder_config(), Held({n: t for n, t in tensors.items() if t is not None})))


EXPERTS = "blocks.0.ffn.experts."


def test_a_whole_checkpoint_passes():
    found = checked()
    assert [row.check for row in found] == ["tensors", "numbers", "zeros", "experts differ"]
    assert all(row.passed for row in found)


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("tensors", {"norm.weight": None}),
        ("tensors", {"another": torch.ones(2)}),
        ("tensors", {"norm.weight": torch.ones(DIM + 1)}),
        ("numbers", {"norm.weight": torch.full((DIM,), torch.nan)}),
        ("numbers", {f"{EXPERTS}down_EDF": torch.randn(6, DIM, 12).index_fill(0, torch.tensor(3), torch.inf)}),
        ("zeros", {"embedding.weight": torch.zeros(40, DIM)}),
        ("zeros", {f"{EXPERTS}down_EDF": torch.randn(6, DIM, 12).index_fill(0, torch.tensor(3), 0)}),
    ],
    ids=["missing", "left over", "shape", "NaN", "infinite", "zeros", "an expert of zeros"],
)
def test_a_damaged_checkpoint_is_found(check, changes):
    assert failed(checked(**changes)) == [check]


def test_two_equal_experts_are_found_only_if_all_of_them_is_equal():
    state = {name: tensor.clone() for name, tensor in decoder().state_dict().items() if name.startswith(EXPERTS)}
    for tensor in state.values():
        tensor[4] = tensor[1]
    found = checked(**state)
    assert failed(found) == ["experts differ"]
    assert "1 and 4 of blocks.0.ffn.experts" in found[-1].detail
    edited = list(check_tensors(decoder_config(), Held({**decoder().state_dict(), **state}), edited=True))
    assert passed(edited)
    assert edited[-1].passed is None
    assert edited[-1].detail.endswith(found[-1].detail)
    state[f"{EXPERTS}gate_up_bias_EF"][4] += 1
    assert passed(checked(**state))


def test_metrics_that_lost_a_number_are_found():
    whole = [{"step": 1, "loss": 2.0, "balance": 0.1}, {"step": 2, "loss": 1.0, "balance": 0.1}]
    assert passed(check_metrics(whole))
    finding = check_metrics([*whole, {"step": 3, "loss": None, "balance": 0.1}])
    assert finding.passed is False
    assert "loss at step 3" in finding.detail
    assert check_metrics([]).passed is None
