"""Training throughput of the decoder against transformers' Mixtral of the same shape, weights and loss, on a CPU.

Both compute in float32, eagerly, with `scaled_dot_product_attention`, and with the Switch balance loss on (each in its
own normalisation). All of transformers' ways to run experts are timed, and the fastest is what ours is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from decoders import DecoderShape, give_weights, our_decoder, quieten_transformers, their_mixtral
from harness import arguments, claim, must_agree, ratio, save, spread, take_turns
from torch import Tensor, nn
from transformers import MixtralForCausalLM

from sparsemix import SwitchLoss, balance_loss
from sparsemix.models import Decoder, chunked_cross_entropy

BALANCE = 0.01
IMPLEMENTATIONS = ("grouped_mm", "eager", "batched_mm")
MEMORY = 2**30
"""Bytes that `batched_mm` may gather: it copies a whole expert for each edge of each layer."""


class Shape(NamedTuple):
    """Of a model and its batch."""

    model: DecoderShape
    batch: int

    @property
    def tokens(self) -> int:
        """In a batch."""
        return self.batch * self.model.context

    @property
    def batched_mm_bytes(self) -> int:
        """What `batched_mm` gathers and keeps for backward."""
        return 4 * self.model.layers * self.tokens * self.model.k * self.model.expert_numbers

    def __str__(self) -> str:
        model = self.model
        return f"d={model.dim} F={model.hidden} E={model.experts} k={model.k} V={model.vocab} T={self.tokens}"


SHAPES = (
    Shape(DecoderShape(256, 512, 8, 2, layers=4, heads=4, kv_heads=4, vocab=4096, context=256), batch=4),
    Shape(DecoderShape(128, 128, 32, 4, layers=4, heads=4, kv_heads=2, vocab=4096, context=256), batch=8),
    Shape(DecoderShape(512, 1024, 8, 2, layers=2, heads=8, kv_heads=4, vocab=8192, context=256), batch=4),
    Shape(DecoderShape(64, 48, 64, 4, layers=2, heads=4, kv_heads=4, vocab=4096, context=128), batch=32),
)
TOY = (Shape(DecoderShape(16, 8, 4, 2, layers=1, heads=2, kv_heads=1, vocab=50, context=8), batch=2),)


class Contestant(NamedTuple):
    """A model and its loss on the batch, with or without the balance loss."""

    model: nn.Module
    loss: Callable[[bool], Tensor]

    def gradients(self) -> None:
        """Forward and backward."""
        self.model.zero_grad()
        self.loss(True).backward()

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Forward, backward and optimiser."""
        self.gradients()
        optimizer.step()

    def loss_and_gradient_norm(self) -> tuple[float, float]:
        """Of the cross-entropy alone, by which it is checked that all compute the same."""
        self.model.zero_grad()
        loss = self.loss(False)
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        return loss.item(), norm.item()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every shape and write train_throughput.json."""
    settings = arguments("Training throughput against transformers' Mixtral", argv)
    quieten_transformers()
    measured = [measure(shape, settings.rounds) for shape in (TOY if settings.toy else SHAPES)]
    save("train_throughput", {"balance_loss": "on in both", "shapes": measured}, settings.out)


def measure(shape: Shape, rounds: int) -> dict[str, Any]:
    """Time one shape without and with the optimiser."""
    print(shape, flush=True)
    contestants = build(shape)
    # At rate 0 the arithmetic is the same, while weights, and so the load of each expert, stay equal for all.
    optimizers = {
        name: torch.optim.AdamW(one.model.parameters(), lr=0.0, fused=True) for name, one in contestants.items()
    }
    gradients = take_turns({name: one.gradients for name, one in contestants.items()}, rounds)
    steps = take_turns(
        {name: lambda name=name: contestants[name].step(optimizers[name]) for name in contestants}, rounds
    )
    return {
        "shape": {**shape.model._asdict(), "batch": shape.batch},
        "not_run": [f"transformers {name}" for name in IMPLEMENTATIONS if f"transformers {name}" not in contestants],
        "forward_backward": compare(f"decoder ({shape}), forward and backward", gradients, shape.tokens),
        "forward_backward_adamw": compare(f"decoder ({shape}), forward, backward and AdamW", steps, shape.tokens),
    }


def build(shape: Shape) -> dict[str, Contestant]:
    """Ours, and transformers' in each way that fits into memory, with equal weights and the same batch.

    Raises:
        ValueError: they do not compute the same.
    """
    generator = torch.Generator().manual_seed(0)
    tokens_BS, targets_BS = torch.randint(shape.model.vocab, (2, shape.batch, shape.model.context), generator=generator)
    ours = our_decoder(shape.model).train()
    contestants = {"sparsemix": Contestant(ours, our_loss(ours, tokens_BS, targets_BS))}
    for name in IMPLEMENTATIONS:
        if name == "batched_mm" and shape.batched_mm_bytes > MEMORY:
            continue
        theirs = their_mixtral(shape.model, name, use_cache=False, router_aux_loss_coef=BALANCE).train()
        give_weights(ours, theirs, share=False)
        contestants[f"transformers {name}"] = Contestant(theirs, their_loss(theirs, tokens_BS, targets_BS))
    expected = contestants["sparsemix"].loss_and_gradient_norm()
    for name, one in contestants.items():
        must_agree(f"loss and gradient of {name}", expected, one.loss_and_gradient_norm(), 1e-4)
    return contestants


def our_loss(decoder: Decoder, tokens_BS: Tensor, targets_BS: Tensor) -> Callable[[bool], Tensor]:
    """Cross-entropy, and the balance loss if asked for."""

    def loss(balanced: bool) -> Tensor:
        output = decoder(tokens_BS)
        cross_entropy = chunked_cross_entropy(output.hidden_BSD.flatten(0, 1), decoder.unembed_VD, targets_BS.flatten())
        if not balanced:
            return cross_entropy
        return cross_entropy + balance_loss(output.collected, [SwitchLoss(weight=BALANCE)])

    return loss


def their_loss(mixtral: MixtralForCausalLM, tokens_BS: Tensor, targets_BS: Tensor) -> Callable[[bool], Tensor]:
    """The same; `shift_labels` are targets that need no shift, so that both predict as many tokens."""
    return lambda balanced: (
        mixtral(tokens_BS, labels=targets_BS, shift_labels=targets_BS, output_router_logits=balanced).loss
    )


def compare(what: str, seconds: dict[str, list[float]], tokens: int) -> dict[str, Any]:
    """Tokens a second of each, and ours over the fastest other."""
    speeds = {name: spread([tokens / one for one in taken]) for name, taken in seconds.items()}
    others = {name: found["median"] for name, found in speeds.items() if name != "sparsemix"}
    fastest = max(others, key=lambda name: others[name])
    found = ratio(seconds[fastest], seconds["sparsemix"])
    return {"tokens_per_second": speeds, **claim(f"{what}: tokens/s over {fastest}", found, at_least=1.0)}


if __name__ == "__main__":
    main()
