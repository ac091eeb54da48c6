"""Estimators of all sorts as expert and as gate: their weights decide."""

import numpy as np
import pytest
from sklearn import config_context
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import BaggingClassifier, HistGradientBoostingClassifier, StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sparsemix.classic import MoEClassifier, MoERegressor
from sparsemix.classic.experts import EstimatorExperts
from sparsemix.classic.gates import ClassifierGate
from sparsemix.classic.parts import Table
from tests.classic.tables import classes, regimes

KNN = KNeighborsClassifier(1)
LOGISTIC = LogisticRegression()


def asking():
    return LogisticRegression().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)


PLAIN = [
    LOGISTIC,
    KNN,
    HistGradientBoostingClassifier(max_iter=5),
    make_pipeline(StandardScaler(), LOGISTIC),
    make_pipeline(StandardScaler(), KNN),
    GridSearchCV(make_pipeline(StandardScaler(), LOGISTIC), {"logisticregression__C": [1.0, 2.0]}, cv=2),
    CalibratedClassifierCV(LOGISTIC, cv=2),
    CalibratedClassifierCV(make_pipeline(StandardScaler(), LOGISTIC), cv=2),
    CalibratedClassifierCV(KNN, cv=2),
    BaggingClassifier(LOGISTIC, n_estimators=3, random_state=0),
    BaggingClassifier(make_pipeline(StandardScaler(), KNN), n_estimators=3, random_state=0),
    VotingClassifier([("a", LOGISTIC), ("b", HistGradientBoostingClassifier(max_iter=5))], voting="soft"),
    VotingClassifier([("a", LOGISTIC), ("b", KNN)], voting="soft"),
    StackingClassifier([("a", LOGISTIC)], LOGISTIC, cv=2),
]
ROUTED = [
    asking,
    lambda: KNN,
    lambda: make_pipeline(StandardScaler().set_fit_request(sample_weight=False), asking()),
    lambda: make_pipeline(StandardScaler().set_fit_request(sample_weight=True), KNN),
    lambda: GridSearchCV(asking(), {"C": [1.0, 2.0]}, cv=2),
    lambda: CalibratedClassifierCV(asking(), cv=2),
    lambda: BaggingClassifier(asking(), n_estimators=3, random_state=0),
    lambda: VotingClassifier([("a", asking())], voting="soft"),
]


def contradictory():
    """Rows given twice, with either label; one time with weight 2, and then with one of next to nothing."""
    X = np.random.default_rng(0).normal(size=(60, 2))
    label_N = (X[:, 0] > 0).astype(int)
    return np.repeat(X, 2, axis=0), np.column_stack([label_N, 1 - label_N]).ravel(), np.tile([2.0, 1e-9], 60)


def share_right_of_expert(estimator):
    X, y, weight_N = contradictory()
    experts = EstimatorExperts(estimator, random_state=0).started(Table(X, y, weight_N, 2), 1)
    return (experts.output(X[::2])[:, 0].argmax(axis=1) == y[::2]).mean()


def share_right_of_gate(estimator):
    X, y, weight_N = contradictory()
    table = Table(X, np.zeros((120, 1)), weight_N)
    gate = ClassifierGate(estimator).started(table, 2).updated(table, np.eye(2)[y] * 0.8 + 0.1)
    return (gate.log_scores(X[::2]).argmax(axis=1) == y[::2]).mean()


@pytest.mark.parametrize("share_right", [share_right_of_expert, share_right_of_gate])
@pytest.mark.parametrize("estimator", PLAIN, ids=str)
def test_weights_decide(estimator, share_right):
    assert share_right(estimator) > 0.9


@pytest.mark.parametrize("share_right", [share_right_of_expert, share_right_of_gate])
@pytest.mark.parametrize("made", ROUTED)
def test_weights_decide_under_metadata_routing(made, share_right):
    with config_context(enable_metadata_routing=True):
        assert share_right(made()) > 0.9


def test_a_weight_is_a_row_repeated_for_a_gate_without_weights():
    X = np.array([[0.0], [0.2], [0.9]])
    table, responsibility_NE = Table(X, np.zeros((3, 1)), np.array([1.0, 1.0, 3.0])), np.eye(2)[[0, 0, 1]]
    gate = ClassifierGate(KNeighborsClassifier(3), smoothing=1e-9).started(table, 2)
    p_E = np.exp(gate.updated(table, responsibility_NE).log_scores(np.array([[0.6]]))[0])
    np.testing.assert_allclose(p_E, [0, 1], atol=1e-8)  # the last row is all three neighbours


@pytest.mark.parametrize(("mixture", "situation", "expert"), [
    (MoERegressor, regimes, Ridge), (MoEClassifier, classes, LogisticRegression),
])  # fmt: skip
def test_mixtures_of_pipelines_are_the_same_under_metadata_routing(mixture, situation, expert):
    def fitted(scaler, expert, gate):
        made = ClassifierGate(make_pipeline(scaler, gate))
        return mixture(make_pipeline(scaler, expert), gating=made, max_iter=5, random_state=0).fit(X, y, weight_N)

    X, y = situation(60)
    weight_N = np.arange(60) % 3
    plain = fitted(StandardScaler(), expert(), LogisticRegression())
    with config_context(enable_metadata_routing=True):
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        routed = fitted(scaler, expert().set_fit_request(sample_weight=True), asking())
    np.testing.assert_allclose(routed.score_samples(X, y), plain.score_samples(X, y))
