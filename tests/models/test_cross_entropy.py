"""Chunked cross-entropy against PyTorch's own on all the logits at once."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsemix.models import chunked_cross_entropy, token_losses


def example(num_tokens, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    hidden_TD = torch.randn(num_tokens, 6, generator=generator, dtype=dtype, requires_grad=True)
    unembed_VD = torch.randn(11, 6, generator=generator, dtype=dtype, requires_grad=True)
    target_T = torch.randint(11, (num_tokens,), generator=generator)
    weight_T = torch.rand(num_tokens, generator=generator, dtype=torch.float64)
    return hidden_TD, unembed_VD, target_T, weight_T


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 25), st.booleans(), st.integers(0, 100))
def test_value_and_gradients(num_tokens, chunk, weighted, seed):
    hidden_TD, unembed_VD, target_T, weight_T = example(num_tokens, seed)
    ours = chunked_cross_entropy(hidden_TD, unembed_VD, target_T, weight_T if weighted else None, chunk)
    loss_T = F.cross_entropy(hidden_TD @ unembed_VD.T, target_T, reduction="none")
    theirs = (loss_T * weight_T).sum() / weight_T.sum() if weighted else loss_T.mean()
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    leaves = (hidden_TD, unembed_VD)
    for our, their in zip(torch.autograd.grad(3 * ours, leaves), torch.autograd.grad(3 * theirs, leaves)):
        torch.testing.assert_close(our, their, atol=1e-12, rtol=0)


def test_gradcheck():
    hidden_TD, unembed_VD, target_T, weight_T = example(7)
    torch.autograd.gradcheck(
        lambda hidden, unembed: chunked_cross_entropy(hidden, unembed, target_T, weight_T, chunk=3),
        (hidden_TD, unembed_VD),
    )


def test_one_gradient_alone():
    hidden_TD, unembed_VD, target_T, _ = example(5)
    both = torch.autograd.grad(chunked_cross_entropy(hidden_TD, unembed_VD, target_T), (hidden_TD, unembed_VD))
    (hidden,) = torch.autograd.grad(chunked_cross_entropy(hidden_TD, unembed_VD.detach(), target_T), hidden_TD)
    (unembed,) = torch.autograd.grad(chunked_cross_entropy(hidden_TD.detach(), unembed_VD, target_T), unembed_VD)
    assert torch.equal(hidden, both[0])
    assert torch.equal(unembed, both[1])


def test_no_token_counts():
    hidden_TD, unembed_VD, target_T, weight_T = example(4)
    loss = chunked_cross_entropy(hidden_TD, unembed_VD, target_T, torch.zeros_like(weight_T))
    loss.backward()
    assert loss.item() == 0
    assert hidden_TD.grad.abs().max() == 0


def test_bfloat16_takes_the_softmax_in_float32():
    hidden_TD, unembed_VD, target_T, _ = example(40, dtype=torch.bfloat16)
    loss = chunked_cross_entropy(hidden_TD, unembed_VD, target_T, chunk=16)
    loss.backward()
    assert loss.dtype == torch.float32
    assert hidden_TD.grad.dtype == unembed_VD.grad.dtype == torch.bfloat16
    expected = F.cross_entropy((hidden_TD @ unembed_VD.T).float(), target_T)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)


def test_memory_holds_no_logits_of_all_tokens():
    shapes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            shapes.extend(t.numel() for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, torch.Tensor))
            return out

    generator = torch.Generator().manual_seed(0)
    hidden_TD = torch.randn(64, 4, generator=generator, requires_grad=True)
    unembed_VD = torch.randn(100, 4, generator=generator, requires_grad=True)
    with Watch():
        chunked_cross_entropy(hidden_TD, unembed_VD, torch.arange(64), chunk=8).backward()
    assert max(shapes) == 8 * 100


def test_token_losses():
    hidden_TD, unembed_VD, target_T, _ = example(9)
    expected = F.cross_entropy(hidden_TD @ unembed_VD.T, target_T, reduction="none")
    losses_T = token_losses(hidden_TD, unembed_VD, target_T, chunk=4)
    torch.testing.assert_close(losses_T, expected.detach(), atol=1e-12, rtol=0)
    assert not losses_T.requires_grad
    assert token_losses(hidden_TD[:0], unembed_VD, target_T[:0]).shape == (0,)


def test_refuses():
    hidden_TD, unembed_VD, target_T, _ = example(4)
    with pytest.raises(ValueError, match=r"target_T: size of axis 0 must be 4, got shape \(3,\)"):
        chunked_cross_entropy(hidden_TD, unembed_VD, target_T[:3])
    with pytest.raises(ValueError, match=r"unembed_VD: size of axis 1 must be 6, got shape \(6, 11\)"):
        chunked_cross_entropy(hidden_TD, unembed_VD.T, target_T)
    with pytest.raises(ValueError, match="chunk: must be at least 1, got 0"):
        chunked_cross_entropy(hidden_TD, unembed_VD, target_T, chunk=0)
