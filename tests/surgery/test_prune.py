"""Experts are pruned by the scores of their papers, and without loss where nobody chose them."""

from __future__ import annotations

import json
from itertools import combinations

import pytest
from surgery.calibrated import TEXT, TOKENS_BS, expert, gates, mixture_inputs, output, tensor
from surgery.models import built, change, check_theory, sparse, stored

from sparsemix import (
    CapacityConfig,
    ConcatExpertsConfig,
    GLUExpertsConfig,
    GroupLimitedRouterConfig,
    HashRouterConfig,
    MLPExpertsConfig,
    MoEConfig,
    Part,
    SelectionBiasConfig,
    SwitchRouterConfig,
    TopKRouterConfig,
    TopPRouterConfig,
)
from sparsemix.models import DepthConfig
from sparsemix.surgery import FrequencyConfig, NAEEConfig, PruneConfig, REAPConfig, compare, keep_experts, prune
from sparsemix.surgery import text as text_module
from sparsemix.tensors import Held

E, K = 6, 2


def decided(model, by, keep=4, text=TEXT):
    return prune(model, PruneConfig(keep=keep, by=by), text).decisions["layers"]


def routed(model, layer, normalize=True):
    """x and gates of each token, over all experts."""
    weight_ED = tensor(model, layer, "router.weight_ED")
    x_TD = mixture_inputs(model, layer)
    return [(x_D, gates((weight_ED @ x_D).tolist(), K, list(range(E)), normalize)) for x_D in x_TD]


def best(scores, keep):
    return sorted(sorted(range(len(scores)), key=lambda e: -scores[e])[:keep])


def test_frequency_is_the_share_of_choices():
    model = sparse(num_experts=E)
    for layer, choice in decided(model, FrequencyConfig()).items():
        chosen = [e for _, weights in routed(model, int(layer)) for e in weights]
        shares = [chosen.count(e) / len(chosen) for e in range(E)]
        assert choice["scores"] == pytest.approx(shares)
        assert list(choice["kept"]) == best(shares, 4)


@pytest.mark.parametrize("normalize", [True, False])
def test_reap_is_the_mean_weighted_norm_over_an_experts_tokens(normalize):
    model = sparse(num_experts=E, router=TopKRouterConfig(k=K, normalize=normalize))
    for layer, choice in decided(model, REAPConfig()).items():
        terms = {e: [] for e in range(E)}
        for x_D, weights in routed(model, int(layer), normalize):
            for e, weight in weights.items():
                terms[e].append(weight * expert(model, int(layer), e)(x_D).square().sum().sqrt().item())
        scores = [sum(terms[e]) / max(len(terms[e]), 1) for e in range(E)]
        assert choice["scores"] == pytest.approx(scores)
        assert list(choice["kept"]) == best(scores, 4)


def naee_errors(model, layer, sets, batch_rows):
    """sum over batches of ||Z - Z'||_F for each kept set, by loops."""
    functions = [expert(model, layer, e) for e in range(E)]
    weight_ED = tensor(model, layer, "router.weight_ED")
    size = batch_rows * TOKENS_BS.shape[1]
    found = dict.fromkeys(sets, 0.0)
    for xs in mixture_inputs(model, layer).split(size):
        squares = dict.fromkeys(sets, 0.0)
        for x_D in xs:
            logits = (weight_ED @ x_D).tolist()
            z_D = output(gates(logits, K, list(range(E))), functions, x_D)
            for kept in sets:
                squares[kept] += (z_D - output(gates(logits, K, list(kept)), functions, x_D)).square().sum().item()
        for kept in sets:
            found[kept] += squares[kept] ** 0.5
    return found


def test_naee_keeps_the_set_that_gives_best_what_all_gave(monkeypatch):
    monkeypatch.setattr(text_module, "BATCH_TOKENS", 2 * TOKENS_BS.shape[1])  # three batches
    model = sparse(num_experts=E, router=TopKRouterConfig(k=K, gate="topk_softmax"))
    sets = list(combinations(range(E), 3))
    for layer, choice in decided(model, NAEEConfig(), keep=3).items():
        errors = naee_errors(model, int(layer), sets, batch_rows=2)
        assert choice["kept"] == min(sets, key=errors.get)
        assert choice["error"] == pytest.approx(errors[choice["kept"]])


def test_naee_searches_greedily_where_told():
    model = sparse(num_experts=E)
    for layer, choice in decided(model, NAEEConfig(search="greedy"), keep=3).items():
        kept = tuple(range(E))
        while len(kept) > 3:
            sets = [tuple(e for e in kept if e != gone) for gone in kept]
            kept = min(sets, key=naee_errors(model, int(layer), sets, batch_rows=6).get)
        assert choice["kept"] == kept


def test_too_many_sets_are_refused_rather_than_searched_otherwise():
    settings = PruneConfig(keep=3, by=NAEEConfig(most_sets=19))
    with pytest.raises(ValueError, match="most_sets: must be at least the 20 sets to look at, got 19; use search="):
        prune(sparse(num_experts=E), settings, TEXT)


def shunned(model, columns=(1, 4)):
    """The model with columns that no token chooses."""
    tensors = {name: model.tensors.read(name).clone() for name in model.tensors.specs}
    for name in tensors:
        if name.endswith(("router.bias_E", "selection_bias.bias_E")):
            tensors[name][list(columns)] = -50.0
    return model._replace(tensors=Held(tensors))


BIAS = SelectionBiasConfig()
LOSSLESS = {
    "softmax over the chosen": TopKRouterConfig(gate="topk_softmax", bias=True),
    "softmax, normalised": TopKRouterConfig(bias=True),
    "sigmoid": TopKRouterConfig(gate="sigmoid", normalize=False, selection_bias=BIAS),
    "sigmoid, normalised": TopKRouterConfig(gate="sigmoid", selection_bias=BIAS),
    "all groups": GroupLimitedRouterConfig(k=2, num_groups=1, keep_groups=1),
}
LOSSY = {
    "softmax over all": TopKRouterConfig(normalize=False, selection_bias=BIAS),
    "a bias beside probabilities": TopKRouterConfig(selection_bias=BIAS),
    "some groups": GroupLimitedRouterConfig(k=2, num_groups=2, keep_groups=1),
}


@pytest.mark.parametrize("by", [FrequencyConfig(), REAPConfig(), NAEEConfig()], ids=lambda by: by.type)
@pytest.mark.parametrize("router", LOSSLESS.values(), ids=LOSSLESS)
def test_experts_that_nobody_chooses_go_without_loss(router, by):
    model = shunned(sparse(num_experts=E, router=router))
    after = prune(model, PruneConfig(keep=4, by=by), TEXT)
    assert all(choice["kept"] == (0, 2, 3, 5) for choice in after.decisions["layers"].values())
    check_theory(model, after, exact=True)
    assert compare(model, after.model, TEXT).max_abs_logit < 1e-10


@pytest.mark.parametrize("router", LOSSY.values(), ids=LOSSY)
def test_they_do_not_where_they_take_part_in_the_weights_or_the_choice_of_others(router):
    model = shunned(sparse(num_experts=E, router=router))
    after = prune(model, PruneConfig(keep=4, by=FrequencyConfig()), TEXT)
    assert not after.theory.exact
    assert "took part" in after.theory.why
    if router.type == "topk":
        assert change(model, after) > 1e-4


def test_half_are_kept_unless_told_and_all_of_them_without_change():
    model = sparse(num_experts=E)
    assert prune(model, PruneConfig(), TEXT).model.config.moe.num_experts == E // 2
    probable = sparse(num_experts=E, router=TopKRouterConfig(normalize=False))
    check_theory(probable, prune(probable, PruneConfig(keep=E), TEXT), exact=True)


def test_removing_what_tokens_chose_is_not_exact_and_theory_says_so():
    model = sparse(num_experts=E)
    after = prune(model, PruneConfig(keep=3), TEXT)
    check_theory(model, after, exact=False)
    assert "chose experts that were removed, in 2 layers" in after.theory.why


@pytest.mark.parametrize(
    "kind", [MLPExpertsConfig(hidden=5, bias=True), GLUExpertsConfig(hidden=5, bias=True)], ids=lambda kind: kind.type
)
def test_rows_of_experts_and_router_go_together(kind):
    router = TopKRouterConfig(k=1, gate="sigmoid", normalize=False, bias=True, selection_bias=BIAS)
    shared = {"shared": GLUExpertsConfig(hidden=3), "shared_gate": True}
    model = stored(moe=MoEConfig(num_experts=E, router=router, experts=kind, **shared))
    kept = {0: (1, 2, 5), 1: (0, 3, 4)}
    after = keep_experts(model, kept)
    assert after.config.moe.num_experts == 3
    for name, spec in model.tensors.specs.items():
        _, layer, part, *rest = [*name.split("."), *[""] * 3]
        cut = part == "ffn" and rest[0] in ("router", "experts")
        expected = model.tensors.read(name)[list(kept[int(layer)])] if cut else model.tensors.read(name)
        assert after.tensors.read(name).equal(expected), name
        assert cut or after.tensors.specs[name] == spec
    built(after)


def test_groups_keep_one_size():
    router = GroupLimitedRouterConfig(k=2, num_groups=3, keep_groups=2, selection_bias=None)
    model = sparse(num_experts=9, router=router)
    for by in (FrequencyConfig(), REAPConfig(), NAEEConfig()):
        for choice in decided(model, by, keep=6).values():
            assert [e // 3 for e in choice["kept"]] == [0, 0, 1, 1, 2, 2]
    with pytest.raises(ValueError, match="keep: must be a multiple of the 3 groups of experts, got 5; change it"):
        decided(model, REAPConfig(), keep=5)
    with pytest.raises(ValueError, match="search: must be exhaustive where the router has groups, got greedy"):
        decided(model, NAEEConfig(search="greedy"), keep=6)


@pytest.mark.parametrize("router", [SwitchRouterConfig(capacity=None), TopPRouterConfig()], ids=lambda r: r.type)
def test_other_routers_are_pruned_too(router):
    model = sparse(num_experts=E, router=router)
    for by in (FrequencyConfig(), REAPConfig(), NAEEConfig()):
        after = prune(model, PruneConfig(keep=4, by=by), TEXT)
        check_theory(model, after, exact=False)


def test_decisions_go_to_json_and_repeat_the_edit():
    model = sparse(num_experts=E)
    after = prune(model, PruneConfig(keep=4), TEXT)
    layers = json.loads(json.dumps(after.decisions))["layers"]
    again = keep_experts(model, {int(layer): choice["kept"] for layer, choice in layers.items()})
    assert again.config == after.model.config
    assert all(again.tensors.read(n).equal(after.model.tensors.read(n)) for n in again.tensors.specs)
    assert again.facts == model.facts


REFUSED = {
    "keep: must be in 1..6, as many as there are, got 7; change it": ({}, 7),
    "keep: must be at least the k=2 experts a token goes to, got 1; raise it": ({}, 1),
    "router: must be topk, group_limited, noisy_topk, switch or top_p for pruning, got hash": (
        {"router": HashRouterConfig(vocab_size=17)},
        4,
    ),
    "router.capacity: must drop nothing in evaluation, got Cap": (
        {"router": TopKRouterConfig(capacity=CapacityConfig(factor_eval=2.0)), "allow_leak": True},
        4,
    ),
    "experts: must be glu, clamped_glu or mlp for pruning, got concat": (
        {"kind": ConcatExpertsConfig(parts=(Part(num_experts=E, experts=GLUExpertsConfig(hidden=2)),))},
        4,
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_pruned_is_refused(message):
    fields, keep = REFUSED[message]
    with pytest.raises((ValueError, TypeError)) as refused:
        prune(sparse(num_experts=E, **fields), PruneConfig(keep=keep), TEXT)
    assert str(refused.value).startswith(message)


def test_tokens_that_pass_mixtures_by_are_refused():
    with pytest.raises(ValueError, match="depth: must be None, so that mixtures see all tokens, got Depth"):
        prune(sparse(num_experts=E, depth=DepthConfig()), PruneConfig(), TEXT)


@pytest.mark.parametrize("kept", [(0, 0, 1), (1, 0, 2), (-1, 0, 1), (0, 1, 6)])
def test_experts_kept_are_named_in_order(kept):
    with pytest.raises(ValueError, match="kept: layer 1: must be experts in order, of the 6 there are, got"):
        keep_experts(sparse(num_experts=E), {0: (0, 1, 2), 1: kept})


def test_experts_kept_are_as_many_of_each_group():
    model = sparse(num_experts=E, router=GroupLimitedRouterConfig(k=2, num_groups=2, keep_groups=1))
    with pytest.raises(ValueError, match="kept: layer 0: must be as many of each of the 2 groups, got"):
        keep_experts(model, {0: (0, 1, 2, 3), 1: (0, 1, 3, 4)})


def test_layers_that_keep_different_numbers_are_refused():
    with pytest.raises(ValueError, match="kept: must be as many experts in each layer"):
        keep_experts(sparse(num_experts=E), {0: (0, 1, 2), 1: (0, 1)})
    with pytest.raises(ValueError, match="kept: must say it for each mixture"):
        keep_experts(sparse(num_experts=E), {0: (0, 1, 2)})
