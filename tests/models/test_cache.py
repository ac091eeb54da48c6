"""A forward with the key-value cache equals one without, however the tokens are cut into pieces."""

from dataclasses import replace

import pytest
import torch
from models.examples import random_tokens, small_decoder

from sparsemix.models import AttentionConfig, LatentAttentionConfig, WindowConfig, YarnConfig

GROUPED = AttentionConfig(
    num_heads=4, num_kv_heads=2, qk_norm="head", rope_scaling=YarnConfig(factor=2, original_context=16)
)
KINDS = [
    {"attention": GROUPED},
    {"attention": replace(GROUPED, sinks=True), "window": WindowConfig(size=3, layers=(0, 2))},
    {"attention": LatentAttentionConfig(num_heads=4, kv_rank=7, nope_dim=4, rope_dim=4, value_dim=6)},
    {
        "attention": LatentAttentionConfig(num_heads=4, kv_rank=7, nope_dim=4, rope_dim=4, value_dim=6),
        "window": WindowConfig(size=2),
        "without_ffn": (1,),
        "residual_scale": 0.5,
        "embedding_scale": 2.0,
    },
]


@pytest.mark.parametrize("changes", KINDS)
@pytest.mark.parametrize("cuts", [[9], [1] * 9, [4, 1, 1, 1, 2], [3, 6]])
@pytest.mark.parametrize("padding", [0, 2])
def test_pieces_equal_the_whole(cuts, padding, changes):
    decoder = small_decoder(**changes)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.endswith("sink_H"):
                parameter.copy_(torch.tensor([-1.0, 0.0, 1.0, 2.0]))
    tokens_BS = random_tokens(3, 9)
    valid_BS = None
    if padding:
        valid_BS = torch.ones(3, 9, dtype=torch.bool)
        valid_BS[0, :padding] = False
    whole = decoder(tokens_BS, valid_BS=valid_BS).hidden_BSD
    cache = decoder.new_cache(3, 12)
    pieces, start = [], 0
    for length in cuts:
        part = slice(start, start + length)
        valid = None if valid_BS is None else valid_BS[:, part]
        pieces.append(decoder(tokens_BS[:, part], valid_BS=valid, cache=cache).hidden_BSD)
        start += length
    real = slice(None) if valid_BS is None else valid_BS
    torch.testing.assert_close(torch.cat(pieces, 1)[real], whole[real], atol=1e-12, rtol=0)
    assert cache.length == 9


def test_size_and_dtype():
    cache = small_decoder(dtype=torch.bfloat16).new_cache(2, 10)
    assert cache.layers[0].kept[0].dtype == torch.bfloat16
    assert cache.num_bytes == 3 * 2 * 2 * 2 * 10 * 4 * 2  # layers, keys and values, batch, heads, length, size, bytes
