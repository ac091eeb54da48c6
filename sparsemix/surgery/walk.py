"""A stored model run block by block: the weights of one block are in memory at a time, whatever the model's size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from sparsemix.checks import check
from sparsemix.interop.stored import StoredModel
from sparsemix.kernels import at_least_float32
from sparsemix.layer import MoE
from sparsemix.models import Decoder
from sparsemix.models.block import Block, BlockOutput
from sparsemix.models.tokens import Tokens
from sparsemix.routing import Routing
from sparsemix.tensors import TensorSource

M = TypeVar("M", bound=nn.Module)


class Mixed(NamedTuple):
    """What went through the mixture of a block, of one batch."""

    x_TD: Tensor
    """What the mixture was given: behind the norm."""
    y_TD: Tensor
    """What it gave, shared expert and all."""
    routing: Routing


class Step(NamedTuple):
    """One block, with its weights, and what went through it, batch after batch; it is void when the next one comes."""

    block: Block
    """In evaluation, in at least float32."""
    before: list[Tensor]
    """The residual stream (B, S, D) that the block was given."""
    after: list[Tensor]
    """And what it gave."""
    mixed: list[Mixed]
    """What went through its mixture; empty without one."""

    @property
    def layer(self) -> int:
        """The number of the block, from 0."""
        return self.block.layer

    @property
    def moe(self) -> MoE:
        """Its mixture."""
        assert isinstance(self.block.ffn, MoE), "the block has no mixture"
        return self.block.ffn


def walk(model: StoredModel, batches: Sequence[Tensor], device: torch.device | str = "cpu") -> Iterator[Step]:
    """Run all batches through the model, block by block, without gradient; what goes through is `Decoder.forward`'s.

    Beside one block there are in memory the residual stream of all tokens before and after it, and what its mixture
    was given and gave: 4 T D numbers in at least float32.

    Args:
        model: read in order, each tensor once.
        batches: int64 (B, S) token ids; attention stays within a row.
        device: where to compute.
    """
    with torch.no_grad():
        stream, tokens = _embedded(model, batches, device)
        previous: list[Routing | None] = [None] * len(batches)
        for layer in range(model.config.num_layers):
            with torch.device("meta"):
                block = model.config.block(layer)
            filled(block, model.tensors, f"blocks.{layer}.", device)
            step = _run(block, stream, [told[layer] for told in tokens], previous)
            stream = step.after
            yield step
            block.to("meta")  # whoever loops over the steps still holds this one while the next is read
            step.before.clear()
            step.mixed.clear()


def walk_mixtures(model: StoredModel, batches: Sequence[Tensor]) -> Iterator[Step]:
    """The steps of `walk` with a mixture, for statistics over all tokens.

    Raises:
        ValueError: not all tokens go through all mixtures.
    """
    rule, remedy = "must be None, so that mixtures see all tokens", "edit a model without it"
    check(model.config.depth is None, "depth", rule, model.config.depth, remedy)
    return (step for step in walk(model, batches) if step.mixed)


@torch.no_grad()
def final_hidden(model: StoredModel, batches: Sequence[Tensor], device: torch.device | str = "cpu") -> list[Tensor]:
    """What `Decoder.forward` gives of each batch, (B, S, D): the hidden states after the last norm, scaled."""
    last: list[Tensor] = []
    for step in walk(model, batches, device):
        last = step.after
    norm = filled(_outline(model).norm, model.tensors, "norm.", device)
    return [model.config.logit_scale * norm(x_BSD) for x_BSD in last]


def unembedder(model: StoredModel, device: torch.device | str = "cpu") -> Decoder:
    """A decoder whose `logits` can be called, and nothing else."""
    decoder = _outline(model)
    tied = decoder.unembedding is None
    part, prefix = (decoder.embedding, "embedding.") if tied else (decoder.unembedding, "unembedding.")
    filled(cast(nn.Module, part), model.tensors, prefix, device)
    return decoder


def filled(module: M, tensors: TensorSource, prefix: str, device: torch.device | str) -> M:
    """The module, built on the meta device, with tensors of these names; numbers in at least float32, in evaluation.

    Narrower numbers are widened since a CPU without instructions for them is many times slower.
    """
    state = {}
    for name in module.state_dict():
        tensor = tensors.read(prefix + name)
        dtype = at_least_float32(tensor.dtype) if tensor.is_floating_point() else tensor.dtype
        state[name] = tensor.to(device, dtype)
    module.load_state_dict(state, assign=True)
    return module.eval().requires_grad_(False)


def _outline(model: StoredModel) -> Decoder:
    """The decoder without any weights."""
    with torch.device("meta"):
        return Decoder(model.config).eval()


class _Stand(nn.Module):
    """Stands where a block would, and keeps what the block is to be told of its tokens."""

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer, self.ffn = layer, None
        self.told: list[tuple[Tensor, Tokens]] = []

    def forward(self, x_BSD: Tensor, tokens: Tokens, *_: Any) -> BlockOutput:
        self.told.append((x_BSD, tokens))
        return BlockOutput(x_BSD, None, None)


def _embedded(
    model: StoredModel, batches: Sequence[Tensor], device: torch.device | str
) -> tuple[list[Tensor], list[list[Tokens]]]:
    """The residual stream before the first block, and what each block is told, batch by batch.

    The decoder itself does this, so that it is said once how a forward pass begins.
    """
    decoder = _outline(model)
    filled(decoder.embedding, model.tensors, "embedding.", device)
    decoder.norm = cast(Any, nn.Identity())
    stands = [_Stand(layer) for layer in range(len(decoder.blocks))]
    decoder.blocks = cast("Sequence[Block]", nn.ModuleList(stands))
    for tokens_BS in batches:
        decoder(tokens_BS.to(device))
    stream = [x_BSD for x_BSD, _ in stands[0].told]
    return stream, [[stand.told[batch][1] for stand in stands] for batch in range(len(batches))]


def _run(block: Block, stream: Sequence[Tensor], tokens: Sequence[Tokens], previous: list[Routing | None]) -> Step:
    """All batches through one block; `previous` becomes what the next block may build on."""
    step = Step(block, list(stream), [], [])

    def keep(moe: nn.Module, args: tuple[Tensor, ...], output: tuple[Tensor, Routing]) -> None:
        y, routing = output
        step.mixed.append(Mixed(args[0].flatten(0, -2), y.flatten(0, -2), routing))

    hook = block.ffn.register_forward_hook(keep) if isinstance(block.ffn, MoE) else None
    for batch, x_BSD in enumerate(stream):
        output = block(x_BSD, tokens[batch], None, previous[batch])
        previous[batch] = output.previous
        step.after.append(output.x_BSD)
    if hook is not None:
        hook.remove()
    return step
