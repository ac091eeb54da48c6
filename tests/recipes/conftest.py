"""A demo's training on a corpus and at a size that take a second or two."""

from dataclasses import replace

import pytest

from sparsemix import GLUExpertsConfig, MoEConfig
from sparsemix.data import ByteTokenizerConfig
from sparsemix.recipes.demo import TRAINING


@pytest.fixture
def training(tmp_path):
    corpus = tmp_path / "corpus"
    for domain in ("verse", "prose"):
        (corpus / domain).mkdir(parents=True)
        for number in range(8):
            text = f"{domain} number {number}, and again: " * 40
            (corpus / domain / f"{number}.txt").write_text(text)
    model = replace(
        TRAINING.model,
        dim=16,
        context=32,
        attention=replace(TRAINING.model.attention, num_heads=2),
        moe=MoEConfig(num_experts=4, experts=GLUExpertsConfig(hidden=8)),
    )
    data = replace(TRAINING.data, sources=(str(corpus),), tokenizer=ByteTokenizerConfig(), held_out=0.2)
    return replace(TRAINING, model=model, data=data, batch_size=4, sequence_length=32, eval_tokens=512)
