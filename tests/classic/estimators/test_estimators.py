"""What fitted estimators say, against plain formulas over their parts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse, stats
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import SplineTransformer
from sklearn.tree import DecisionTreeRegressor

from sparsemix.classic import (
    ClassifierGate,
    EstimatorExperts,
    GaussianGate,
    HierarchicalMoEClassifier,
    HierarchicalMoERegressor,
    LinearExperts,
    MoEClassifier,
    MoERegressor,
    SoftmaxGate,
)
from tests.classic.tables import classes, regimes

REGRESSORS = [MoERegressor(), HierarchicalMoERegressor()]
CLASSIFIERS = [MoEClassifier(), HierarchicalMoEClassifier()]


@pytest.fixture(scope="module")
def fitted() -> MoERegressor:
    return MoERegressor().fit(*regimes())


@pytest.fixture(scope="module")
def classifier() -> MoEClassifier:
    return MoEClassifier().fit(*classes())


def component_densities(model: MoERegressor, X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """p(e | x) N(y; mu_e(x), sigma_e^2), (N, E), row by row."""
    gate_NE, mean_NE = model.gate(X), model.experts_.output(X)[:, :, 0]
    deviation_E = np.sqrt(model.experts_.variance(X)[0, :, 0])
    return np.array(
        [
            [g * stats.norm.pdf(t, m, s) for g, m, s in zip(gs, ms, deviation_E)]
            for gs, ms, t in zip(gate_NE, mean_NE, y)
        ]
    )


@pytest.mark.parametrize("model", REGRESSORS)
def test_regressors_find_the_regimes(model):
    X, y = regimes()
    new_X, new_y = regimes(seed=1)
    assert Ridge().fit(X, y).score(new_X, new_y) < 0.5
    assert clone(model).fit(X, y).score(new_X, new_y) > 0.95


@pytest.mark.parametrize("model", CLASSIFIERS)
def test_classifiers_find_the_regimes(model):
    X, y = classes()
    new_X, new_y = classes(seed=1)
    assert LogisticRegression().fit(X, y).score(new_X, new_y) < 0.7
    assert clone(model).fit(X, y).score(new_X, new_y) > 0.9


def test_density_responsibilities_and_mean_are_those_of_the_parts(fitted):
    X, y = regimes(20, seed=1)
    density_NE = component_densities(fitted, X, y)
    np.testing.assert_allclose(fitted.score_samples(X, y), np.log(density_NE.sum(axis=1)), rtol=1e-9)
    share_NE = density_NE / density_NE.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(fitted.responsibilities(X, y), share_NE, rtol=1e-8, atol=1e-12)
    mean_N = (fitted.gate(X) * fitted.experts_.output(X)[:, :, 0]).sum(axis=1)
    np.testing.assert_allclose(fitted.predict(X), mean_N)


def test_density_without_targets_is_that_of_the_prediction(fitted, classifier):
    X = regimes(20, seed=1)[0]
    np.testing.assert_array_equal(fitted.score_samples(X), fitted.score_samples(X, fitted.predict(X)))
    np.testing.assert_allclose(classifier.score_samples(X), np.log(classifier.predict_proba(X).max(axis=1)))


def test_a_gate_that_models_x_leaves_the_density_conditional():
    X, y = regimes()
    model = MoERegressor(gating=GaussianGate()).fit(X, y)
    np.testing.assert_allclose(model.score_samples(X, y), np.log(component_densities(model, X, y).sum(axis=1)))


def test_distribution_agrees_with_quantiles_and_standard_deviation(fitted):
    X = regimes(30, seed=1)[0]
    mean_N, std_N = fitted.predict(X, return_std=True)
    distribution = fitted.predict_dist(X)
    np.testing.assert_allclose(mean_N, fitted.predict(X))
    np.testing.assert_allclose(std_N, np.sqrt(distribution.var()))
    for place, quantile in enumerate((0.1, 0.5, 0.9)):
        y_N = fitted.predict_quantiles(X, (0.1, 0.5, 0.9))[:, place]
        np.testing.assert_allclose(distribution.cdf(y_N), quantile, atol=1e-8)


def test_samples_have_the_moments_of_the_distribution(fitted):
    X = regimes(5, seed=1)[0]
    mean_N, std_N = fitted.predict(X, return_std=True)
    y_NS = fitted.sample(X, 4000, random_state=0)
    assert y_NS.shape == (5, 4000)
    np.testing.assert_allclose((y_NS.mean(axis=1) - mean_N) / std_N, 0, atol=0.08)
    np.testing.assert_allclose(y_NS.std(axis=1) / std_N, 1, atol=0.1)
    np.testing.assert_array_equal(y_NS, fitted.sample(X, 4000, random_state=0))


def test_classes_are_drawn_by_their_probabilities(classifier):
    X = classes(5, seed=1)[0]
    drawn = classifier.sample(X, 4000, random_state=0)
    share_NK = np.stack([(drawn == label).mean(axis=1) for label in classifier.classes_], axis=1)
    np.testing.assert_allclose(share_NK, classifier.predict_proba(X), atol=0.03)
    np.testing.assert_allclose(np.exp(classifier.predict_log_proba(X)), classifier.predict_proba(X))


def test_criteria_count_parameters_and_weights(fitted):
    X, y = regimes(60, seed=1)
    weight_N = np.tile([1.0, 2.0, 0.0], 20)
    log_likelihood = weight_N @ fitted.score_samples(X, y)
    assert fitted.n_parameters_ == 2 * (3 + 1 + 1) + (3 + 1)
    np.testing.assert_allclose(fitted.bic(X, y, weight_N), 14 * np.log(60) - 2 * log_likelihood)
    np.testing.assert_allclose(fitted.aic(X, y, weight_N), 28 - 2 * log_likelihood)
    repeated = np.repeat(np.arange(60), weight_N.astype(int))
    np.testing.assert_allclose(fitted.bic(X, y, weight_N), fitted.bic(X[repeated], y[repeated]))


def test_several_outputs_keep_their_shape():
    X, y = regimes()
    both = np.column_stack([y, 5 - 2 * y])
    model = MoERegressor().fit(X, both)
    assert model.predict(X).shape == (300, 2)
    assert [part.shape for part in model.predict(X, return_std=True)] == [(300, 2), (300, 2)]
    assert model.predict_quantiles(X, [0.1, 0.5, 0.9]).shape == (300, 2, 3)
    assert model.sample(X, 4).shape == (300, 2, 4)
    assert model.responsibilities(X, both).shape == (300, 2)
    assert model.score(X, both) > 0.95
    np.testing.assert_allclose(model.predict(X)[:, 1], 5 - 2 * model.predict(X)[:, 0], atol=0.05)


@pytest.mark.parametrize("em", ["soft", "hard", "stochastic"])
def test_variants_of_em_fit(em):
    X, y = regimes()
    assert MoERegressor(em=em, random_state=0).fit(X, y).score(X, y) > 0.95


@pytest.mark.parametrize("pooling", ["hard", 1, 2, "stacking"])
def test_pooling_of_regressors_and_classifiers(pooling):
    X, y = regimes()
    model = MoERegressor(pooling=pooling).fit(X, y)
    assert model.score(X, y) > 0.95
    np.testing.assert_allclose(model.predict_dist(X).mean(), model.predict(X))
    X, y = classes()
    proba_NK = MoEClassifier(pooling=pooling).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(proba_NK.sum(axis=1), 1)


def test_one_expert_alone_is_asked_by_hard_pooling(fitted):
    X = regimes(50, seed=1)[0]
    hard = clone(fitted).set_params(pooling="hard").fit(*regimes())
    first_N = hard.gate(X).argmax(axis=1)
    np.testing.assert_allclose(hard.predict(X), hard.experts_.output(X)[np.arange(50), first_N, 0])


@pytest.mark.parametrize("n_experts", ["bic", "cv", "prune"])
def test_the_number_of_experts_is_found(n_experts):
    X, y = regimes()
    model = MoERegressor(n_experts=n_experts, n_experts_range=(1, 3), pooling=3).fit(X, y)
    assert model.n_experts_ == 2
    assert list(model.selection_["n_experts"]) == [1, 2, 3]
    assert model.predict(X).shape == (300,)
    assert not hasattr(model.set_params(n_experts=3).fit(X, y), "selection_")


def test_transform_is_the_gate_and_has_names(fitted):
    X = regimes(10, seed=1)[0]
    np.testing.assert_array_equal(fitted.transform(X), fitted.gate(X))
    assert list(fitted.get_feature_names_out()) == ["moeregressor0", "moeregressor1"]


def test_warm_start_goes_on_where_em_ended():
    X, y = regimes()
    whole = MoERegressor(tol=0).fit(X, y)
    model = MoERegressor(warm_start=True, max_iter=1, tol=0).fit(X, y)
    assert not model.converged_
    reached = model.objective_path_[-1]
    model.set_params(max_iter=200).fit(X, y)
    assert model.objective_path_[0] >= reached
    np.testing.assert_allclose(model.objective_path_[-1], whole.objective_path_[-1], rtol=1e-6)


@pytest.mark.parametrize(
    "changes", [{"expert": Ridge(alpha=1e4)}, {"expert__alpha": 1e4}, {"gating": SoftmaxGate(alpha=1e4)}]
)
def test_warm_start_takes_over_changed_parts(changes):
    X, y = regimes()
    model = MoERegressor(LinearExperts(), warm_start=True, max_iter=50, random_state=0).fit(X, y)
    model.set_params(**changes).fit(X, y)
    fresh = clone(model).set_params(max_iter=200).fit(X, y)
    model.set_params(max_iter=200).fit(X, y)
    np.testing.assert_allclose(model.predict(X), fresh.predict(X), atol=1e-2)


def test_warm_start_goes_on_with_a_copy_of_the_same_parts():
    X, y = regimes()
    parts = {"expert": [Ridge(alpha=2), Ridge()], "gating": SoftmaxGate(features=SplineTransformer(3))}
    model = MoERegressor(**parts, warm_start=True, max_iter=5, tol=0, random_state=0).fit(X, y)
    reached = model.objective_path_[-1]
    model.set_params(expert=clone(parts["expert"]), gating=clone(parts["gating"])).fit(X, y)
    assert model.objective_path_[0] >= reached
    parts["expert"][1].alpha = 1e4  # in the list that the fit was given
    model.set_params(expert=parts["expert"]).fit(X, y)
    assert model.objective_path_[0] < reached


@pytest.mark.parametrize("changes", [{}, {"expert__alpha": 1e4}])
def test_warm_start_needs_as_many_rows_as_a_fit(changes):
    X, y = regimes()
    model = MoERegressor(LinearExperts(), warm_start=True).fit(X, y).set_params(**changes)
    with pytest.raises(ValueError, match=r"X: must have as many rows .* as there are experts, got n_samples=1 for"):
        model.fit(X[:1], y[:1])


def test_warm_start_keeps_experts_and_columns():
    X, y = regimes()
    model = MoERegressor(warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match="n_experts: must stay 2"):
        model.set_params(n_experts=3).fit(X, y)
    with pytest.raises(ValueError, match="2 features"):
        model.set_params(n_experts=2).fit(X[:, :2], y)


def test_progress_is_one_line_an_iteration(capsys):
    model = MoERegressor(verbose=1, max_iter=3).fit(*regimes())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == model.n_iter_
    assert lines[0].startswith("[MoERegressor] iteration 1, objective ")


def test_sparse_and_single_precision_columns_are_taken_as_they_are(fitted):
    X, y = regimes()
    rows = sparse.csr_matrix(X)
    np.testing.assert_allclose(MoERegressor().fit(rows, y).predict(rows), fitted.predict(X), atol=1e-6)
    single = MoERegressor().fit(X.astype(np.float32), y)
    np.testing.assert_allclose(single.predict(X.astype(np.float32)), fitted.predict(X), atol=1e-3)


def test_blocks_of_rows_change_nothing(fitted):
    X, y = regimes(20_000, seed=1)
    some = slice(9_000, 9_100)
    np.testing.assert_allclose(fitted.predict(X)[some], fitted.predict(X[some]), rtol=1e-12)
    np.testing.assert_allclose(fitted.gate(X)[some], fitted.gate(X[some]), rtol=1e-12)
    np.testing.assert_allclose(fitted.score_samples(X, y)[some], fitted.score_samples(X[some], y[some]), rtol=1e-12)


def test_parameters_of_parts_can_be_searched():
    X, y = regimes()
    search = GridSearchCV(MoERegressor(gating=GaussianGate()), {"n_experts": [1, 2]}, cv=3).fit(X, y)
    assert search.best_params_ == {"n_experts": 2}
    assert clone(MoERegressor(expert=Ridge(alpha=3))).get_params()["expert__alpha"] == 3


def test_equal_settings_give_equal_models():
    X, y = regimes()
    for start in ("splits", "kmeans", "residuals", "random"):
        models = [MoERegressor(start=start, n_init=2, random_state=0).fit(X, y) for _ in range(2)]
        np.testing.assert_array_equal(models[0].predict(X), models[1].predict(X))


@pytest.mark.parametrize(
    "parts",
    [
        {"expert": EstimatorExperts(DecisionTreeRegressor(max_depth=3), cross_fit=3)},
        {"gating": ClassifierGate(RandomForestClassifier(3, min_samples_leaf=5))},
    ],
)
def test_the_seed_reaches_parts_that_have_none(parts):
    X, y = regimes()
    model = MoERegressor(**parts, max_iter=3, random_state=0)
    first, again = model.fit(X, y).predict(X), model.fit(X, y).predict(X)
    np.testing.assert_array_equal(first, again)
    assert (model.set_params(random_state=1).fit(X, y).predict(X) != first).any()


@pytest.mark.slow
def test_the_choice_of_a_number_does_not_depend_on_parallel_fits():
    X, y = regimes()
    trees = DecisionTreeRegressor(max_depth=3, max_features=1)
    model = MoERegressor(trees, n_experts="bic", n_experts_range=(1, 3), max_iter=2, random_state=0)
    alone = model.fit(X, y).selection_["bic"]
    np.testing.assert_allclose(model.set_params(n_jobs=2).fit(X, y).selection_["bic"], alone, rtol=1e-9)
