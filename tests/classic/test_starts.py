"""Starts: shares that sum to one, that depend on the weighted rows alone, and from which EM finds the regimes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from sparsemix.classic import ConstantGate, LinearExperts, SoftmaxGate
from sparsemix.classic.em.assign import Soft
from sparsemix.classic.em.loop import Stopping
from sparsemix.classic.fitting.mixtures import Plan, fit_mixture
from sparsemix.classic.parts import Table
from sparsemix.classic.starts import STARTS, cells, kmeans, random, splits, starting, trials
from sparsemix.classic.starts.cuts import directions, edge
from sparsemix.classic.starts.gains import best_splits, gains
from sparsemix.classic.starts.moments import part
from sparsemix.classic.starts.seen import ENOUGH, MOST, seen, thinned
from tests.classic.problems import classes, pieces, regression, sign_times, two_laws


def chance(seed=0):
    return np.random.RandomState(seed)


@pytest.mark.parametrize("start", [*STARTS.values(), cells, trials])
@pytest.mark.parametrize("table", [regression(*pieces(0, 3)), classes(0, 200), classes(0, 200, 3)])
@pytest.mark.parametrize("n_experts", [1, 2, 5])
def test_shares_sum_to_one(start, table, n_experts):
    share_NE = start(table, n_experts, chance())
    assert share_NE.shape == (len(table.weight_N), n_experts)
    assert (share_NE >= 0).all()
    assert share_NE.sum(axis=1) == pytest.approx(1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.integers(1, 4), st.integers(2, 4), st.booleans())
def test_splits_of_any_table(seed, rows, features, n_experts, whole):
    """Few rows, ties, constant columns, weights of 0: shares stay shares."""
    random_state = chance(seed)
    X = random_state.randint(0, 3, size=(rows, features)) + 0.0 if whole else random_state.randn(rows, features)
    weight_N = np.append([1.0, 1.0], random_state.randint(0, 3, size=rows - 2))
    share_NE = splits(regression(X, random_state.randn(rows, 2), weight_N), n_experts, chance())
    assert share_NE.sum(axis=1) == pytest.approx(1)
    assert (share_NE >= 0).all()


@pytest.mark.parametrize("make", [lambda: regression(*pieces(1, 4)), lambda: classes(1, 300, 3)])
def test_splits_depend_on_the_weighted_rows_alone(make):
    table = make()
    random_state = chance(7)
    count_N = random_state.randint(0, 4, size=len(table.weight_N))
    weighted = table._replace(weight_N=count_N.astype(float))
    order_N = random_state.permutation(np.repeat(np.arange(len(count_N)), count_N))
    repeated = table.rows(order_N)
    np.testing.assert_allclose(splits(repeated, 4, chance()), splits(weighted, 4, chance())[order_N], atol=1e-6)


@pytest.mark.parametrize("unit", [1e-3, 1e3])
@pytest.mark.parametrize("make", [lambda: regression(*pieces(1, 4)), lambda: classes(1, 300, 3)])
def test_the_unit_of_weights_does_not_change_splits(make, unit):
    table = make()
    scaled = table._replace(weight_N=table.weight_N * unit)
    np.testing.assert_allclose(splits(scaled, 4, chance()), splits(table, 4, chance()), atol=1e-6)


def test_the_order_of_columns_changes_nothing_that_is_found():
    X, y = pieces(2, 3)
    once = splits(regression(X, y), 3, chance())
    again = splits(regression(X[:, ::-1].copy(), y), 3, chance())
    np.testing.assert_allclose(again, once, atol=1e-6)


def test_sparse_and_single_precision_tables_start_as_dense_ones():
    random_state = chance(3)
    X = np.where(random_state.rand(300, 6) < 0.5, 0.0, random_state.randn(300, 6))
    y = np.where(X[:, 0] > 0.1, X[:, 1], -X[:, 1]) + 0.1 * random_state.randn(300)
    dense = splits(regression(X, y), 2, chance())
    np.testing.assert_allclose(splits(regression(X.astype(np.float32), y), 2, chance()), dense, atol=1e-2)
    thin = splits(Table(sparse.csr_matrix(X), y[:, None], np.ones(300)), 2, chance())
    assert (thin.argmax(axis=1) == dense.argmax(axis=1)).mean() > 0.95


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_of_many_columns_those_that_tell_are_seen(kind):
    random_state = chance(4)
    X = random_state.randn(1500, 300)
    y = X[:, 250] + np.abs(X[:, 17]) * 2 + 0.1 * random_state.randn(1500)
    rows = seen(Table(kind(X), y[:, None], np.ones(1500)))
    assert rows.z_ND.shape == (1500, MOST)
    for column in (17, 250):
        assert max(abs(np.corrcoef(rows.z_ND.T, X[:, column])[-1, :-1])) > 0.999


def test_of_many_rows_a_part_is_taken_by_what_they_hold():
    random_state = chance(5)
    X, y = random_state.randn(50_000, 2), random_state.randn(50_000)
    rows = seen(regression(X, y))
    taken = thinned(rows)
    assert len(taken) == pytest.approx(ENOUGH, rel=0.05)
    assert rows.t_NM[taken].mean() == pytest.approx(0, abs=0.05)
    assert np.cov(rows.z_ND[taken].T) == pytest.approx(np.eye(2), abs=0.05)
    half_N = np.where(np.arange(50_000) < 25_000, 2.0, 0.0)
    order_N = random_state.permutation(np.repeat(np.arange(25_000), 2))
    weighted = thinned(seen(regression(X, y, half_N)))
    repeated = thinned(seen(regression(X[order_N], y[order_N])))
    assert set(order_N[repeated]) == set(weighted[weighted < 25_000])


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_the_unit_of_weights_does_not_change_which_rows_are_taken(unit):
    random_state = chance(5)
    X, y, weight_N = random_state.randn(40_000, 2), random_state.randn(40_000), random_state.uniform(1, 2, 40_000)
    taken = thinned(seen(regression(X, y, weight_N)))
    assert len(taken) == pytest.approx(ENOUGH, rel=0.05)
    np.testing.assert_array_equal(thinned(seen(regression(X, y, weight_N * unit))), taken)


def test_different_rows_are_counted_whatever_their_order_or_number():
    """On a grid sums of values times square roots can agree; and a product of matrices rounds rows differently."""
    grid = np.stack(np.meshgrid(*[np.arange(7.0)] * 4), axis=-1).reshape(-1, 4)
    order_N = chance(8).permutation(np.repeat(np.arange(len(grid)), 3))
    for rows in (grid, grid[order_N]):
        assert seen(regression(rows[:, :3], rows[:, 3])).weight_N.sum() == pytest.approx(7**4)


def test_of_few_different_rows_all_are_taken():
    X = np.repeat([[0.0], [1.0], [2.0]], 20_000, axis=0)
    assert len(thinned(seen(regression(X, X[:, 0] ** 2)))) == 60_000


def test_many_rows_start_as_well_as_few():
    random_state = chance(6)
    X = random_state.uniform(-1, 1, size=(60_000, 3))
    y = np.abs(X[:, 0]) + 0.05 * random_state.randn(60_000)
    share_NE = splits(regression(X, y), 2, chance())
    assert share_NE.sum(axis=1) == pytest.approx(1)
    upper_N = share_NE.argmax(axis=1) == share_NE[X[:, 0].argmax()].argmax()
    assert (upper_N == (X[:, 0] > 0))[np.abs(X[:, 0]) > 0.1].mean() > 0.95


def test_edges_are_smooth_and_end():
    place = np.linspace(-1, 1, 2001)
    share = edge(place)
    assert share.max() == 1
    assert share[place <= -0.5].max() == 0
    assert share[place >= 0.5].min() == 1
    assert (np.diff(share) >= 0).all()
    assert share + edge(-place) == pytest.approx(1)


def test_rounding_does_not_carry_edges_past_1():
    """The other side's share would be below 0, its root NaN, and an expert left without a fit."""
    assert edge(np.linspace(0.49, 0.5, 100_001)).max() <= 1.0


def test_the_first_cut_is_where_the_law_changes():
    X, y = sign_times(0)
    rows = seen(regression(X, y))
    across, _ = best_splits(rows, np.ones(1000))
    assert ((across.upper_N > 0.5) == (X[:, 1] > 0)).mean() in (pytest.approx(1, abs=0.05), pytest.approx(0, abs=0.05))


def test_oblique_cuts_are_found_by_principal_hessian_directions():
    random_state = chance(5)
    X = random_state.randn(2000, 6)
    across_D, slope_D = np.array([1, -1, 1, 0, 0, 0]) / 3**0.5, np.array([1, 1, 0, 0, 1, 0]) / 3**0.5
    y = np.sign(X @ across_D) * (X @ slope_D)
    whole = part(seen(regression(X, y)), np.ones(2000))
    vector_DC = directions(whole).cuts.vector_DC[1:]
    assert max(abs(across_D @ vector_DC) / np.linalg.norm(vector_DC, axis=0)) > 0.97


def test_laws_that_columns_do_not_tell_apart_are_cut_by_residuals():
    X, y = two_laws(0)
    across, residual = best_splits(seen(regression(X, y)), np.ones(1000))
    assert residual.gain > max(across.gain, 0)
    assert abs(np.corrcoef(residual.upper_N, np.sign(X[:, 0] * y))[0, 1]) > 0.7


def test_noise_is_not_worth_a_cut_by_residuals():
    random_state = chance(6)
    X = random_state.randn(1000, 3)
    _, residual = best_splits(seen(regression(X, X[:, 0] + random_state.randn(1000))), np.ones(1000))
    assert residual.gain < 0


def test_gains_are_those_of_two_fits():
    """Against plain weighted least squares of each side, whose variances are drawn to the whole's by D rows."""
    X, y = pieces(5, 2, rows=300)
    rows = seen(regression(X, y))
    whole = part(rows, np.ones(300))
    cuts = directions(whole).cuts.chosen(np.array([0]))
    upper_N = cuts.shares(whole.u_ND, whole.residual_NM)[:, 0]
    design_ND = np.column_stack([np.ones(300), rows.z_ND])
    features = design_ND.shape[1]
    expected = 0.0
    for share_N in (upper_N, 1 - upper_N):
        ridge_DD = np.diag([1e-9, *np.ones(features - 1)])
        moment_DD = design_ND.T @ (design_ND * share_N[:, None])
        target_D = design_ND.T @ (share_N * rows.t_NM[:, 0])
        coef_D = np.linalg.solve(moment_DD + ridge_DD, target_D)
        squares = share_N @ rows.t_NM[:, 0] ** 2 - target_D @ coef_D
        drawn = (squares + features * whole.variance_M[0]) / (share_N.sum() + features)
        expected -= 0.5 * share_N.sum() * np.log(drawn / whole.variance_M[0])
    assert gains(whole, cuts)[0] == pytest.approx(expected)


@pytest.mark.parametrize("rows", [300, 3000])
def test_rows_without_weight_do_not_change_trials(rows):
    X, y = two_laws(0, rows)
    weight_N = np.where(np.arange(rows) % 3, 1.0, 0.0)
    moved_N = np.where(weight_N > 0, y, 50 + y)
    kept_N = np.flatnonzero(weight_N)
    share_NE = trials(regression(X, moved_N, weight_N), 3, chance())[kept_N]
    np.testing.assert_allclose(share_NE, trials(regression(X[kept_N], y[kept_N]), 3, chance()), atol=1e-9)


def test_trials_begin_higher_than_random_responsibilities():
    table = regression(*two_laws(0, 300))
    one_step = Plan(LinearExperts(), ConstantGate(), (), Soft(), Stopping(1, 0.0))
    tried, *drawn = [
        fit_mixture(one_step._replace(starts=(start,)), table, 2, chance(seed)).objective
        for seed, start in enumerate([trials, *[random] * 10])
    ]
    assert tried > max(drawn) + 30


def test_starting_repeats_what_is_drawn_and_adds_two_kinds_of_draws_to_what_is_not():
    assert starting("splits", 4) == (splits, trials, cells, trials)
    assert starting("kmeans", 2) == (kmeans, kmeans)
    assert starting("random", 1) == (random,)


@pytest.mark.slow
def test_splits_reach_the_best_of_many_random_starts():
    """Of 20 tables with three to five regimes and two columns of noise, most: within 1% of the best of 30 draws.

    It is 16 of them; the bound leaves one to the rounding of other machines. Comparing cuts longer reaches higher on
    some, and costs every fit time (docs/log.md).
    """
    reached = 0
    for seed in range(20):
        n_experts = 3 + seed % 3
        table = regression(*pieces(seed, n_experts))
        plan = Plan(LinearExperts(), SoftmaxGate(), (splits,), Soft(), Stopping(200, 1e-6))
        own = fit_mixture(plan, table, n_experts, chance()).objective
        drawn = fit_mixture(plan._replace(starts=(random,) * 30), table, n_experts, chance(seed)).objective
        reached += own >= drawn - 0.01 * abs(drawn)
    assert reached >= 15
