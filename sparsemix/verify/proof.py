"""All checks of a layer or of a decoder, in the order in which the table shows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparsemix.balance import Loss
from sparsemix.experts import ConcatExperts, ModuleExperts
from sparsemix.kernels import BackendName
from sparsemix.layer import MoE
from sparsemix.models import Decoder, evaluating
from sparsemix.verify.backends import BACKENDS, check_backends
from sparsemix.verify.differences import check_derivatives
from sparsemix.verify.finding import Finding
from sparsemix.verify.influence import check_decoder_influence, check_layer_influence
from sparsemix.verify.layer import check_layer, check_router
from sparsemix.verify.learning import decoder_learning, experts_learn, layer_learning, router_learns
from sparsemix.verify.losses import check_losses
from sparsemix.verify.situations import Subject, Tokens
from sparsemix.verify.step import Step, check_step


def verify_layer(subject: Subject, backends: Sequence[BackendName] = BACKENDS) -> Iterator[Finding]:
    """All that can be proven of a mixture alone."""
    yield from _mathematics(subject, backends)
    learning = layer_learning(subject)
    yield router_learns(learning)
    yield experts_learn(learning)


def verify_decoder(
    decoder: Decoder,
    tokens_BS: Tensor,
    losses: Sequence[Loss],
    *,
    layers: Sequence[int] | None = None,
    step: Step | None = None,
    backends: Sequence[BackendName] = BACKENDS,
) -> Iterator[Finding]:
    """All that can be proven of a decoder; of a dense one, what does not speak of experts.

    Args:
        decoder: in float32.
        tokens_BS: text, or random tokens where there is no tokenizer.
        losses: the balance losses it is trained with.
        layers: the blocks whose mixtures are taken apart; None: all.
        step: a step of its training; None: none is taken.
        backends: who computes the experts.
    """
    wanted = {f"block {layer}" for layer in (decoder.config.moe_layers if layers is None else layers)}
    for subject in subjects(decoder, tokens_BS, losses):
        if subject.where in wanted:
            yield from _mathematics(subject, backends)
    learnings = [one for one in decoder_learning(decoder, tokens_BS, losses) if one.where in wanted]
    for learning in learnings:
        yield router_learns(learning)
        yield experts_learn(learning)
    yield from check_decoder_influence(decoder, tokens_BS)
    if step is not None:
        yield from check_step(decoder, tokens_BS, step, learnings)


def subjects(decoder: Decoder, tokens_BS: Tensor, losses: Sequence[Loss]) -> Iterator[Subject]:
    """The mixtures of a decoder, each with the hidden states that these tokens bring to it."""
    inputs = _inputs(decoder, tokens_BS)
    for layer in decoder.config.moe_layers:
        moe = cast(MoE, decoder.blocks[layer].ffn)
        own = (inputs[layer],) if layer in inputs else ()
        yield Subject(moe, f"block {layer}", (decoder.config.dim,), tokens_BS.numel(), tuple(losses), own)


def _mathematics(subject: Subject, backends: Sequence[BackendName]) -> Iterator[Finding]:
    """What a mixture computes, whatever it learns; mixtures inside its experts too."""
    yield check_router(subject)
    yield from check_backends(subject, backends)
    yield check_layer(subject)
    yield check_derivatives(subject)
    yield from check_losses(subject)
    yield from check_layer_influence(subject)
    for number, moe in enumerate(_inside(subject.moe.experts)):
        where = f"{subject.where}, mixture {number} inside"
        yield from _mathematics(subject._replace(moe=moe, where=where, own=()), backends)


def _inside(experts: Any) -> list[MoE]:
    if isinstance(experts, ConcatExperts):
        return [moe for part in experts.parts for moe in _inside(part)]
    return [one for one in experts.experts if isinstance(one, MoE)] if isinstance(experts, ModuleExperts) else []


@torch.no_grad()
def _inputs(decoder: Decoder, tokens_BS: Tensor) -> dict[int, Tokens]:
    """What each mixture is called with; seen by a hook, so that the decoder runs as it always does."""
    found: dict[int, Tokens] = {}

    def watch(layer: int) -> Any:
        def see(module: nn.Module, args: tuple[Tensor], kwargs: dict[str, Any]) -> None:
            found[layer] = Tokens("hidden states", args[0].flatten(0, 1), kwargs["info"], kwargs["previous"])

        return see

    handles = [
        cast(MoE, decoder.blocks[layer].ffn).register_forward_pre_hook(watch(layer), with_kwargs=True)
        for layer in decoder.config.moe_layers
    ]
    try:
        with evaluating(decoder):
            decoder(tokens_BS)
    finally:
        for handle in handles:
            handle.remove()
    return found
