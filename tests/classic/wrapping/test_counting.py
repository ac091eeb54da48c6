"""Numbers of parameters, and what `expert=` asks for."""

import numpy as np
import pytest
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor, StackingRegressor, VotingRegressor
from sklearn.feature_selection import RFE
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import Lasso, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from sparsemix.classic.experts import EstimatorExperts, LinearExperts, LogisticExperts, as_experts
from sparsemix.classic.parts import Table
from sparsemix.classic.wrapping.counting import count_parameters

X = np.random.default_rng(0).normal(size=(50, 4))
Y = X[:, 0] + 0.1 * X[:, 1]


@pytest.mark.parametrize(
    ("estimator", "count"),
    [
        (Ridge(), 5),
        (Lasso(0.5), 2),
        (make_pipeline(StandardScaler(), Ridge()), 5),
        (GridSearchCV(Ridge(), {"alpha": [1.0]}), 5),
        (TransformedTargetRegressor(Ridge()), 5),
        (SVR(kernel="linear"), 5),
        (DecisionTreeRegressor(max_depth=1), 2),
        (RandomForestRegressor(3, max_depth=1), 6),
        (GradientBoostingRegressor(n_estimators=3, max_depth=1), 6),
        (VotingRegressor([("a", Ridge()), ("b", make_pipeline(StandardScaler(), Ridge()))]), 10),
        (StackingRegressor([("a", make_pipeline(StandardScaler(), Ridge()))], Ridge()), 5 + 2),
        (RFE(Ridge(), n_features_to_select=2), 3),
        (MLPRegressor(hidden_layer_sizes=(3,), solver="lbfgs", max_iter=5000, tol=1e-1), 4 * 3 + 3 + 3 + 1),
    ],
    ids=str,
)
def test_regressors(estimator, count):
    assert count_parameters(estimator.fit(X, Y), "expert") == count


def test_classifiers():
    labels_N = np.digitize(Y, [-0.5, 0.5])
    assert count_parameters(LogisticRegression().fit(X, labels_N > 0), "expert") == 5
    assert (
        count_parameters(LogisticRegression().fit(X, labels_N), "expert") == 2 * 5
    )  # a class of a softmax is redundant
    assert count_parameters(DecisionTreeClassifier(max_leaf_nodes=3).fit(X, labels_N), "expert") == 3 * 2


def test_experts_count_their_noise():
    table = Table(X, np.column_stack([Y, -Y]), np.ones(50))
    experts = EstimatorExperts(Ridge()).started(table, 3)
    assert experts.n_parameters == 3 * (2 * 5 + 2)


def test_kernels_and_neighbours_cannot_be_counted():
    for estimator in (SVR(), KNeighborsRegressor()):
        with pytest.raises(ValueError, match=r'counted for BIC and AIC, got .*; compare .* n_experts="cv"'):
            count_parameters(estimator.fit(X, Y), "expert")
    table = Table(X, Y[:, None], np.ones(50))
    with pytest.raises(ValueError, match="got GaussianProcessRegressor;"):
        _ = EstimatorExperts(GaussianProcessRegressor(optimizer=None)).started(table, 1).n_parameters


def test_what_expert_asks_for():
    def asked(expert, classifier=False):
        return as_experts(expert, n_jobs=2, random_state=5, classifier=classifier)

    given = LinearExperts(alpha=3)
    assert isinstance(asked(None), LinearExperts)
    assert isinstance(asked(None, classifier=True), LogisticExperts)
    assert asked(given) is not given
    assert asked(given).alpha == 3
    ridge = asked(Ridge(alpha=7))
    assert isinstance(ridge, EstimatorExperts)
    assert (ridge.estimator.alpha, ridge.n_jobs, ridge.random_state) == (7, 2, 5)
    assert isinstance(asked([Ridge(), SVR()]).estimator, list)
    with pytest.raises(ValueError, match=r"^expert: must be None, experts, an estimator.* got the class Ridge"):
        asked(Ridge)
    with pytest.raises(ValueError, match=r"^expert: must be None, experts, an estimator.* got str"):
        asked("ridge")
    with pytest.raises(ValueError, match=r"^expert: must name at least one estimator, got an empty list"):
        asked([])
