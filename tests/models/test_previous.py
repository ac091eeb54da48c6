"""The routing of the mixture below reaches routers that read it, and is kept for no others."""

import weakref

import pytest
import torch
from models.examples import MOE, RESIDUAL, random_tokens, small_decoder
from models.test_decoder import loss_gradients

STACKED = {"num_layers": 4, "dense_first": 0}


def test_each_mixture_is_given_the_routing_of_the_last_one_below():
    decoder = small_decoder(moe=RESIDUAL, num_layers=5, dense_first=0, moe_every=2)  # 1 and 3 are mixtures
    given = []
    for layer in (1, 3):
        router = decoder.blocks[layer].ffn.router
        router.register_forward_pre_hook(lambda module, arguments: given.append(arguments[2]))
    first, _ = decoder(random_tokens(2, 4)).collected
    assert given[0] is None
    assert given[1] is not None
    assert given[1].logits_TE is first.logits_TE


def test_activation_checkpointing_changes_no_gradient():
    decoder = small_decoder(moe=RESIDUAL, **STACKED)
    with torch.no_grad():
        for block in decoder.blocks[1:]:
            block.ffn.router.residual_E.fill_(0.7)
    decoder.blocks[0].ffn.router.residual_E.requires_grad_(False)  # nothing below it
    plain, again = (gradients(decoder, activation_checkpointing) for activation_checkpointing in (False, True))
    assert plain["blocks.1.ffn.router.residual_E"].abs().sum() > 0
    assert all(torch.equal(gradient, again[name]) for name, gradient in plain.items())


def gradients(decoder, activation_checkpointing):
    return loss_gradients(decoder, collect=lambda *_: None, activation_checkpointing=activation_checkpointing)


@pytest.mark.parametrize("cuts", [[7], [1] * 7, [3, 1, 1, 2]])
def test_cached_decoding_equals_the_whole(cuts):
    decoder = small_decoder(moe=RESIDUAL, **STACKED)
    with torch.no_grad():
        for block in decoder.blocks:
            block.ffn.router.residual_E.fill_(2.0)
    tokens_BS = random_tokens(2, 7)
    cache = decoder.new_cache(2, 7)
    pieces = [decoder(part, cache=cache).hidden_BSD for part in tokens_BS.split(cuts, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, 1), decoder(tokens_BS).hidden_BSD, atol=1e-12, rtol=0)


@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_nothing_is_kept_for_routers_that_read_nothing(activation_checkpointing):
    assert alive(MOE, activation_checkpointing) == ([0, 0, 0, 0], 0)


def test_routers_that_read_keep_it_until_backward():
    assert alive(RESIDUAL, activation_checkpointing=True) == ([0, 1, 2, 3], 3)


def alive(moe, activation_checkpointing):
    """How many routings of mixtures below are still alive at each mixture, and how many after the forward pass."""
    seen, counts = [], []

    def collect(layer, routing):
        counts.append(count())
        seen.append(weakref.ref(routing.logits_TE))

    def count():
        return sum(logits() is not None for logits in seen)

    decoder = small_decoder(moe=moe, **STACKED)
    output = decoder(random_tokens(2, 4), collect=collect, activation_checkpointing=activation_checkpointing)
    assert output.hidden_BSD.requires_grad
    return counts, count()
