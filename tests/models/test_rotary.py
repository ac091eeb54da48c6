"""Rotary tables against transformers, and the property that makes them relative."""

import pytest
import torch

from sparsemix.models import YarnConfig
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
    pytest.importorskip("transformers")
    from transformers import MixtralConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    theirs = {"rope_type": "yarn", "rope_theta": theta, "original_max_position_embeddings": 0} | settings
    theirs["original_max_position_embeddings"] = theirs.pop("original_context")
    config = MixtralConfig(hidden_size=4 * head_dim, num_attention_heads=4, head_dim=head_dim, rope_parameters=theirs)
    frequency_A, scale = ROPE_INIT_FUNCTIONS["yarn"](config, torch.device("cpu"))
    angle_SA = torch.arange(300)[:, None] * frequency_A
    table = rotary_table(torch.arange(300)[None], head_dim, theta, YarnConfig(**settings), torch.float32)
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


def test_yarn_with_factor_one_changes_nothing():
    position_BS = torch.arange(20)[None]
    plain = rotary_table(position_BS, 16, 10_000.0, None, torch.float64)
    same = rotary_table(position_BS, 16, 10_000.0, YarnConfig(factor=1, original_context=8), torch.float64)
    torch.testing.assert_close(same, plain)
