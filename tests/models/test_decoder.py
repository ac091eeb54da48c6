"""The decoder against a plain reference, its masks, its outputs and its errors."""

import copy
from dataclasses import replace

import pytest
import torch
from models.examples import MOE, RESIDUAL, Adapted, random_tokens, small_config, small_decoder
from models.reference import decoder_logits
from pydantic import ValidationError

from sparsemix.config import from_json, to_json
from sparsemix.experts import GLUExpertsConfig, ModuleExpertsConfig
from sparsemix.layer import MoE
from sparsemix.models import (
    AttentionConfig,
    DecoderConfig,
    DepthConfig,
    LatentAttentionConfig,
    WindowConfig,
    chunked_cross_entropy,
)
from sparsemix.routers import CapacityConfig, SwitchRouterConfig, TopKRouterConfig
from sparsemix.routing import Routing
from sparsemix.soft import SoftMoEConfig


def reference_logits(decoder, tokens_S, allowed, positions, choose=None):
    config = decoder.config
    return decoder_logits(
        tokens_S,
        decoder.state_dict(keep_vars=True),
        layers=config.num_layers,
        heads=config.attention.num_heads,
        kv_heads=config.attention.kv_heads,
        k=None if config.moe is None else config.moe.router.k,
        theta=config.attention.rope_theta,
        eps=config.norm_eps,
        allowed=allowed,
        positions=positions,
        choose=choose,
    )


def loss_gradients(decoder, **arguments):
    tokens_BS = random_tokens(2, 9)
    decoder.zero_grad()
    hidden_TD = decoder(tokens_BS, **arguments).hidden_BSD.flatten(0, 1)
    chunked_cross_entropy(hidden_TD, decoder.unembed_VD, tokens_BS.flatten().roll(1)).backward()
    return {name: parameter.grad.clone() for name, parameter in decoder.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_embeddings": True},
        {"moe": None},
        {"moe": None, "ffn": None},
        {"moe": RESIDUAL},
        {"moe": RESIDUAL, "num_layers": 5, "dense_first": 0, "moe_every": 2},
    ],
)
def test_logits_and_gradients_equal_the_reference(changes):
    expect_reference(small_decoder(**changes))


@pytest.mark.parametrize("layers", [None, (0, 2), (1,), ()])
def test_blocks_with_a_window_see_what_is_just_before(layers):
    decoder = small_decoder(moe=None, window=WindowConfig(size=3, layers=layers))
    windowed = range(3) if layers is None else layers
    reach = sum(2 if layer in windowed else 12 for layer in range(3))
    tokens_BS = random_tokens(1, 12)
    embedded_BSD = decoder.embedding(tokens_BS).detach().requires_grad_()
    decoder.embedding.forward = lambda _: embedded_BSD
    for last in (0, 5, 11):
        (gradient_BSD,) = torch.autograd.grad(decoder(tokens_BS).hidden_BSD[0, last].sum(), embedded_BSD)
        seen = gradient_BSD[0].abs().sum(-1).nonzero().flatten().tolist()
        assert seen == list(range(max(0, last - reach), last + 1))


def test_multipliers_are_those_of_the_definition():
    decoder = small_decoder(moe=None, embedding_scale=3.0, residual_scale=0.3, logit_scale=0.5)
    plain = small_decoder(moe=None)
    with torch.no_grad():
        plain.embedding.weight.mul_(3)
        plain.unembedding.weight.mul_(0.5)
        for block in plain.blocks:
            block.attention.output.weight.mul_(0.3)
            block.ffn.down_DF.mul_(0.3)
    tokens_BS = random_tokens(2, 7)
    ours, theirs = (model.logits(model(tokens_BS).hidden_BSD) for model in (decoder, plain))
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


def test_multipliers_leave_tied_embeddings_tied():
    decoder, plain = (small_decoder(tie_embeddings=True, logit_scale=scale) for scale in (0.25, 1.0))
    tokens_BS = random_tokens(2, 7)
    ours, theirs = (model.logits(model(tokens_BS).hidden_BSD) for model in (decoder, plain))
    torch.testing.assert_close(ours, 0.25 * theirs, atol=1e-12, rtol=1e-12)


def expect_reference(decoder):
    """Logits and all gradients."""
    tokens_BS = random_tokens(2, 7)
    logits_BSV = decoder.logits(decoder(tokens_BS).hidden_BSD)
    expected = torch.stack(
        [reference_logits(decoder, tokens_S, lambda s, t: t <= s, range(7)) for tokens_S in tokens_BS]
    )
    torch.testing.assert_close(logits_BSV, expected, atol=1e-12, rtol=1e-12)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=expected.dtype)
    parameters = dict(decoder.named_parameters())
    unread = {"blocks.1.ffn.router.residual_E"} & parameters.keys()  # the lowest mixture has none below it
    parameters = [parameter for name, parameter in parameters.items() if name not in unread]
    ours = torch.autograd.grad((logits_BSV * direction).sum(), parameters)
    theirs = torch.autograd.grad((expected * direction).sum(), parameters)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, atol=1e-10, rtol=1e-10)


def test_documents_see_only_themselves():
    decoder = small_decoder()
    tokens_S = random_tokens(10)
    document_S = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
    position_S = torch.tensor([0, 1, 2, 0, 1, 2, 3, 0, 1, 2])
    together = decoder(tokens_S[None], document_BS=document_S[None], position_BS=position_S[None]).hidden_BSD[0]
    apart = [decoder(tokens_S[None, document_S == document]).hidden_BSD[0] for document in range(3)]
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-12, rtol=0)
    expected = reference_logits(
        decoder, tokens_S, lambda s, t: t <= s and document_S[s] == document_S[t], position_S.tolist()
    )
    torch.testing.assert_close(decoder.logits(together), expected, atol=1e-12, rtol=0)


def test_left_padding_changes_nothing_and_gives_no_nan():
    decoder = small_decoder()
    tokens_S = random_tokens(6)
    padded_BS = torch.stack([torch.cat([random_tokens(3, seed=5), tokens_S]), random_tokens(9, seed=6)])
    valid_BS = torch.ones(2, 9, dtype=torch.bool)
    valid_BS[0, :3] = False
    output = decoder(padded_BS, valid_BS=valid_BS)
    assert output.hidden_BSD.isfinite().all()
    torch.testing.assert_close(output.hidden_BSD[0, 3:], decoder(tokens_S[None]).hidden_BSD[0], atol=1e-12, rtol=0)
    for routing in output.collected:
        assert not routing.live_N.view(2, 9, -1)[0, :3].any()
    output.hidden_BSD.sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in decoder.parameters())


def test_tokens_are_described_to_the_router():
    decoder = small_decoder()
    tokens_BS = random_tokens(2, 3)
    info = decoder(tokens_BS).collected[0].info
    assert info.id_T.tolist() == tokens_BS.flatten().tolist()
    assert info.sequence_T.tolist() == [0, 0, 0, 1, 1, 1]
    assert info.position_T.tolist() == [0, 1, 2, 0, 1, 2]
    assert info.valid_T is None


@pytest.mark.parametrize(
    ("every", "first", "expected"),
    [(1, 0, (0, 1, 2, 3, 4, 5)), (2, 0, (1, 3, 5)), (1, 2, (2, 3, 4, 5)), (3, 1, (3,)), (1, 6, ())],
)
def test_which_blocks_are_mixtures(every, first, expected):
    config = small_config(num_layers=6, moe_every=every, dense_first=first)
    assert config.moe_layers == expected
    seen = []
    decoder = config.build()
    output = decoder(random_tokens(1, 4), collect=lambda layer, routing: seen.append(layer) or layer * 10)
    assert tuple(seen) == expected
    assert output.collected == tuple(10 * layer for layer in expected)


@pytest.mark.parametrize(
    ("dense", "alone", "expected"),
    [
        ((1,), (), ["dense", "dense", "moe", "moe", "moe"]),
        ((3, 1), (4,), ["dense", "dense", "moe", "dense", "alone"]),
        ((), (0, 2), ["alone", "moe", "alone", "moe", "moe"]),
        ((2,), (2,), ["dense", "moe", "alone", "moe", "moe"]),
    ],
)
def test_some_blocks_are_dense_and_some_are_attention_alone(dense, alone, expected):
    decoder = small_decoder(num_layers=5, dense_layers=dense, without_ffn=alone)
    kinds = {MoE: "moe", type(None): "alone"}
    assert [kinds.get(type(block.ffn), "dense") for block in decoder.blocks] == expected
    assert decoder.config.moe_layers == tuple(layer for layer, kind in enumerate(expected) if kind == "moe")
    expect_reference(decoder)


def test_no_block_need_be_dense():
    small_config(ffn=None, dense_first=0, without_ffn=(1,))
    with pytest.raises(ValueError, match="ffn: must be given where blocks are dense, got none for 1 of 3 blocks"):
        small_config(ffn=None, dense_first=0, without_ffn=(1,), dense_layers=(2,))


def test_an_adapter_of_the_unembedding_is_asked_for_logits():
    decoder = small_decoder()
    hidden_BSD = decoder(random_tokens(1, 4)).hidden_BSD
    plain = decoder.logits(hidden_BSD)
    decoder.unembedding = Adapted(decoder.unembedding)
    torch.testing.assert_close(decoder.logits(hidden_BSD), plain + hidden_BSD.sum(-1, keepdim=True))


def test_without_collect_the_routings_are_returned():
    assert all(isinstance(kept, Routing) for kept in small_decoder()(random_tokens(1, 4)).collected)


LATENT = LatentAttentionConfig(num_heads=2, q_rank=6, kv_rank=5, nope_dim=4, rope_dim=4, value_dim=6)
WITH_SINKS = {"attention": AttentionConfig(num_heads=4, num_kv_heads=2, sinks=True), "window": WindowConfig(size=3)}


@pytest.mark.parametrize("changes", [{}, WITH_SINKS, {"attention": LATENT}])
def test_activation_checkpointing_changes_no_gradient(changes):
    decoder = small_decoder(**changes)

    def collect(layer, routing):
        return routing.probs_TE.square().mean()

    plain = loss_gradients(decoder, collect=collect)
    again = loss_gradients(decoder, collect=collect, activation_checkpointing=True)
    for name, gradient in plain.items():
        assert torch.equal(gradient, again[name]), name


def test_collected_values_carry_gradient_under_activation_checkpointing():
    decoder = small_decoder()
    output = decoder(
        random_tokens(2, 5),
        collect=lambda _, routing: routing.logits_TE.square().mean(),
        activation_checkpointing=True,
    )
    sum(output.collected).backward()
    assert all(block.ffn.router.weight_ED.grad.abs().sum() > 0 for block in decoder.blocks[1:])


def test_bfloat16_keeps_the_router_in_float32():
    decoder = small_decoder(dtype=torch.bfloat16)
    assert decoder.blocks[1].ffn.router.weight_ED.dtype == torch.float32
    output = decoder(random_tokens(2, 5))
    assert output.hidden_BSD.dtype == torch.bfloat16
    assert output.collected[0].logits_TE.dtype == torch.float32
    exact = copy.deepcopy(decoder).float()(random_tokens(2, 5)).hidden_BSD
    assert (output.hidden_BSD.float() - exact).abs().mean() < 0.05


def test_autocast_gives_nearly_the_same_gradients_in_float32():
    decoder = small_decoder(dtype=torch.float32)
    exact = loss_gradients(decoder)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = loss_gradients(decoder)
    for name in ("embedding.weight", "unembedding.weight", "blocks.0.attention.query.weight"):
        assert narrow[name].dtype == torch.float32
        assert (narrow[name] - exact[name]).norm() < 0.1 * exact[name].norm()
        assert not torch.equal(narrow[name], exact[name])


def test_meta_device_and_no_buffers():
    with torch.device("meta"):
        decoder = small_config().build()
    assert all(parameter.is_meta for parameter in decoder.parameters())
    assert not list(decoder.buffers())
    assert decoder.state_dict().keys() == small_decoder().state_dict().keys()


def test_building_again_gives_the_same_weights_whatever_the_global_state():
    torch.manual_seed(1)
    first = small_decoder(seed=3).state_dict()
    torch.manual_seed(2)
    second = small_decoder(seed=3).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("changes", [{}, WITH_SINKS, {"attention": LATENT, "without_ffn": (1,)}])
def test_config_goes_to_json_and_back(changes):
    config = small_config(tie_embeddings=True, moe_every=2, **changes)
    assert from_json(DecoderConfig, to_json(config)) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ffn": None}, "ffn: must be given where blocks are dense, got none for 1 of 3 blocks"),
        ({"ffn": None, "dense_first": 3}, "ffn: must be given where blocks are dense, got none for 3 of 3 blocks"),
        ({"dim": 0}, "greater than or equal to 1"),
        ({"unknown": 1}, "unknown"),
        ({"dense_layers": (3,)}, r"dense_layers: must be in 0..2, the blocks there are, got \(3,\); correct them"),
        ({"without_ffn": (0, -1)}, r"without_ffn: must be in 0..2, .* got \(0, -1\)"),
        ({"window": WindowConfig(size=4, layers=(5,))}, r"window.layers: must be in 0..2, .* got \(5,\)"),
        (
            {"window": WindowConfig(size=4), "depth": DepthConfig()},
            "window: not together with a depth, .* got both in block 1; give window.layers without it",
        ),
    ],
)
def test_config_refuses(changes, message):
    with pytest.raises((ValidationError, ValueError), match=message):
        small_config(**changes)


@pytest.mark.parametrize(
    ("attention", "dim", "message"),
    [
        (AttentionConfig(num_heads=3), 16, "num_heads: must divide dim"),
        (AttentionConfig(num_heads=16), 16, "head_dim: must be even"),
    ],
)
def test_attention_refuses_a_width(attention, dim, message):
    with pytest.raises(ValueError, match=message):
        attention.build(dim)


def test_a_config_refuses_heads_that_do_not_fit():
    with pytest.raises(ValueError, match="num_heads: must divide dim where head_dim is not given, got num_heads=3"):
        small_config(attention=AttentionConfig(num_heads=3))


def test_kv_heads_must_divide_heads():
    with pytest.raises(ValueError, match="num_kv_heads: must divide num_heads, got num_kv_heads=3 with num_heads=4"):
        AttentionConfig(num_heads=4, num_kv_heads=3)


LEAKY = TopKRouterConfig(k=2, capacity=CapacityConfig())
INSIDE_AN_EXPERT = ModuleExpertsConfig(make=lambda dim: replace(MOE, router=LEAKY).build(dim))


@pytest.mark.parametrize(
    ("moe", "where"),
    [
        (replace(MOE, router=LEAKY), "blocks.1.ffn"),
        (replace(MOE, experts=INSIDE_AN_EXPERT), "blocks.1.ffn.experts.experts.0"),
    ],
)
def test_a_router_that_is_not_causal_needs_consent(moe, where):
    message = f"router: must be causal in a decoder, .*, got TopKRouter in {where}; .*set allow_leak=True"
    with pytest.raises(ValueError, match=message):
        small_config(moe=moe).build()
    small_config(moe=moe, allow_leak=True).build()


def test_a_decoder_takes_no_soft_mixture():
    soft = SoftMoEConfig(num_experts=2, experts=GLUExpertsConfig(hidden=4))
    with pytest.raises(ValueError, match=r"moe: .*MoEConfig"):
        small_config(moe=soft)

    class Inside(torch.nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.soft = soft.build(dim)

    with pytest.raises(ValueError, match=r"router: must be causal in a decoder, .*, got SoftRouter in blocks.1.ffn"):
        small_config(moe=replace(MOE, experts=ModuleExpertsConfig(make=Inside))).build()


def test_a_capacity_that_is_causal_needs_none():
    assert small_config(moe=replace(MOE, router=SwitchRouterConfig())).build().blocks[1].ffn.router.causal


def test_attention_alone_is_a_decoder():
    decoder = small_decoder(moe=None, ffn=None)
    assert not any("ffn" in name for name in decoder.state_dict())
    output = decoder(random_tokens(2, 5), activation_checkpointing=True)
    assert output.collected == ()
    output.hidden_BSD.square().sum().backward()
    assert all(parameter.grad is not None for parameter in decoder.blocks.parameters())


def test_forward_refuses():
    decoder = small_decoder(context=8, moe=MOE)
    with pytest.raises(ValueError, match="tokens_BS: at most context=8 tokens, got 9; shorten"):
        decoder(random_tokens(1, 9))
    with pytest.raises(ValueError, match=r"tokens_BS: must be \(batch, sequence\), got shape \(4,\)"):
        decoder(random_tokens(4))
    document_BS = torch.zeros(1, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="document_BS: not together with a cache"):
        decoder(random_tokens(1, 4), document_BS=document_BS, cache=decoder.new_cache(1, 8))
    cache = decoder.new_cache(1, 4)
    with pytest.raises(ValueError, match="cache: holds 4 tokens, got 5"):
        decoder(random_tokens(1, 5), cache=cache)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PyTorch's compiler trips over its own deprecations
@pytest.mark.parametrize("changes", [{"moe": None}, {}, {"moe": None} | WITH_SINKS, {"moe": None, "attention": LATENT}])
def test_compiles_and_gives_the_same(changes):
    decoder = small_decoder(dtype=torch.float32, **changes)
    compiled = torch.compile(decoder, backend="aot_eager", fullgraph="moe" in changes)
    expected = loss_gradients(decoder)
    hidden_BSD = compiled(random_tokens(2, 9)).hidden_BSD
    torch.testing.assert_close(hidden_BSD, decoder(random_tokens(2, 9)).hidden_BSD, atol=1e-6, rtol=1e-5)
    decoder.zero_grad()
    target_T = random_tokens(2, 9).flatten().roll(1)
    chunked_cross_entropy(hidden_BSD.flatten(0, 1), decoder.unembed_VD, target_T).backward()
    ours = {name: parameter.grad for name, parameter in decoder.named_parameters()}
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PyTorch's compiler trips over its own deprecations
def test_compiled_for_one_length_it_takes_others():
    torch.compiler.reset()
    torch.use_deterministic_algorithms(False)
    decoder = small_decoder(dtype=torch.float32, moe=MOE)
    compiled = torch.compile(decoder, backend="aot_eager", fullgraph=True)
    for length in (6, 7, 9):
        tokens_BS = random_tokens(2, length)
        torch.testing.assert_close(compiled(tokens_BS).hidden_BSD, decoder(tokens_BS).hidden_BSD, atol=1e-6, rtol=1e-5)
