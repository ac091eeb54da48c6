"""The decoder against a plain reference, its masks, its outputs and its errors."""

import copy

import pytest
import torch
from models.compare import expect_reference, reference_logits
from models.examples import LATENT, MOE, RESIDUAL, WITH_SINKS, Adapted, random_tokens, small_config, small_decoder

from sparsemix.models import (
    WindowConfig,
    chunked_cross_entropy,
)
from sparsemix.routing import Routing


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


def test_an_adapter_of_the_unembedding_is_asked_for_logits():
    decoder = small_decoder()
    hidden_BSD = decoder(random_tokens(1, 4)).hidden_BSD
    plain = decoder.logits(hidden_BSD)
    decoder.unembedding = Adapted(decoder.unembedding)
    torch.testing.assert_close(decoder.logits(hidden_BSD), plain + hidden_BSD.sum(-1, keepdim=True))


def test_without_collect_the_routings_are_returned():
    assert all(isinstance(kept, Routing) for kept in small_decoder()(random_tokens(1, 4)).collected)


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
