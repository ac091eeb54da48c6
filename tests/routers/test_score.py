"""Gate scores: their formulas, their invariances, and the width of the arithmetic."""

import pytest
import references
import torch
from cases import GATES, numbers, same

from sparsemix.routers.score import gate_distribution, gate_scores, jitter, linear_scores


@pytest.mark.parametrize("gate", GATES)
def test_scores_and_distribution_are_their_formulas(gate):
    logits_TE = numbers(0, 20, 7) * 3
    for t in range(20):
        same(gate_scores(gate, logits_TE)[t], references.scores(gate, logits_TE[t]), gate)
        same(gate_distribution(gate, logits_TE)[t], references.distribution(gate, logits_TE[t]), gate)
    same(gate_distribution(gate, logits_TE).sum(-1), torch.ones(20, dtype=torch.float64), "rows sum to 1")


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("logit", [-300.0, 300.0])
def test_the_distribution_of_extreme_logits_is_finite_and_so_is_its_gradient(gate, logit):
    logits_TE = torch.full((2, 4), logit, requires_grad=True)
    probs_TE = gate_distribution(gate, logits_TE)
    probs_TE[:, 0].sum().backward()
    assert (probs_TE == 0.25).all()
    assert logits_TE.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_logits_are_float32_in_narrow_models_and_under_autocast(dtype):
    x_TD, weight_ED = numbers(0, 3, 8).to(dtype), numbers(1, 4, 8).float()
    expected = x_TD.float() @ weight_ED.T
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = linear_scores(x_TD, weight_ED)
    for logits_TE in (linear_scores(x_TD, weight_ED), under_autocast):
        assert logits_TE.dtype == torch.float32
        same(logits_TE, expected, "not rounded to bfloat16 on the way", tolerance=1e-6)


def test_logits_are_float64_in_float64():
    x_TD, weight_ED = numbers(0, 3, 8), numbers(1, 4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        same(linear_scores(x_TD, weight_ED), x_TD @ weight_ED.T)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_jitter_keeps_the_mean_and_stays_within_its_bounds(dtype):
    factor = jitter(torch.ones(200_000, 1, dtype=dtype), 0.01)
    assert factor.dtype == torch.float32
    assert abs(float(factor.double().mean()) - 1) < 4 * 0.01 / 3**0.5 / 200_000**0.5
    assert 0.9899 < float(factor.min()) < 0.991
    assert 1.009 < float(factor.max()) < 1.0101
