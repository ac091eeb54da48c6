"""Gates of users' classifiers: soft labels, classifiers without weights, and what they accept."""

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from sparsemix.classic import MoERegressor
from sparsemix.classic.gates import ClassifierGate, SoftmaxGate
from sparsemix.classic.parts import Table
from tests.classic.tables import regimes


def situation(rows=300):
    random = np.random.default_rng(0)
    X = random.normal(size=(rows, 2))
    share_N = 1 / (1 + np.exp(-3 * X[:, 0]))
    return Table(X, np.zeros((rows, 1)), random.random(rows)), np.column_stack([share_N, 1 - share_N])


@pytest.mark.parametrize("pipeline", [False, True])
def test_a_logistic_regression_is_the_softmax_gate(pipeline):
    table, responsibility_NE = situation()
    deviation_D = SoftmaxGate().started(table, 2).design_.scale_D_
    mean_D = SoftmaxGate().started(table, 2).design_.mean_D_
    table = table._replace(X=(table.X - mean_D) / deviation_D)
    softmax = SoftmaxGate(alpha=2.0, steps=50).started(table, 2).updated(table, responsibility_NE)
    logistic = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000)  # of two classes: one vector, the difference
    estimator = make_pipeline("passthrough", logistic) if pipeline else logistic
    gate = ClassifierGate(estimator, smoothing=1e-9).started(table, 2).updated(table, responsibility_NE)
    np.testing.assert_allclose(np.exp(gate.log_scores(table.X)), np.exp(softmax.log_scores(table.X)), atol=2e-3)
    assert gate.n_parameters == softmax.n_parameters == 3
    assert not gate.exact


def test_a_softmax_of_three_experts_counts_as_the_gate_does():
    table, responsibility_NE = situation()
    three_NE = np.column_stack([responsibility_NE, np.arange(len(responsibility_NE)) % 3]) + 0.1
    three_NE /= three_NE.sum(axis=1, keepdims=True)
    gate = ClassifierGate(LogisticRegression()).started(table, 3).updated(table, three_NE)
    assert gate.n_parameters == SoftmaxGate().started(table, 3).n_parameters


def test_a_classifier_without_weights_gets_the_most_responsible_expert():
    table, responsibility_NE = situation()
    table = table._replace(weight_N=np.ones(300))
    gate = ClassifierGate(KNeighborsClassifier(1), smoothing=0.1).started(table, 2).updated(table, responsibility_NE)
    expected_N = np.where(responsibility_NE[:, 0] > 0.5, 0.95, 0.05)
    np.testing.assert_allclose(np.exp(gate.log_scores(table.X))[:, 0], expected_N)


def test_experts_that_no_row_names_are_improbable():
    table, responsibility_NE = situation()
    three_NE = np.column_stack([responsibility_NE[:, 0], np.zeros(300), responsibility_NE[:, 1]])
    gate = ClassifierGate(DecisionTreeClassifier(max_depth=2)).started(table, 3).updated(table, three_NE)
    p_NE = np.exp(gate.log_scores(table.X))
    np.testing.assert_allclose(p_NE[:, 1], 1e-3 / 3)
    np.testing.assert_allclose(p_NE.sum(axis=1), 1)


def test_one_expert_for_all_rows_needs_no_classifier():
    table, _ = situation()
    gate = ClassifierGate(LogisticRegression()).started(table, 3).updated(table, np.tile([0.0, 1.0, 0.0], (300, 1)))
    np.testing.assert_allclose(np.exp(gate.log_scores(table.X[:2])), [[1e-3 / 3, 1 - 2e-3 / 3, 1e-3 / 3]] * 2)


def three_regions(rows=300):
    """A table whose rows say by their first column which of three experts is theirs."""
    X = np.random.default_rng(1).uniform(-1, 1, size=(rows, 2))
    return Table(X, np.zeros((rows, 1)), np.ones(rows)), np.eye(3)[np.digitize(X[:, 0], [-0.3, 0.3])]


def agreement(gate, table, responsibility_NE):
    return (gate.log_scores(table.X).argmax(axis=1) == responsibility_NE.argmax(axis=1)).mean()


def test_rows_of_an_expert_that_the_fit_did_not_see_teach_the_classifier_anew():
    table, responsibility_NE = three_regions()
    seen = table.rows(responsibility_NE[:, 1] == 0)
    gate = ClassifierGate(GaussianNB()).started(table, 3).updated(seen, responsibility_NE[responsibility_NE[:, 1] == 0])
    assert gate.labels_.tolist() == [0, 2]
    online = gate.partially_updated(table, responsibility_NE, keep=1.0)
    assert agreement(online, table, responsibility_NE) > 0.9
    assert gate.labels_.tolist() == [0, 2]


def test_rows_of_experts_that_the_fit_saw_add_to_what_it_knows():
    table, responsibility_NE = three_regions()
    outer_N = responsibility_NE[:, 1] == 0
    seen, share_NE = table.rows(outer_N), responsibility_NE[outer_N]
    gate = ClassifierGate(GaussianNB()).started(table, 3).updated(seen, share_NE)
    batch = np.array([0])  # taught by one row alone the gate would know of one expert
    online = gate.partially_updated(seen.rows(batch), share_NE[batch], keep=1.0)
    expected = GaussianNB().fit(seen.X, share_NE.argmax(axis=1)).partial_fit(seen.X[:1], share_NE[:1].argmax(axis=1))
    np.testing.assert_allclose(online.classifier_.theta_, expected.theta_)
    assert agreement(online, seen, share_NE) == 1


@pytest.mark.parametrize("kept", [[2, 0], [1, 0, 2]])
def test_experts_left_out_or_in_another_order_go_on_learning(kept):
    table, responsibility_NE = three_regions()
    of_them = responsibility_NE[:, kept].any(axis=1)
    gate = ClassifierGate(GaussianNB()).started(table, 3).updated(table, responsibility_NE).only(np.array(kept))
    rows, share_NE = table.rows(of_them), responsibility_NE[of_them][:, kept]
    gate = gate.partially_updated(rows, share_NE, keep=1.0)
    assert gate.log_scores(rows.X).shape == share_NE.shape
    assert agreement(gate, rows, share_NE) > 0.9


def test_frames_with_missing_values_and_categories_reach_the_classifier():
    table, responsibility_NE = situation()
    frame = pd.DataFrame(table.X, columns=["a", "b"])
    frame.loc[::7, "a"] = np.nan
    frame["kind"] = pd.Categorical(np.where(responsibility_NE[:, 0] > 0.5, "x", "y"))
    table = table._replace(X=frame)
    gate = (
        ClassifierGate(HistGradientBoostingClassifier(max_iter=5)).started(table, 2).updated(table, responsibility_NE)
    )
    assert (gate.log_scores(frame).argmax(axis=1) == responsibility_NE.argmax(axis=1)).mean() > 0.95


def test_parameters_are_counted_as_those_of_experts():
    table, responsibility_NE = situation()
    trees = ClassifierGate(make_pipeline(StandardScaler(), DecisionTreeClassifier(max_leaf_nodes=3)))
    assert trees.started(table, 2).n_parameters == 1
    assert trees.started(table, 2).updated(table, responsibility_NE).n_parameters == 3
    gate = ClassifierGate(make_pipeline(StandardScaler(), KNeighborsClassifier())).started(table, 2)
    with pytest.raises(ValueError, match=r"^gating: must have parameters that can be counted .* got KNeighbors"):
        _ = gate.updated(table, responsibility_NE).n_parameters


@pytest.mark.parametrize(("estimator", "seen"), [
    (Ridge(), "Ridge"), (LogisticRegression, "the class LogisticRegression"), ("logistic", "str"), (None, "NoneType"),
])  # fmt: skip
def test_what_is_no_classifier_is_refused(estimator, seen):
    X, y = regimes(20)
    with pytest.raises(ValueError, match=rf"\Aestimator: must be a classifier, got {seen}\Z"):
        MoERegressor(gating=ClassifierGate(estimator)).fit(X, y)


@pytest.mark.parametrize(("gate", "message"), [
    (ClassifierGate(LinearSVC()), "estimator: must have predict_proba, got LinearSVC; wrap it: CalibratedClassifierCV"),
    (ClassifierGate(LogisticRegression(), smoothing=0.0), r"smoothing: must be in \(0, 1\), got 0.0"),
])  # fmt: skip
def test_bad_parameters_are_refused(gate, message):
    with pytest.raises(ValueError, match=message):
        gate.started(situation()[0], 2)
