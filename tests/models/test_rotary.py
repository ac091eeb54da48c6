"""Rotary tables against transformers, and the property that makes them relative."""

import pytest
import torch

from sparsemix.models import LinearRopeConfig, Llama3RopeConfig, YarnConfig
from sparsemix.models.rotary import rotary_table, rotate


@pytest.mark.parametrize(
    ("head_dim", "theta", "settings"),
    [
        (128, 1e6, {"factor": 4.0, "original_context": 32_768}),
        (64, 150_000.0, {"factor": 32.0, "original_context": 4096, "truncate": False}),
        (64, 10_000.0, {"factor": 40.0, "original_context": 4096, "attention_factor": 1.0}),
        (32, 10_000.0, {"factor": 2.0, "original_context": 64, "beta_fast": 8.0, "beta_slow": 2.0}),
        (8, 10_000.0, {"factor": 2.0, "original_context": 4}),
    ],
)
def test_yarn_equals_transformers(head_dim, theta, settings):
    expect_transformers("yarn", YarnConfig(**settings), head_dim, theta, settings)


@pytest.mark.parametrize(("head_dim", "theta"), [(128, 500_000.0), (64, 10_000.0)])
@pytest.mark.parametrize(("low", "high"), [(1.0, 4.0), (2.0, 16.0)])
def test_llama_3_equals_transformers(head_dim, theta, low, high):
    scaling = Llama3RopeConfig(factor=32, original_context=8192, low_turns=low, high_turns=high)
    settings = {"factor": 32.0, "original_context": 8192, "low_freq_factor": low, "high_freq_factor": high}
    expect_transformers("llama3", scaling, head_dim, theta, settings)


def test_linear_equals_transformers():
    expect_transformers("linear", LinearRopeConfig(factor=4), 64, 10_000.0, {"factor": 4.0})


def expect_transformers(rope_type, scaling, head_dim, theta, settings):
    pytest.importorskip("transformers")
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    theirs = {"rope_type": rope_type, "rope_theta": theta} | settings
    if "original_context" in theirs:
        theirs["original_max_position_embeddings"] = theirs.pop("original_context")
    config = LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        head_dim=head_dim,
        max_position_embeddings=10**6,
        rope_parameters=theirs,
    )
    frequency_A, scale = ROPE_INIT_FUNCTIONS[rope_type](config, torch.device("cpu"))
    angle_SA = torch.arange(300)[:, None] * frequency_A
    table = rotary_table(torch.arange(300)[None], head_dim, theta, scaling, torch.float32)
    torch.testing.assert_close(table.cos_B1SA[0, 0], angle_SA.cos() * scale, atol=1e-4, rtol=0)
    torch.testing.assert_close(table.sin_B1SA[0, 0], angle_SA.sin() * scale, atol=1e-4, rtol=0)


def test_a_score_depends_on_the_distance_only():
    generator = torch.Generator().manual_seed(0)
    query_A, key_A = torch.randn(2, 16, generator=generator, dtype=torch.float64)

    def score(query_position, key_position):
        position_BS = torch.tensor([[query_position, key_position]])
        table = rotary_table(position_BS, 16, 10_000.0, None, torch.float64)
        turned = rotate(torch.stack([query_A, key_A])[None, None], table)[0, 0]
        return turned[0] @ turned[1]

    torch.testing.assert_close(score(7, 3), score(1007, 1003), atol=1e-10, rtol=0)
    assert not torch.isclose(score(7, 3), score(7, 4))


@pytest.mark.parametrize(
    "scaling", [YarnConfig(factor=1, original_context=8), Llama3RopeConfig(factor=1), LinearRopeConfig(factor=1)]
)
def test_a_factor_of_one_changes_nothing(scaling):
    position_BS = torch.arange(20)[None]
    plain = rotary_table(position_BS, 16, 10_000.0, None, torch.float64)
    same = rotary_table(position_BS, 16, 10_000.0, scaling, torch.float64)
    torch.testing.assert_close(same, plain)


def test_the_ramp_of_llama_3_has_a_width():
    with pytest.raises(ValueError, match="low_turns: must be below high_turns, got low_turns=4"):
        Llama3RopeConfig(low_turns=4)
