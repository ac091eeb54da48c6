"""Every router that suits a causal language model learns in the training loop, from its defaults to its state."""

import dataclasses

import pytest
from routers.examples import EVERY_ROUTER, NUM_EXPERTS, experts_for
from train.examples import random_batch, tiny_model, tiny_trainer

from sparsemix.layer import MoEConfig
from sparsemix.train import AdamWConfig, ScheduleConfig
from sparsemix.train.balancing import unbalanced
from sparsemix.train.batch import split_batch

CAUSAL = {name: config for name, config in EVERY_ROUTER.items() if config.causal}
STEPS = 12


@pytest.mark.parametrize("config", CAUSAL.values(), ids=CAUSAL)
def test_a_decoder_learns_with_every_causal_router(config):
    if config.type == "hash":
        config = dataclasses.replace(config, vocab_size=257)
    moe = MoEConfig(num_experts=NUM_EXPERTS, router=config, experts=experts_for(config, NUM_EXPERTS, hidden=8))
    schedule = ScheduleConfig(warmup=0, decay=0)
    trainer = tiny_trainer(model=tiny_model(moe=moe), optimizer=AdamWConfig(lr=0.01), steps=STEPS, schedule=schedule)
    assert unbalanced(trainer.model, trainer.balance) == []
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if ".router." in name}

    parts = split_batch(random_batch(), 2)
    reports = [trainer.step(parts) for _ in range(STEPS)]

    assert reports[-1].loss < 0.9 * reports[0].loss
    after = dict(trainer.model.named_parameters())
    unmoved = {name for name in before if after[name].equal(before[name])}
    assert unmoved <= {"blocks.0.ffn.router.residual_EE"}  # of MoE++: there is no mixture below
