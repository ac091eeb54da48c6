"""Cross-entropy over a large vocabulary, a chunk of tokens at a time, so that T x V logits never exist."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparsemix.checks import check, check_dim
from sparsemix.experts.base import autocast
from sparsemix.kernels import add_product, at_least_float32, fresh, product


def chunked_cross_entropy(
    hidden_TD: Tensor, unembed_VD: Tensor, target_T: Tensor, weight_T: Tensor | None = None, chunk: int | None = None
) -> Tensor:
    """sum_t w_t (-log softmax(W h_t)[target_t]) / sum_t w_t: the weighted mean loss.

    The gradients are computed in forward, chunk by chunk: memory is chunk x V and that of the gradients
    themselves. The softmax is taken in at least float32.

    Args:
        hidden_TD: the decoder's output.
        unembed_VD: the unembedding W.
        target_T: int64, 0 <= target < V, also where the weight is 0.
        weight_T: weights, at least 0; None: all 1. No gradient flows to them.
        chunk: tokens whose logits exist at a time. Few of them are still in a CPU's cache for backward, but each
            chunk also reads and writes the V x D gradient of W: None is 512, and 1024 where D is at least 512.

    Returns:
        Scalar, nats, in at least float32; 0 where all weights are 0.

    >>> chunked_cross_entropy(torch.zeros(3, 2), torch.ones(8, 2), torch.tensor([1, 2, 3])).exp()
    tensor(8.)
    """
    check_dim("unembed_VD", unembed_VD, 1, hidden_TD.shape[-1])
    check_dim("target_T", target_T, 0, hidden_TD.shape[0])
    hidden_TD, unembed_VD = (autocast(hidden_TD.device, tensor) for tensor in (hidden_TD, unembed_VD))
    if chunk is None:
        chunk = 1024 if hidden_TD.shape[1] >= 512 else 512
    check(chunk >= 1, "chunk", "must be at least 1", chunk)
    wide = at_least_float32(hidden_TD.dtype)
    if weight_T is None:
        weight_T = torch.ones_like(target_T, dtype=wide)
    check_dim("weight_T", weight_T, 0, hidden_TD.shape[0])
    total = weight_T.to(wide).sum()
    scale_T = weight_T.to(wide) / torch.where(total > 0, total, 1)
    return _ChunkedCrossEntropy.apply(hidden_TD, unembed_VD, target_T, scale_T, chunk)


@torch.no_grad()
def token_losses(hidden_TD: Tensor, unembed_VD: Tensor, target_T: Tensor, chunk: int = 512) -> Tensor:
    """-log softmax(W h_t)[target_t] of each token, (T,), nats, in at least float32, without gradient."""
    pairs = zip(hidden_TD.split(chunk), target_T.split(chunk))
    losses = [_loss_and_log_probs(hidden, unembed_VD, target)[0] for hidden, target in pairs]
    return torch.cat(losses)


def _loss_and_log_probs(hidden_TD: Tensor, unembed_VD: Tensor, target_T: Tensor) -> tuple[Tensor, Tensor]:
    logits_TV = product(hidden_TD, unembed_VD.T)
    log_probs_TV = logits_TV.to(at_least_float32(logits_TV.dtype)).log_softmax(dim=-1)
    return -log_probs_TV.gather(1, target_T[:, None])[:, 0], log_probs_TV


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Keeps the two gradients instead of the logits: backward only multiplies them."""

    @staticmethod
    def forward(
        ctx: Any, hidden_TD: Tensor, unembed_VD: Tensor, target_T: Tensor, scale_T: Tensor, chunk: int
    ) -> Tensor:
        wants_hidden, wants_unembed = ctx.needs_input_grad[:2]
        dhidden_TD = torch.empty_like(hidden_TD) if wants_hidden else None
        dunembed_VD = fresh(scale_T, *unembed_VD.shape) if wants_unembed else None
        if dunembed_VD is not None and not len(target_T):
            dunembed_VD.zero_()
        loss = scale_T.new_zeros(())
        for start in range(0, len(target_T), chunk):
            rows = slice(start, start + chunk)
            losses, log_probs = _loss_and_log_probs(hidden_TD[rows], unembed_VD, target_T[rows])
            loss += (losses * scale_T[rows]).sum()  # no product that autocast would narrow
            if not (wants_hidden or wants_unembed):
                continue
            dlogits = _dlogits(log_probs, target_T[rows], scale_T[rows]).to(hidden_TD.dtype)
            if dhidden_TD is not None:
                dhidden_TD[rows] = product(dlogits, unembed_VD)
            if dunembed_VD is not None:
                add_product(dunembed_VD, dlogits.T, hidden_TD[rows], first=start == 0)
        ctx.save_for_backward(dhidden_TD, None if dunembed_VD is None else dunembed_VD.to(unembed_VD.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # how the decorator is typed
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        # Most losses are not scaled: then V x D numbers need not be copied. A GPU is not asked, the host would wait.
        as_they_are = grads[0].device.type == "cpu" and grads[0] == 1
        scaled = [
            saved if saved is None or as_they_are else (saved * grads[0]).to(saved.dtype) for saved in ctx.saved_tensors
        ]
        return *scaled, None, None, None


def _dlogits(log_probs_TV: Tensor, target_T: Tensor, scale_T: Tensor) -> Tensor:
    """scale (softmax - onehot), in the memory of the log-probabilities."""
    probs_TV = log_probs_TV.exp_()
    probs_TV[torch.arange(len(target_T), device=target_T.device), target_T] -= 1
    return probs_TV.mul_(scale_T[:, None])
