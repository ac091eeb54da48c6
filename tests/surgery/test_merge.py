"""Experts are grouped, aligned and averaged as in the papers; equal ones are merged without loss."""

from __future__ import annotations

import json
from itertools import permutations

import pytest
import torch
from cases import numbers, same
from hypothesis import given, settings
from hypothesis import strategies as st
from surgery.calibrated import TEXT, expert, mixture_inputs, tensor
from surgery.models import Counted, built, change, check_theory, sparse, stored

from sparsemix import (
    ClampedGLUExpertsConfig,
    ConcatExpertsConfig,
    GLUExpertsConfig,
    GroupLimitedRouterConfig,
    HashRouterConfig,
    MLPExpertsConfig,
    MoEConfig,
    Part,
    SelectionBiasConfig,
    TopKRouterConfig,
)
from sparsemix.models.counts import count_by_formula
from sparsemix.surgery import Groups, MergeConfig, PruneConfig, compare, merge_experts, prune, share_experts, untie
from sparsemix.surgery.align import Stacks, aligned_order, reordered
from sparsemix.surgery.group import around_dominant, hierarchical
from sparsemix.tensors import Held

E = 6
GLU = GLUExpertsConfig(hidden=5)
KINDS = [
    GLU,
    GLUExpertsConfig(hidden=5, bias=True),
    ClampedGLUExpertsConfig(hidden=5),
    MLPExpertsConfig(hidden=5, bias=True),
]


def decided(model, **settings):
    layers = merge_experts(model, MergeConfig(**settings), TEXT).decisions["layers"]
    return {int(layer): Groups(**found) for layer, found in layers.items()}


def cosine(a, b):
    return (a @ b / (a.square().sum().sqrt() * b.square().sum().sqrt())).item()


# --- which experts ---------------------------------------------------------------------------------------------------


def vectors(model, layer, similarity):
    """What makes experts alike: for each of them, numbers over all tokens."""
    x_TD = mixture_inputs(model, layer)
    if similarity == "logits":
        return [torch.stack([x_D @ row_D for x_D in x_TD]) for row_D in tensor(model, layer, "router.weight_ED")]
    return [torch.cat([expert(model, layer, e)(x_D) for x_D in x_TD]) for e in range(E)]


@pytest.mark.parametrize("similarity", ["logits", "outputs"])
def test_others_join_the_dominant_expert_that_is_most_like_them(similarity):
    model = sparse(num_experts=E)
    for layer, found in decided(model, keep=3, similarity=similarity).items():
        assert found.frequency == pytest.approx(frequency(model, layer))
        dominant = sorted(sorted(range(E), key=lambda e: -found.frequency[e])[:3])
        assert list(found.dominant) == dominant
        like = vectors(model, layer, similarity)
        for e in range(E):
            nearest = e if e in dominant else max(dominant, key=lambda d: cosine(like[e], like[d]))
            assert dominant[found.owner[e]] == nearest


def frequency(model, layer):
    x_TD, weight_ED = mixture_inputs(model, layer), tensor(model, layer, "router.weight_ED")
    chosen = [e for x_D in x_TD for e in sorted(range(E), key=lambda e: -(weight_ED[e] @ x_D).item())[:2]]
    return [chosen.count(e) / len(chosen) for e in range(E)]


def test_clusters_join_the_two_of_least_mean_distance():
    model = sparse(num_experts=E)
    for layer, found in decided(model, keep=3, similarity="outputs", grouping="hierarchical").items():
        like = vectors(model, layer, "outputs")
        apart = [[1 - cosine(a, b) for b in like] for a in like]
        clusters = [[e] for e in range(E)]
        while len(clusters) > 3:
            means = {
                (sum(apart[i][j] for i in a for j in b) / len(a) / len(b), tuple(a), tuple(b))
                for a in clusters
                for b in clusters
                if a < b
            }
            _, a, b = min(means)
            clusters = [c for c in clusters if tuple(c) not in (a, b)] + [sorted(a + b)]
        dominant = [max(cluster, key=lambda e: found.frequency[e]) for cluster in clusters]
        assert sorted(dominant) == list(found.dominant)
        for cluster, most_used in zip(clusters, dominant):
            assert found.members(found.dominant.index(most_used)) == cluster


@settings(max_examples=25)
@given(seed=st.integers(0, 99), keep=st.integers(1, E))
def test_groups_are_numbered_by_their_dominant_experts(seed, keep):
    like = numbers(seed, E, E)
    share = numbers(seed + 100, E).softmax(-1).tolist()
    for found in (around_dominant(like + like.T, share, keep), hierarchical(torch.sigmoid(like + like.T), share, keep)):
        assert [found.owner[d] for d in found.dominant] == list(range(keep))
        assert list(found.dominant) == sorted(found.dominant)
        for group, most_used in enumerate(found.dominant):
            assert most_used == max(found.members(group), key=lambda e: share[e])
            assert sum(found.shares(group)) == pytest.approx(1)


# --- what becomes of them --------------------------------------------------------------------------------------------


def stacks_of(kind, num_experts=2, seed=0):
    experts = kind.build(4, num_experts).double()
    tensors = [numbers(seed + i, *parameter.shape) for i, parameter in enumerate(experts.parameters())]
    return Stacks(*tensors)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.type}{'+bias' if kind.bias else ''}")
@settings(max_examples=15)
@given(order=st.permutations(range(5)), seed=st.integers(0, 9))
def test_alignment_undoes_a_permutation_of_hidden_units(kind, order, seed):
    stacks = stacks_of(kind, seed=seed)
    shuffled = all_reordered(stacks, 0, torch.tensor(order))
    both = Stacks(*(torch.stack([stack[0], other]) for stack, other in zip(stacks, shuffled)))
    for tensor_, stack in zip(all_reordered(both, 1, aligned_order(both, 1, like=0)), stacks):
        assert tensor_.equal(stack[0])


def all_reordered(stacks, e, order):
    return [reordered(stacks, index, e, order) for index, stack in enumerate(stacks) if stack is not None]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.type}{'+bias' if kind.bias else ''}")
def test_alignment_is_the_order_of_least_distance(kind):
    stacks = stacks_of(kind)

    def distance(order):
        pairs = zip(all_reordered(stacks, 1, torch.tensor(order)), stacks)
        return sum((a - stack[0]).square().sum().item() for a, stack in pairs)

    assert tuple(aligned_order(stacks, 1, like=0).tolist()) == min(permutations(range(5)), key=distance)


@pytest.mark.parametrize("align", [True, False])
def test_merged_weights_are_averages_by_frequency_of_aligned_experts(align):
    model = sparse(num_experts=4, kind=GLU)
    found = Groups(owner=(0, 0, 1, 0), dominant=(1, 2), frequency=(0.1, 0.5, 0.4, 0.0))
    after = share_experts(model, dict.fromkeys((0, 1), found), align=align)
    for layer in (0, 1):
        up, down = (tensor(model, layer, f"experts.{name}") for name in ("gate_up_EFD", "down_EDF"))
        order = aligned_order(Stacks(up, down), 0, like=1) if align else torch.arange(5)
        merged = tensor(after, layer, "experts.experts.down_EDF")
        same(merged[0], (0.1 * down[0][:, order] + 0.5 * down[1]) / 0.6)
        same(merged[1], down[2])
        gate, value = (side[order] for side in up[0].chunk(2))
        same(
            tensor(after, layer, "experts.experts.gate_up_EFD")[0], (0.1 * torch.cat([gate, value]) + 0.5 * up[1]) / 0.6
        )
        assert tensor(after, layer, "experts.owner_E").tolist() == [0, 0, 1, 0]


def test_experts_that_nobody_chose_weigh_the_same():
    model = sparse(num_experts=4)
    found = Groups(owner=(0, 1, 1, 0), dominant=(0, 1), frequency=(1.0, 0.0, 0.0, 0.0))
    down = tensor(model, 0, "experts.down_EDF")
    after = share_experts(model, dict.fromkeys((0, 1), found), align=False)
    same(tensor(after, 0, "experts.experts.down_EDF")[1], (down[1] + down[2]) / 2)


def with_copies(model, shuffle, copies=((1, 0), (4, 2), (5, 2))):
    """The model in which some experts are others, with hidden units in another order if told."""
    tensors = {name: model.tensors.read(name).clone() for name in model.tensors.specs}
    for layer in model.config.moe_layers:
        names = [name for name in tensors if name.startswith(f"blocks.{layer}.ffn.experts.")]
        for target, source in copies:
            own = Stacks(*(tensors[name] for name in names))
            order = torch.randperm(own.down_EDF.shape[2]) if shuffle else torch.arange(own.down_EDF.shape[2])
            for name, value in zip(names, all_reordered(own, source, order)):
                tensors[name][target] = value
    return model._replace(tensors=Held(tensors))


@pytest.mark.parametrize("grouping", ["dominant", "hierarchical"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.type}{'+bias' if kind.bias else ''}")
def test_equal_experts_are_merged_without_loss(kind, grouping):
    model = with_copies(sparse(num_experts=E, kind=kind), shuffle=False)
    like = Groups(owner=(0, 0, 1, 2, 1, 1), dominant=(0, 2, 3), frequency=(0.3, 0.1, 0.2, 0.1, 0.2, 0.1))
    again = share_experts(model, dict.fromkeys((0, 1), like))
    assert compare(model, again, TEXT).max_abs_logit < 1e-10
    if grouping == "dominant":
        return
    after = merge_experts(model, MergeConfig(keep=3, similarity="outputs", grouping=grouping), TEXT)
    check_theory(model, after, exact=True)
    assert all(found["owner"][0] == found["owner"][1] for found in after.decisions["layers"].values())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.type}{'+bias' if kind.bias else ''}")
def test_experts_equal_but_for_the_order_of_units_are_too_if_aligned(kind):
    model = with_copies(sparse(num_experts=E, kind=kind), shuffle=True)
    merged = {"keep": 3, "similarity": "outputs", "grouping": "hierarchical"}
    aligned = merge_experts(model, MergeConfig(**merged), TEXT)
    assert change(model, aligned) < 1e-10
    assert change(model, merge_experts(model, MergeConfig(**merged, align=False), TEXT)) > 1e-4


def test_merging_different_experts_is_not_exact_and_theory_says_so():
    model = sparse(num_experts=E)
    check_theory(model, merge_experts(model, MergeConfig(keep=3), TEXT), exact=False)
    check_theory(model, merge_experts(model, MergeConfig(keep=E), TEXT), exact=True)


@pytest.mark.parametrize(
    "router",
    [
        TopKRouterConfig(k=3, normalize=False),
        GroupLimitedRouterConfig(k=2, num_groups=2, keep_groups=1, selection_bias=SelectionBiasConfig()),
    ],
    ids=lambda router: router.type,
)
def test_any_router_keeps_its_columns(router):
    model = with_copies(sparse(num_experts=E, router=router), shuffle=True)
    after = merge_experts(model, MergeConfig(keep=3, similarity="outputs", grouping="hierarchical"), TEXT)
    assert change(model, after) < 1e-10
    assert after.model.config.moe.router == router
    assert after.model.config.moe.num_experts == E


def test_columns_may_be_dropped_and_those_of_dominant_experts_stay():
    model = sparse(num_experts=E, router=TopKRouterConfig(bias=True))
    after = merge_experts(model, MergeConfig(keep=4, columns="drop"), TEXT)
    check_theory(model, after, exact=False)
    assert after.model.config.moe.num_experts == 4
    assert after.model.config.moe.experts == model.config.moe.experts
    shared = merge_experts(model, MergeConfig(keep=4), TEXT).model
    for layer, found in after.decisions["layers"].items():
        for name in ("router.weight_ED", "router.bias_E"):
            assert tensor(after.model, layer, name).equal(tensor(model, layer, name)[list(found["dominant"])])
        merged = tensor(after.model, layer, "experts.down_EDF")
        assert merged.equal(tensor(shared, layer, "experts.experts.down_EDF"))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.type}{'+bias' if kind.bias else ''}")
def test_untied_it_is_the_same_ordinary_model(kind):
    model = sparse(num_experts=E, kind=kind)
    merged = merge_experts(model, MergeConfig(keep=3), TEXT).model
    ordinary = untie(merged).model
    check_theory(merged, untie(merged), exact=True)
    assert ordinary.config == model.config
    assert compare(merged, ordinary, TEXT).max_abs_logit < 1e-12
    assert count_by_formula(merged.config).parameters_total < count_by_formula(model.config).parameters_total
    with pytest.raises(ValueError, match="experts: must be tied to be untied, got"):
        untie(model)


def test_decisions_go_to_json_and_repeat_the_edit():
    model = sparse(num_experts=E)
    after = merge_experts(model, MergeConfig(keep=3), TEXT)
    layers = json.loads(json.dumps(after.decisions))["layers"]
    again = share_experts(model, {int(layer): Groups(*map(tuple, found.values())) for layer, found in layers.items()})
    assert again.config == after.model.config
    assert all(again.tensors.read(n).equal(after.model.tensors.read(n)) for n in again.tensors.specs)
    built(again)


def test_each_tensor_of_a_layer_is_read_once_and_dtypes_stay():
    model = sparse(num_experts=E, kind=GLUExpertsConfig(hidden=5, bias=True))
    narrow = {name: model.tensors.read(name).bfloat16() for name in model.tensors.specs}
    model = model._replace(tensors=Counted(narrow))
    found = Groups(owner=(0, 0, 1, 0, 1, 1), dominant=(1, 2), frequency=(0.1, 0.3, 0.3, 0.1, 0.1, 0.1))
    after = share_experts(model, dict.fromkeys((0, 1), found))
    for name, spec in after.tensors.specs.items():
        assert after.tensors.read(name).dtype == spec.dtype == (torch.int64 if "owner" in name else torch.bfloat16)
    assert set(model.tensors.reads.values()) == {1}


# --- what is refused -------------------------------------------------------------------------------------------------

CONCAT = ConcatExpertsConfig(parts=(Part(num_experts=E, experts=GLU),))
REFUSED = {
    "keep: must be in 1..6, as many as there are, got 7; change it": ({}, {"keep": 7}),
    "experts: must be glu, clamped_glu or mlp for merging, got concat": ({"kind": CONCAT}, {"keep": 3}),
    "similarity: must not be of logits with a router that has none, got logits; use similarity='outputs'": (
        {"router": HashRouterConfig(vocab_size=17)},
        {"keep": 3},
    ),
    "columns: must be shared where the router has groups of experts, got 3; use columns='share'": (
        {"router": GroupLimitedRouterConfig(k=2, num_groups=3, keep_groups=2)},
        {"keep": 3, "columns": "drop"},
    ),
    "keep: must be at least the k=2 experts a token goes to, got 1; raise it": ({}, {"keep": 1, "columns": "drop"}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_merged_is_refused(message):
    fields, settings = REFUSED[message]
    with pytest.raises((ValueError, TypeError)) as refused:
        merge_experts(sparse(num_experts=E, **fields), MergeConfig(**settings), TEXT)
    assert str(refused.value).startswith(message)


def test_merged_models_are_not_pruned():
    merged = merge_experts(sparse(num_experts=E), MergeConfig(keep=3), TEXT).model
    with pytest.raises((ValueError, TypeError), match="experts: must be glu, clamped_glu or mlp for pruning, got tied"):
        prune(merged, PruneConfig(keep=4), TEXT)


def test_a_shared_expert_stays_as_it_is():
    moe = MoEConfig(num_experts=E, experts=GLU, shared=GLUExpertsConfig(hidden=3), shared_gate=True, routed_scale=2.5)
    model = with_copies(stored(moe=moe), shuffle=True)
    after = merge_experts(model, MergeConfig(keep=3, similarity="outputs", grouping="hierarchical"), TEXT)
    assert change(model, after) < 1e-10
