"""The demo: an MoE language model against its dense twin, on text that every Python brings along.

Both see the same tokens in the same order, do the same arithmetic a token but for the router, and take turns step by
step. What it shows: at equal compute the sparse model learns more from each token (Shazeer 2017, 1701.06538; Fedus
2021, 2101.03961; Artetxe 2021, 2112.10684).
Differs: minutes on a laptop instead of weeks on a cluster, so the size, the vocabulary and the optimiser are chosen for
that; docs/log.md says how, and what did not help.
"""

from __future__ import annotations

from sparsemix.data import BPETokenizerConfig
from sparsemix.experts import GLUExpertsConfig
from sparsemix.layer import MoEConfig
from sparsemix.models import AttentionConfig, DecoderConfig, InitConfig
from sparsemix.recipes.arena import DemoConfig, hold
from sparsemix.recipes.outcome import Outcome, print_outcome, write_outcome
from sparsemix.recipes.twins import dense_twin
from sparsemix.routers import TopKRouterConfig
from sparsemix.train.config import DataConfig, TrainConfig
from sparsemix.train.optim import AdamWConfig, MuonConfig

TRAINING = TrainConfig(
    model=DecoderConfig(
        vocab_size=4096,
        dim=64,
        num_layers=2,
        context=256,
        attention=AttentionConfig(num_heads=4, qk_norm="head"),
        moe=MoEConfig(num_experts=64, router=TopKRouterConfig(k=4), experts=GLUExpertsConfig(hidden=48)),
        init=InitConfig(scale_residual=True),
    ),
    data=DataConfig(sources=("builtin",), tokenizer=BPETokenizerConfig(vocab_size=4096), held_out=0.05),
    optimizer=MuonConfig(lr=0.02, scale="rms", rest=AdamWConfig(lr=0.003, embedding_lr=0.006, unembedding_lr=0.006)),
    batch_size=32,
    sequence_length=128,
    eval_tokens=8192,
)
"""The MoE; the dense twin is the same with `dense_twin(model)`."""


def demo(settings: DemoConfig, training: TrainConfig = TRAINING) -> Outcome:
    """Train both, save them, and print whichever wins."""
    finish = hold(settings, training, twins)
    outcome = Outcome(**finish.contestants, stable_steps=finish.stable_steps, seed=settings.seed)
    write_outcome(outcome, settings.folder)
    print_outcome(outcome, settings.folder, finish.sample("moe", settings))
    return outcome


def twins(model: DecoderConfig) -> dict[str, DecoderConfig]:
    """The two models; all but the feed-forward layers is equal."""
    return {"moe": model, "dense": dense_twin(model)}
