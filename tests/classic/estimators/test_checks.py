"""scikit-learn's own checks of estimators, with default settings and no exceptions."""

from sklearn.utils.estimator_checks import parametrize_with_checks

from sparsemix.classic import HierarchicalMoEClassifier, HierarchicalMoERegressor, MoEClassifier, MoERegressor


@parametrize_with_checks([MoERegressor(), MoEClassifier(), HierarchicalMoERegressor(), HierarchicalMoEClassifier()])
def test_scikit_learn_check(estimator, check):
    check(estimator)
