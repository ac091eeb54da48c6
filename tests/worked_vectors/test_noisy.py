"""Noisy gates: the gates and loads of 2017 and of V-MoE, and the two levels of the hierarchy."""

import math

import pytest
import torch
from cases import numbers, same
from references.gates import phi, selection_probability
from references.losses import hierarchical_importance, hierarchical_load
from references.noisy import NoisyLogits, hierarchical, noisy_top_k, vmoe
from worked_vectors.values import matrix, plain, rounded

PHI_MINUS_1 = 0.158655253931457


def test_the_normal_distribution_function():
    same(phi(matrix([-1, 0, 1])), matrix([PHI_MINUS_1, 0.5, 1 - PHI_MINUS_1]))


def test_without_a_signal_the_noise_has_deviation_ln_2():
    # H = (ln 2, 0, -ln 2): gates 2 / 3 and 1 / 3
    zero_TE = torch.zeros(1, 3).double()
    edges, _ = noisy_top_k(zero_TE, zero_TE, matrix([[1, 0, -1]]), 2)
    assert plain(edges) == rounded((0, 0, 2 / 3), (0, 1, 1 / 3))


def test_the_floor_is_added_to_the_deviation():
    zero_TE = torch.zeros(1, 2).double()
    edges, _ = noisy_top_k(zero_TE, zero_TE, matrix([[1, 0]]), 2, floor=math.log(3 / 2))  # H = (ln 3, 0)
    assert plain(edges) == rounded((0, 0, 0.75), (0, 1, 0.25))


def test_the_load_of_two_experts_is_the_chance_to_beat_the_other_with_new_noise():
    # deviation ln 2; H = (ln 2, 0): P_0 = Phi((0 - 0) / ln 2) and P_1 = Phi((0 - ln 2) / ln 2)
    zero_TE = torch.zeros(1, 2).double()
    _, load_TE = noisy_top_k(zero_TE, zero_TE, matrix([[1, 0]]), 1)
    same(load_TE, matrix([[0.5, PHI_MINUS_1]]))


def test_the_load_of_v_moe_has_the_expert_itself_in_its_threshold():
    # deviation 1 / 2; H = (.5, 0), threshold .5 for both: Phi((0 - .5) / .5); a sum of .317, not of k
    edges, load_TE = vmoe(torch.zeros(1, 2).double(), matrix([[1, 0]]), 1)
    same(load_TE, matrix([[PHI_MINUS_1, PHI_MINUS_1]]))
    assert plain(edges) == rounded((0, 0, 1 / (1 + math.exp(-0.5))))


def test_the_noise_scale_of_v_moe_is_before_the_division_by_the_experts():
    # deviation 2 / 2 = 1; H = (1, 0): Phi(0 - 1) for both
    edges, load_TE = vmoe(torch.zeros(1, 2).double(), matrix([[1, 0]]), 1, noise_scale=2.0)
    same(load_TE, matrix([[PHI_MINUS_1, PHI_MINUS_1]]))
    assert plain(edges) == rounded((0, 0, 1 / (1 + math.exp(-1))))


def test_v_moe_takes_the_softmax_first_and_does_not_renormalise():
    logits_TE, noise_TE = numbers(0, 5, 4), numbers(1, 5, 4)
    edges, _ = vmoe(logits_TE, noise_TE, 2)
    value_TK, expert_TK = (logits_TE + noise_TE / 4).softmax(-1).topk(2)
    expected = [(t, e, round(w, 9)) for t in range(5) for e, w in zip(expert_TK[t].tolist(), value_TK[t].tolist())]
    assert plain(edges) == expected


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_load_is_how_often_new_noise_of_an_expert_selects_it(k):
    draws = 40_000
    clean_E, scale_E = numbers(0, 4), numbers(1, 4).abs() + 0.2
    noisy_E = clean_E + numbers(2, 4) * scale_E
    load_E = selection_probability(clean_E, noisy_E, scale_E, k)
    for i in range(4):
        drawn = noisy_E.repeat(draws, 1)
        drawn[:, i] = clean_E[i] + numbers(3 + i, draws) * scale_E[i]
        frequency = (drawn.topk(k).indices == i).any(-1).double().mean().item()
        p = load_E[i].item()
        assert abs(frequency - p) < 4 * math.sqrt(p * (1 - p) / draws) + 1e-4


def test_all_experts_are_certain_to_be_selected_where_k_is_their_number():
    _, load_TE = noisy_top_k(numbers(0, 3, 4), numbers(1, 3, 4), numbers(2, 3, 4), 4)
    assert load_TE.tolist() == [[1.0] * 4] * 3


def test_gradient_of_the_load_reaches_the_threshold():
    clean_TE = torch.zeros(1, 2).double().requires_grad_()
    _, load_TE = noisy_top_k(clean_TE, torch.zeros(1, 2).double(), matrix([[1, 0]]), 1)
    (grad_TE,) = torch.autograd.grad(load_TE[0, 0], clean_TE)
    slope = 1 / math.sqrt(2 * math.pi) / math.log(2)  # the density at 0, over the deviation
    same(grad_TE, matrix([[slope, -slope]]))


# --- two levels -------------------------------------------------------------------------------------------------------


def two_levels(num_tokens: int = 5, num_groups: int = 3, size: int = 4) -> tuple[NoisyLogits, NoisyLogits]:
    primary = NoisyLogits(*[numbers(seed, num_tokens, num_groups) for seed in range(3)])
    return primary, NoisyLogits(*[numbers(seed, num_tokens, num_groups, size) for seed in range(3, 6)])


def test_the_weights_of_two_levels_multiply():
    primary, secondary = two_levels()
    upper, _ = noisy_top_k(*primary, 2)
    weight = {(t, g): w.item() for t, g, w, _ in upper}
    lower, _ = noisy_top_k(*[part[:, 1] for part in secondary], 2)
    found = {(t, e): w.item() for t, e, w, _ in hierarchical(primary, secondary, 2, 2).edges}
    assert len(found) == 5 * 2 * 2
    assert {t for t, e in found if 4 <= e < 8} == {t for t, g in weight if g == 1} != set()
    for t, j, inner, _ in lower:
        if (t, 1) in weight:
            assert math.isclose(found[t, 4 + j], weight[t, 1] * inner.item(), rel_tol=1e-12)
    for t in range(5):
        assert math.isclose(sum(w for (token, _), w in found.items() if token == t), 1, rel_tol=1e-12)


def test_hierarchical_importance_is_the_sum_of_the_products():
    primary_TG = matrix([[0.75, 0.25], [1, 0]])
    secondary_TGE = matrix([[[0.4, 0.6], [1, 0]], [[0, 1], [0, 0]]])
    expected = matrix([[0.3, 0.45 + 1], [0.25, 0]])
    same(hierarchical_importance(primary_TG, secondary_TGE, [True, True]), expected)
    same(hierarchical_importance(primary_TG, secondary_TGE, [False, True]), matrix([[0, 1], [0, 0]]))


def test_hierarchical_load_is_the_group_load_times_the_mean_load_inside():
    primary_TG = matrix([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    nowhere = [0, 0]
    secondary_TGE = matrix([[[0.7, 0.3], nowhere], [[0.2, 0.8], nowhere], [nowhere, [1, 0]]])
    groups = [[0], [0], [1]]
    # group loads 1.7 and 1.3; inside (.9, 1.1) / 2 and (1, 0)
    load_GE = hierarchical_load(primary_TG, secondary_TGE, groups, [True] * 3)
    same(load_GE, matrix([[1.7 * 0.45, 1.7 * 0.55], [1.3, 0]]))
    same(load_GE.sum(1), primary_TG.sum(0), "rows inside sum to 1, so the group's load is spread over its experts")
    # without token 1: group loads 1.1 and .9
    load_GE = hierarchical_load(primary_TG, secondary_TGE, groups, [True, False, True])
    same(load_GE, matrix([[1.1 * 0.7, 1.1 * 0.3], [0.9, 0]]))


def test_a_group_to_which_no_token_comes_has_no_load():
    load_GE = hierarchical_load(matrix([[0.9, 0.1]]), matrix([[[0.7, 0.3], [0, 0]]]), [[0]], [True])
    same(load_GE, matrix([[0.63, 0.27], [0, 0]]))


def test_the_loads_of_the_router_are_those_of_its_levels():
    primary, secondary = two_levels()
    found = hierarchical(primary, secondary, 1, 2)
    same(found.primary_load_TG, noisy_top_k(*primary, 1)[1])
    for g in range(3):
        _, load_TE = noisy_top_k(*[part[:, g] for part in secondary], 2)
        for t in range(5):
            same(found.secondary_load_TGE[t, g], load_TE[t] * (g in found.groups[t]))
