import math

import numpy as np
import pytest
import torch
from train.examples import random_batch, tiny_model

from sparsemix.data import BPETokenizerConfig, ByteTokenizerConfig
from sparsemix.routers import NoisyTopKRouterConfig, SwitchRouterConfig
from sparsemix.train import evaluate

BYTES = ByteTokenizerConfig().build([])


def by_hand(model, batch):
    """Nats of each weighted target, through the full logits."""
    with torch.no_grad():
        logits = model.logits(model(torch.from_numpy(batch.tokens_BS)).hidden_BSD)
    nats = -logits.log_softmax(-1).gather(2, torch.from_numpy(batch.targets_BS)[..., None])[..., 0]
    return nats.numpy()[batch.weight_BS > 0]


def test_by_domain_and_in_all():
    model = tiny_model().build().eval()
    batches = [("a", random_batch(seed=1)), ("b", random_batch(seed=2)), ("a", random_batch(seed=3, rows=2))]
    found = evaluate(model, batches, BYTES)
    nats = {
        "a": np.concatenate([by_hand(model, batches[0][1]), by_hand(model, batches[2][1])]),
        "b": by_hand(model, batches[1][1]),
    }
    for domain, expected in nats.items():
        assert found.domains[domain].loss == pytest.approx(expected.mean(), rel=1e-5)
        assert found.domains[domain].tokens == len(expected)
    assert found.total.loss == pytest.approx(np.concatenate(list(nats.values())).mean(), rel=1e-5)


def test_bits_per_byte_counts_the_bytes_that_tokens_stand_for():
    tokenizer = BPETokenizerConfig(vocab_size=300).build(["the router sends the token to the expert"] * 4)
    model = tiny_model(vocab_size=tokenizer.vocab_size).build()
    batch = random_batch(vocab_size=tokenizer.vocab_size)
    found = evaluate(model, [("a", batch)], tokenizer).total
    targets = batch.targets_BS[batch.weight_BS > 0]
    num_bytes = sum(len(tokenizer.token_bytes[index]) for index in targets)
    assert found.bytes == num_bytes != found.tokens
    assert found.bits_per_byte == pytest.approx(found.loss * len(targets) / num_bytes / math.log(2))


@pytest.mark.parametrize("router", [NoisyTopKRouterConfig(k=2), SwitchRouterConfig(jitter=0.5)])
def test_is_in_evaluation_mode_and_goes_back(router):
    model = tiny_model(router).build()
    batches = [("a", random_batch())]
    state = torch.get_rng_state()
    assert evaluate(model, batches, BYTES) == evaluate(model, batches, BYTES)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())


def test_documents_kept_apart_are_seen_as_such():
    model = tiny_model().build()
    batch = random_batch(rows=1)
    document_BS = np.repeat([[0, 1]], 8, axis=1).reshape(1, 16)
    position_BS = np.tile(np.arange(8), 2)[None]
    apart = batch._replace(document_BS=document_BS, position_BS=position_BS, weight_BS=np.ones((1, 16), np.float32))
    halves = [
        batch._replace(tokens_BS=t, targets_BS=y, weight_BS=np.ones((1, 8), np.float32))
        for t, y in zip(np.split(batch.tokens_BS, 2, 1), np.split(batch.targets_BS, 2, 1))
    ]
    together = evaluate(model, [("a", apart)], BYTES).total.loss
    assert together == pytest.approx(evaluate(model, [("a", half) for half in halves], BYTES).total.loss, rel=1e-5)


def test_no_text_is_refused():
    with pytest.raises(ValueError, match=r"evaluation: needs held-out text, got none; set data.held_out above 0"):
        evaluate(tiny_model().build(), [], BYTES)
