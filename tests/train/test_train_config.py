import pytest
from train.examples import BIASED, NOISY, random_batch, tiny_config, tiny_model

from sparsemix.balance import DeviceLoss, SwitchLoss
from sparsemix.config import from_json, to_json
from sparsemix.data import BPETokenizerConfig
from sparsemix.train import AdamWConfig, BalanceConfig, DataConfig, MuonConfig, TrainConfig


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(),
        TrainConfig(optimizer=AdamWConfig(lr=0.1), clip_norm=None),
        TrainConfig(
            balance=BalanceConfig(losses=(SwitchLoss(form="first"), DeviceLoss(num_devices=2)), scope="global")
        ),
        TrainConfig(model=BIASED, sequence_length=32, balance=BalanceConfig(losses=())),
        TrainConfig(data=DataConfig(sources=("a", "b"), weights=(1, 2), tokenizer=BPETokenizerConfig(vocab_size=300))),
    ],
)
def test_goes_to_json_and_back(config):
    assert from_json(TrainConfig, to_json(config)) == config


def test_the_default_builds_and_is_small():
    trainer = TrainConfig().build()
    assert isinstance(TrainConfig().optimizer, MuonConfig)
    assert sum(p.numel() for p in trainer.model.parameters()) < 5_000_000
    assert trainer.steps_done == 0


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"batch_size": 4, "accumulate": 5},
            r"accumulate: must be at most batch_size, got accumulate=5 with batch_size=4",
        ),
        ({"sequence_length": 33}, r"sequence_length: must be at most model.context=32, got 33; lower it or raise"),
        ({"steps": 0}, "steps: Input should be greater than or equal to 1, got 0"),
        ({"dtype": "float16"}, "dtype: Input should be 'auto', 'float32' or 'bfloat16', got 'float16'"),
        ({"stepz": 1}, "stepz: unknown key, got 1; remove it or correct its name"),
    ],
)
def test_refuses_what_cannot_be(changes, match):
    with pytest.raises(ValueError, match=match) as caught:
        tiny_config(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sources": ("a", "b"), "weights": (1.0,)}, "weights: must be one for each of the 2 sources, got 1 weights"),
        ({"sources": ()}, "sources: .* at least 1 item"),
    ],
)
def test_refuses_data_that_cannot_be(changes, match):
    with pytest.raises(ValueError, match=match):
        DataConfig(**changes)


def test_builds_around_a_model_that_is_there():
    config = tiny_config()
    model = tiny_model().build(9)
    assert config.build(model).model is model


def test_the_seed_makes_the_weights():
    one, same, other = (tiny_config(seed=seed).build().model.embedding.weight for seed in (1, 1, 2))
    assert one.equal(same)
    assert not one.equal(other)


def first_loss(seed, model_seed=0):
    trainer = tiny_config(model=NOISY, seed=seed).build(NOISY.build(model_seed))
    return trainer.step([random_batch()]).loss


def test_the_seed_makes_the_noise():
    assert first_loss(seed=1) == first_loss(seed=1) != first_loss(seed=2)


@pytest.mark.parametrize("again", [False, True])
def test_activation_checkpointing_runs_each_block_again(again):
    trainer = tiny_config(activation_checkpointing=again).build()
    runs = []
    trainer.model.blocks[0].register_forward_pre_hook(lambda block, arguments: runs.append(block))
    trainer.step([random_batch()])
    assert len(runs) == 1 + again
