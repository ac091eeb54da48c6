"""Bad input: one line that names it, and an estimator that is as it was."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.tree import DecisionTreeRegressor

from sparsemix.classic import HierarchicalMoEClassifier, HierarchicalMoERegressor, MoEClassifier, MoERegressor
from sparsemix.classic.experts import LinearExperts, LogisticExperts
from tests.classic.tables import classes, regimes

X, Y = regimes(40)
LABELS = classes(40)[1]


def raises(match: str):
    """A `ValueError` of one line that matches."""
    return pytest.raises(ValueError, match=rf"\A[^\n]*{match}[^\n]*\Z")


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"n_experts": 0}, "n_experts: must be a whole number, at least 1, got 0"),
        ({"n_experts": 2.0}, "n_experts: must be a whole number"),
        ({"n_experts": True}, "n_experts: must be a whole number"),
        ({"n_experts": "aic"}, "n_experts: must be one of bic, cv, prune, got 'aic'"),
        ({"n_experts": "bic", "n_experts_range": (3, 1)}, "n_experts_range: "),
        ({"n_experts": "bic", "n_experts_range": 4}, "n_experts_range: "),
        ({"em": "warm"}, "em: must be one of soft, hard, stochastic, got 'warm'"),
        ({"start": "somewhere"}, "start: must be one of splits, "),
        ({"n_init": 0}, "n_init: must be a whole number, at least 1, got 0"),
        ({"max_iter": 0}, "max_iter: must be a whole number, at least 1, got 0"),
        ({"tol": -1}, "tol: must be a number, at least 0, got -1"),
        ({"tol": float("nan")}, "tol: must be a number"),
        ({"tol": None}, "tol: must be a number"),
        ({"pooling": "some"}, "pooling: must be "),
        ({"pooling": 3}, "pooling: must be "),
        ({"gating": "softmax"}, "gating: must be None or a gate, got str; pass a gate"),
    ],
)
def test_parameters_are_checked(parameters, match):
    with raises(match):
        MoERegressor(**parameters).fit(X, Y)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (MoERegressor(LogisticExperts()), "expert: must predict numbers, got LogisticExperts; use LinearExperts"),
        (MoEClassifier(LinearExperts()), "expert: must predict classes, got LinearExperts; use LogisticExperts"),
        (MoERegressor(LogisticRegression()), "expert: must be a regressor, got LogisticRegression"),
        (MoEClassifier(Ridge()), "expert: must be a classifier, got Ridge"),
        (MoEClassifier([LogisticRegression(), Ridge()]), "expert: must be a classifier, got Ridge"),
        (MoERegressor(MoEClassifier()), "expert: must be a regressor, got MoEClassifier"),
        (HierarchicalMoERegressor(LogisticExperts()), "expert: must predict numbers, got LogisticExperts"),
        (HierarchicalMoEClassifier(Ridge(), branching=(2,)), "expert: must be a classifier, got Ridge"),
        (MoERegressor(LogisticExperts(), n_experts="bic"), "expert: must predict numbers, got LogisticExperts"),
    ],
    ids=str,
)
def test_experts_of_the_other_kind_of_target(model, match):
    with raises(match):
        model.fit(X, Y if is_regressor(model) else LABELS)


@pytest.mark.parametrize("name", ["expert", "gating"])
def test_wrong_parts_can_be_looked_at_before_the_fit_refuses_them(name):
    model = MoERegressor(**{name: "ridge"})
    assert repr(model) == f"MoERegressor({name}='ridge')"
    assert "MoERegressor" in model._repr_html_()
    assert not hasattr(model, "partial_fit")
    with raises(f"{name}: must be None"):
        model.fit(X, Y)


def test_targets_that_have_no_scale():
    with raises("y: must not be constant: its density has no scale, got only 3 in output 0"):
        MoERegressor().fit(X, np.full(40, 3.0))
    with raises("only 7 in output 1"):
        MoERegressor().fit(X, np.column_stack([Y, np.full(40, 7.0)]))
    with raises("y: must not be constant"):
        MoERegressor().fit(X, np.append(Y[0], np.zeros(39)), sample_weight=np.append(0, np.ones(39)))


def test_one_class():
    with raises("at least 2 classes, got 1 class"):
        MoEClassifier().fit(X, np.full(40, "yes"))
    with raises("at least 2 classes, got 1 class"):
        MoEClassifier().fit(X, LABELS, sample_weight=LABELS == "yes")


def test_fewer_rows_than_experts():
    with raises("X: must have as many rows of positive weight as there are experts, got n_samples=3 for n_experts=4"):
        MoERegressor(n_experts=4).fit(X[:3], Y[:3])
    with raises("n_samples=2 for n_experts=3"):
        MoERegressor(n_experts=3).fit(X, Y, sample_weight=np.arange(40) < 2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none(value):
    bad = X.copy()
    bad[3, 1] = value
    model = MoERegressor().fit(X, Y)
    for call in (lambda: MoERegressor().fit(bad, Y), lambda: model.predict(bad), lambda: model.score_samples(bad, Y)):
        with pytest.raises(ValueError, match="Input X contains"):
            call()
    with pytest.raises(ValueError, match="Input y contains"):
        MoERegressor().fit(X, bad[:, 1])


def test_missing_values_are_refused_by_the_expert_that_cannot_use_them():
    bad = X.copy()
    bad[3, 1] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        MoERegressor([MoERegressor(), MoERegressor()]).fit(bad, Y)
    assert np.isfinite(MoERegressor(DecisionTreeRegressor(max_depth=2), random_state=0).fit(bad, Y).predict(bad)).all()


def test_wrong_shapes():
    model = MoERegressor().fit(X, Y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        MoERegressor().fit(X, Y[:-1])
    with pytest.raises(ValueError, match="Expected 2D array"):
        MoERegressor().fit(X[:, 0], Y)
    with pytest.raises(ValueError, match="X has 2 features, but MoERegressor is expecting 3 features"):
        model.predict(X[:, :2])
    with raises(r"y: must have the shape \(N\) of those fitted, got shape \(40, 2\)"):
        model.score_samples(X, np.column_stack([Y, Y]))
    with raises(r"y: must have the shape \(N, 2\) of those fitted, got shape \(40,\)"):
        MoERegressor().fit(X, np.column_stack([Y, Y**2])).responsibilities(X, Y)


def test_weights():
    with raises("sample_weight: must not be negative, got -1"):
        MoERegressor().fit(X, Y, sample_weight=np.append(-1, np.ones(39)))
    with raises("at least one non-zero"):
        MoERegressor().fit(X, Y, sample_weight=np.zeros(40))


def test_classes_that_the_fit_did_not_see():
    model = MoEClassifier().fit(X, LABELS)
    for method in (model.score_samples, model.responsibilities):
        with raises("y: must hold classes of the fit only, got perhaps"):
            method(X, np.append("perhaps", LABELS[1:]))
    with pytest.raises(ValueError, match="Unknown label type"):
        MoEClassifier().fit(X, Y)


@pytest.mark.parametrize(
    "method", ["predict", "gate", "transform", "score_samples", "predict_dist", "predict_quantiles"]
)
def test_before_the_fit(method):
    with pytest.raises(NotFittedError):
        getattr(MoERegressor(), method)(X)


def test_a_fit_that_fails_leaves_the_estimator_as_it_was():
    model = MoERegressor().fit(X, Y)
    before = dict(vars(model))
    with pytest.raises(ValueError, match="y: must not be constant"):
        model.fit(X[:, :2], np.zeros(40))
    assert vars(model) == before
    fresh = MoEClassifier()
    with pytest.raises(ValueError, match="2 classes"):
        fresh.fit(X, np.zeros(40))
    assert not hasattr(fresh, "n_features_in_")


def test_stacking_is_learned_by_the_fit():
    model = MoERegressor().fit(X, Y).set_params(pooling="stacking")
    with raises("pooling: must be set before fit to be 'stacking'"):
        model.predict(X)


def test_draws_are_counted():
    with raises("n_samples: must be a whole number, at least 1, got 0"):
        MoERegressor().fit(X, Y).sample(X, 0)
