"""Latent attention against its definition, in all its forms, and what its cache holds."""

import pytest
import torch
from cases import gradients, same
from models.examples import Adapted, random_tokens, small_decoder
from models.reference_attention import latent_attention

from sparsemix.models import DepthConfig, LatentAttentionConfig
from sparsemix.models.masks import attention_mask

SIZES = {"num_heads": 3, "kv_rank": 7, "nope_dim": 5, "rope_dim": 4, "value_dim": 6}
KINDS = [{}, {"q_rank": 5}, {"q_rank": 5, "bias": True, "norm_eps": 0.1}, {"value_dim": 12}]


def random_attention(config, dim=10):
    generator = torch.Generator().manual_seed(0)
    attention = config.build(dim, norm_eps=1e-3).double()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    x_BSD = torch.randn(2, 6, dim, generator=generator, dtype=torch.float64, requires_grad=True)
    return attention, x_BSD


def angles(config, positions):
    return config.rotary(torch.tensor([positions]), 10, torch.float64)


@pytest.mark.parametrize("changes", KINDS)
def test_output_and_gradients_are_those_of_the_definition(changes):
    config = LatentAttentionConfig(**SIZES | changes)
    attention, x_BSD = random_attention(config)
    weights = dict(attention.named_parameters())
    assert all(("bias" in name) <= config.bias for name in weights)
    ours = attention(x_BSD, angles(config, range(6)), attention_mask(6, 6, x_BSD.device))
    sizes = {"heads": 3, "nope": 5, "rope": 4, "value": config.value_dim, "rank": 7}
    eps = 1e-3 if config.norm_eps is None else config.norm_eps
    expected = torch.stack([latent_attention(x_SD, weights, **sizes, theta=10_000.0, eps=eps) for x_SD in x_BSD])
    same(ours, expected, tolerance=1e-12)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=expected.dtype)
    leaves = [x_BSD, *weights.values()]
    theirs = gradients((expected * direction).sum(), leaves)
    for our, their in zip(gradients((ours * direction).sum(), leaves), theirs, strict=True):
        same(our, their, "gradient", 1e-10)


@pytest.mark.parametrize("changes", KINDS)
@pytest.mark.parametrize("cuts", [[1] * 6, [4, 1, 1], [2, 3, 1]])
def test_a_token_at_a_time_gives_the_same(changes, cuts):
    config = LatentAttentionConfig(**SIZES | changes)
    attention, x_BSD = random_attention(config)
    whole = attention(x_BSD, angles(config, range(6)), attention_mask(6, 6, x_BSD.device))
    cache, pieces, start = attention.new_cache(2, 6), [], 0
    with torch.no_grad():
        for part in x_BSD.split(cuts, dim=1):
            end = start + part.shape[1]
            mask = attention_mask(part.shape[1], end, x_BSD.device)
            pieces.append(attention(part, angles(config, range(start, end)), mask, cache))
            start = end
    same(torch.cat(pieces, dim=1), whole, tolerance=1e-12)


def test_the_cache_holds_the_narrow_vector_and_one_key_a_token():
    cache = small_decoder(attention=LatentAttentionConfig(**SIZES)).new_cache(2, 10)
    assert cache.num_bytes == 3 * 2 * 10 * (7 + 4) * 8  # layers, batch, length, sizes, bytes


def test_one_token_makes_no_keys_or_values_of_those_before(monkeypatch):
    decoder = small_decoder(attention=LatentAttentionConfig(**SIZES))
    cache = decoder.new_cache(1, 8)
    with torch.no_grad():
        decoder(random_tokens(1, 7), cache=cache)
        monkeypatch.setattr(decoder.blocks[0].attention.key_value_up, "forward", None)
        decoder(random_tokens(1, 1), cache=cache)
        with pytest.raises(TypeError):
            decoder(random_tokens(1, 2), cache=decoder.new_cache(1, 8))


def test_an_adapter_counts_token_by_token_too():
    decoder = small_decoder(attention=LatentAttentionConfig(**SIZES))
    tokens_BS, cache = random_tokens(2, 6), decoder.new_cache(2, 6)
    plain = decoder(tokens_BS).hidden_BSD
    for block in decoder.blocks:
        block.attention.key_value_up = Adapted(block.attention.key_value_up)
    with torch.no_grad():
        whole = decoder(tokens_BS).hidden_BSD
        pieces = [decoder(part, cache=cache).hidden_BSD for part in tokens_BS.split(1, dim=1)]
    assert not torch.allclose(whole, plain, atol=1e-3)
    same(torch.cat(pieces, dim=1), whole, tolerance=1e-12)


def test_in_a_mixture_of_depths():
    decoder = small_decoder(
        attention=LatentAttentionConfig(**SIZES), depth=DepthConfig(capacity=0.5), num_layers=4
    ).eval()
    tokens_BS = random_tokens(3, 9)
    cache = decoder.new_cache(3, 9)
    with torch.no_grad():
        pieces = [decoder(part, cache=cache).hidden_BSD for part in tokens_BS.split([4, 1, 1, 3], dim=1)]
        same(torch.cat(pieces, dim=1), decoder(tokens_BS).hidden_BSD, tolerance=1e-12)


def test_the_part_that_turns_is_of_pairs():
    with pytest.raises(ValueError, match="rope_dim: must be even, since rotary embedding turns pairs, got 5"):
        LatentAttentionConfig(num_heads=2, rope_dim=5)
