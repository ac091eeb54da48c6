"""A decoder beside the plain reference: logits and gradients."""

import torch
from models.examples import random_tokens
from models.reference import decoder_logits


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
