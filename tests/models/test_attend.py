"""The softmax of attention against one query of one head at a time, with every gradient."""

import pytest
import torch
from cases import gradients, same
from models.reference_attention import softmax_attention

from sparsemix.models.attend import attend
from sparsemix.models.masks import attention_mask

CPU = torch.device("cpu")


def example(num_queries, num_keys, *, kv_heads=2, size=6, value_size=6):
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 4, num_queries, size), (2, kv_heads, num_keys, size), (2, kv_heads, num_keys, value_size), (4,))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def compare(mask, allowed, tensors, with_sink):
    query, key, value, sink_H = tensors
    sink_H = sink_H if with_sink else None
    ours = attend(query, key, value, mask, 0.7, sink_H)
    expected = softmax_attention(query, key, value, allowed, 0.7, sink_H)
    same(ours, expected, tolerance=1e-12)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=expected.dtype)
    leaves = tensors if with_sink else tensors[:3]
    theirs = gradients((expected * direction).sum(), leaves)
    for our, their in zip(gradients((ours * direction).sum(), leaves), theirs, strict=True):
        same(our, their, "gradient", 1e-11)


@pytest.mark.parametrize("with_sink", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize(("num_queries", "num_keys"), [(5, 5), (1, 1), (1, 5), (3, 5)])
@pytest.mark.parametrize("window", [None, 2])
def test_softmax_over_the_keys_seen_and_the_sink(num_queries, num_keys, kv_heads, with_sink, window):
    mask = attention_mask(num_queries, num_keys, CPU, window=window)
    before = num_keys - num_queries

    def allowed(_, q, k):
        return k <= before + q and (window is None or k > before + q - window)

    compare(mask, allowed, example(num_queries, num_keys, kv_heads=kv_heads), with_sink)


@pytest.mark.parametrize("num_queries", [1, 4])
@pytest.mark.parametrize("with_sink", [False, True])
def test_padding_is_not_seen(num_queries, with_sink):
    valid_BS = torch.tensor([[False, False, True, True], [True, True, True, True]])
    mask = attention_mask(num_queries, 4, CPU, valid_BS=valid_BS)

    def allowed(b, q, k):
        own = 4 - num_queries + q
        return k == own or (k <= own and bool(valid_BS[b, k]))

    compare(mask, allowed, example(num_queries, 4), with_sink)


@pytest.mark.parametrize("value_size", [2, 9])
def test_values_may_have_another_size_than_keys(value_size):
    compare(attention_mask(4, 4, CPU), lambda _, q, k: k <= q, example(4, 4, value_size=value_size), with_sink=False)


def test_a_sink_takes_all_weight_or_none():
    query, key, value, sink_H = (tensor.detach() for tensor in example(4, 4))
    mask = attention_mask(4, 4, CPU)
    same(attend(query, key, value, mask, 1.0, sink_H - 1e4), attend(query, key, value, mask, 1.0))
    assert attend(query, key, value, mask, 1.0, sink_H + 1e4).abs().max() < 1e-12


@pytest.mark.parametrize("num_queries", [1, 5])
def test_sinks_in_bfloat16(num_queries):
    tensors = [tensor.detach() for tensor in example(num_queries, 5)]
    mask = attention_mask(num_queries, 5, CPU)
    narrow = [tensor.to(torch.bfloat16) for tensor in tensors]
    ours = attend(*narrow[:3], mask, 0.5, narrow[3])
    assert ours.dtype == torch.bfloat16
    expected = attend(*(tensor.double() for tensor in narrow[:3]), mask, 0.5, narrow[3].double())
    torch.testing.assert_close(ours.double(), expected, atol=0.02, rtol=0.02)
