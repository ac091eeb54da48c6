"""What a step of the demo costs: its dense twin against a plain PyTorch decoder, its MoE against the twin."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from harness import arguments, claim, must_agree, ratio, save, spread, take_turns
from torch import Tensor, nn

from sparsemix.data import Batch
from sparsemix.models import DecoderConfig
from sparsemix.recipes.demo import TRAINING
from sparsemix.recipes.twins import dense_twin
from sparsemix.train.config import TrainConfig
from sparsemix.train.optim import AdamWConfig, ModelOptimizer
from sparsemix.train.trainer import Trainer


class PlainBlock(nn.Module):
    """Attention and SwiGLU, as PyTorch's own modules and functions make them."""

    def __init__(self, dim: int, heads: int, hidden: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.ffn_norm = nn.RMSNorm(dim, eps), nn.RMSNorm(dim, eps)
        self.query, self.key, self.value, self.output = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.query_norm, self.key_norm = nn.RMSNorm(dim // heads, eps), nn.RMSNorm(dim // heads, eps)
        self.gate, self.up = nn.Linear(dim, hidden, bias=False), nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        normed = self.attention_norm(x)
        query, key, value = (
            linear(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        query, key = rotate(self.query_norm(query), cos, sin), rotate(self.key_norm(key), cos, sin)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).flatten(2))
        normed = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed))


class PlainDecoder(nn.Module):
    """The decoder that anybody would write: what the dense twin must not be slower than."""

    def __init__(self, vocab: int, dim: int, layers: int, heads: int, hidden: int, context: int, eps: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, dim)
        self.blocks = nn.ModuleList(PlainBlock(dim, heads, hidden, eps) for _ in range(layers))
        self.norm = nn.RMSNorm(dim, eps)
        self.unembedding = nn.Linear(dim, vocab, bias=False)
        size = dim // heads
        frequency = 10_000.0 ** (-torch.arange(0, size, 2) / size)
        angle = torch.arange(context)[:, None] * frequency.repeat(2)
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        cos, sin = self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.unembedding(self.norm(x))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class PlainLoop:
    """The training loop of a few lines that goes with it."""

    def __init__(self, model: PlainDecoder, optimizer: ModelOptimizer, batch: Batch) -> None:
        self.model, self.optimizer = model, optimizer
        self.tokens, self.targets = torch.from_numpy(batch.tokens_BS), torch.from_numpy(batch.targets_BS)

    def step(self) -> float:
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(self.tokens).flatten(0, 1), self.targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step(1.0)
        return loss.item()


class Stopwatch:
    """An optimiser's step that remembers how long each of its calls took."""

    def __init__(self, step: Callable[[float], None]) -> None:
        self._step = step
        self.seconds: list[float] = []

    def __call__(self, multiplier: float) -> None:
        began = time.perf_counter()
        self._step(multiplier)
        self.seconds.append(time.perf_counter() - began)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the demo's two models and write dense_twin.json."""
    settings = arguments("Cost of a step of the demo's MoE, its dense twin, and a plain decoder", argv)
    training = toy(TRAINING) if settings.toy else TRAINING
    batch = random_batch(training)
    with_adamw = replace(training, model=dense_twin(training.model), optimizer=AdamWConfig())
    # The plain decoder is compared under AdamW: Muon would see its gate and up projections as two matrices, not one.
    dense_adamw, plain = start(with_adamw), plain_loop(with_adamw, batch)
    ours = [dense_adamw.step([batch]).loss for _ in range(3)]
    must_agree("losses of the dense twin and the plain decoder", ours, [plain.step() for _ in range(3)], 1e-4)

    trainers = {"moe": start(training), "dense": start(replace(training, model=dense_twin(training.model)))}
    watches = {name: Stopwatch(trainer.optimizer.step) for name, trainer in trainers.items()}
    for name, trainer in trainers.items():
        trainer.optimizer.step = watches[name]
    seconds = take_turns(
        {
            "plain": plain.step,
            "dense_adamw": lambda: dense_adamw.step([batch]),
            **{name: lambda trainer=trainer: trainer.step([batch]) for name, trainer in trainers.items()},
        },
        settings.rounds,
    )
    optimizing = {name: watch.seconds[-settings.rounds :] for name, watch in watches.items()}
    save("dense_twin", result(training, seconds, optimizing), settings.out)


def result(
    training: TrainConfig, seconds: dict[str, list[float]], optimizing: dict[str, list[float]]
) -> dict[str, Any]:
    """Seconds a step, and the claims about them."""
    plain = ratio(seconds["dense_adamw"], seconds["plain"])
    return {
        "tokens_per_step": training.batch_size * training.sequence_length,
        "seconds_per_step": {name: spread(taken) for name, taken in seconds.items()},
        "moe_over_dense": ratio(seconds["moe"], seconds["dense"]),
        "claims": [
            claim("dense twin's step over a plain decoder's, both with AdamW", plain, at_most=1.05),
            *(
                claim(f"optimiser's share of the {name} step", ratio(taken, seconds[name]), at_most=0.15)
                for name, taken in optimizing.items()
            ),
        ],
    }


def start(config: TrainConfig) -> Trainer:
    """At a constant learning rate."""
    return config.build(multiplier=lambda step: 1.0)


def plain_loop(config: TrainConfig, batch: Batch) -> PlainLoop:
    """With the weights that the dense twin of this config begins with."""
    model, assumed = config.model, config.model.attention
    assert (assumed.qk_norm, assumed.bias, assumed.rope_theta) == ("head", "none", 10_000.0)
    assert assumed.kv_heads == assumed.num_heads
    assert model.ffn is not None
    plain = PlainDecoder(
        model.vocab_size,
        model.dim,
        model.num_layers,
        assumed.num_heads,
        model.ffn.hidden,
        config.sequence_length,
        model.norm_eps,
    )
    plain.load_state_dict(plain_weights(model, config.seed))
    return PlainLoop(plain, config.optimizer.build(plain), batch)


def plain_weights(model: DecoderConfig, seed: int) -> dict[str, Tensor]:
    """The twin's weights under the plain decoder's names, which has gate and up apart."""
    found = {}
    for name, tensor in model.build(seed).state_dict().items():
        if name.endswith("ffn.gate_up_FD"):
            block = name.removesuffix("ffn.gate_up_FD")
            found[f"{block}gate.weight"], found[f"{block}up.weight"] = tensor.chunk(2)
        else:
            found[name.replace("attention.", "").replace("ffn.down_DF", "down.weight")] = tensor
    return found


def random_batch(training: TrainConfig) -> Batch:
    """Tokens as many as in the demo; what they say does not change what a step costs."""
    shape = (training.batch_size, training.sequence_length)
    tokens_BS, targets_BS = np.random.default_rng(0).integers(training.model.vocab_size, size=(2, *shape))
    return Batch(tokens_BS, targets_BS, np.ones(shape, dtype=np.float32), None, None)


def toy(training: TrainConfig) -> TrainConfig:
    """A few tokens."""
    return replace(training, batch_size=2, sequence_length=8)


if __name__ == "__main__":
    main()
