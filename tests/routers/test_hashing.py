"""Hash layers: fixed tables from token ids to experts, by lot or balanced by frequency."""

from collections import Counter

import pytest
import torch
from cases import same
from hypothesis import given
from hypothesis import strategies as st
from references import assignment

from sparsemix import TokenInfo
from sparsemix.routers import HashRouterConfig


def route(router, ids: list[int], **info):
    return router(torch.zeros(len(ids), 2), TokenInfo(id_T=torch.tensor(ids, dtype=torch.int64), **info))


def test_the_same_id_has_the_same_expert_in_every_context():
    router = HashRouterConfig(vocab_size=50, seed=3).build(2, 8)
    alone = {i: route(router, [i]).expert_N.item() for i in range(50)}
    ids = torch.randint(50, (200,)).tolist()
    expert_N = route(router.eval(), ids).expert_N.tolist()
    assert expert_N == [alone[i] for i in ids]
    edges = assignment.hashed(ids, router.expert_VK[:, 0].tolist())
    assert expert_N == [edge.expert for edge in edges]


@pytest.mark.parametrize("table", ["random", "balanced"])
@pytest.mark.parametrize(("k", "num_experts"), [(1, 1), (1, 5), (3, 5), (5, 5)])
def test_k_different_experts_an_id_each_with_weight_one_kth(table, k, num_experts):
    router = HashRouterConfig(vocab_size=40, k=k, table=table).build(2, num_experts)
    routing = route(router, list(range(40)))
    assert routing.edges_per_token == k
    assert all(len(set(chosen)) == k for chosen in routing.expert_N.view(40, k).tolist())
    assert ((routing.expert_N >= 0) & (routing.expert_N < num_experts)).all()
    same(routing.weight_N, torch.full((40 * k,), 1 / k))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_every_choice_is_as_likely_as_any_other_in_a_random_table(k):
    """40,000 ids and at most 6 choices of k among 4: five standard deviations are 5 sqrt(p (1 - p) / 40,000)."""
    expert_VK = HashRouterConfig(vocab_size=40_000, k=k).build(2, 4).expert_VK
    counts = Counter(tuple(sorted(chosen)) for chosen in expert_VK.tolist())
    number = {1: 4, 2: 6, 3: 4}[k]
    assert len(counts) == number
    deviation = (1 / number * (1 - 1 / number) / 40_000) ** 0.5
    assert all(abs(count / 40_000 - 1 / number) < 5 * deviation for count in counts.values())


def test_a_seed_makes_the_same_table_again_and_another_seed_another():
    tables = [HashRouterConfig(vocab_size=100, seed=seed).build(2, 8).expert_VK for seed in (0, 0, 1)]
    assert tables[0].equal(tables[1])
    assert not tables[0].equal(tables[2])


def test_a_random_table_leaves_the_default_stream_of_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    HashRouterConfig(vocab_size=10).build(2, 4)
    assert torch.rand(3).equal(expected)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.integers(1, 5))
def test_the_balanced_table_is_that_of_a_loop(frequencies, num_experts):
    config = HashRouterConfig(
        vocab_size=len(frequencies), table="balanced", frequencies=tuple(float(f) for f in frequencies)
    )
    expert_VK = config.build(2, num_experts).expert_VK
    assert expert_VK[:, 0].tolist() == assignment.balanced_table(frequencies, num_experts)


@pytest.mark.parametrize("k", [1, 2])
def test_a_balanced_table_splits_zipfs_law_evenly_where_a_random_one_does_not(k):
    frequencies = tuple(1 / (rank + 1) for rank in range(5000))
    loads = {}
    for table in ("random", "balanced"):
        config = HashRouterConfig(
            vocab_size=5000, k=k, table=table, frequencies=frequencies if table == "balanced" else None
        )
        expert_VK = config.build(2, 4).expert_VK
        weight_N = torch.tensor(frequencies).repeat_interleave(k)
        load_E = torch.zeros(4).index_add_(0, expert_VK.flatten(), weight_N)
        loads[table] = (load_E.max() / load_E.mean()).item()
    assert loads["balanced"] < 1.001
    assert loads["random"] > 1.05


def test_without_frequencies_a_balanced_table_gives_each_expert_as_many_ids():
    expert_VK = HashRouterConfig(vocab_size=12, k=2, table="balanced").build(2, 4).expert_VK
    assert torch.bincount(expert_VK.flatten()).tolist() == [6] * 4


def test_nothing_is_learned_and_the_table_is_saved():
    router = HashRouterConfig(vocab_size=10).build(2, 4)
    assert list(router.parameters()) == []
    assert router.state_dict()["expert_VK"].shape == (10, 1)
    assert router.bfloat16().expert_VK.dtype == torch.int64
    routing = route(router, [1, 2])
    assert routing.logits_TE is None
    assert routing.probs_TE is None
    assert router.statistic(routing) is None


def test_padding_may_have_any_id():
    router = HashRouterConfig(vocab_size=10).build(2, 4)
    routing = route(router, [-1, 3, 99], valid_T=torch.tensor([False, True, False]))
    assert routing.live_N.tolist() == [False, True, False]


@pytest.mark.parametrize("ids", [[0, 10], [-1, 3]])
def test_an_id_outside_the_table_is_refused(ids):
    router = HashRouterConfig(vocab_size=10).build(2, 4)
    with pytest.raises(ValueError, match=r"^info.id_T: must be in 0..vocab_size - 1, got .* with vocab_size=10"):
        route(router, ids)


def test_ids_are_needed_one_a_token():
    router = HashRouterConfig(vocab_size=10).build(2, 4)
    with pytest.raises(ValueError, match=r"^info.id_T: is needed by hash routing, got None; pass info=TokenInfo"):
        router(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"^info.id_T: size of axis 0 must be 3, got shape \(2,\)"):
        router(torch.zeros(3, 2), TokenInfo(id_T=torch.tensor([1, 2])))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k": 5}, r"^k: must be in 1..num_experts, got k=5 with num_experts=4"),
        ({"frequencies": (1.0,)}, r"frequencies: are for the balanced table, got table=random; use table='balanced'"),
        ({"table": "balanced", "frequencies": (1.0, 2.0)}, r"frequencies: must be 3 numbers, got 2; give one an id"),
        ({"table": "balanced", "frequencies": (1.0, 2.0, -1.0)}, r"frequencies: must not be negative, got -1.0"),
    ],
)
def test_impossible_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        HashRouterConfig(vocab_size=3, **fields).build(2, 4)
