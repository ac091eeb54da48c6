"""The constant gate: shares."""

import numpy as np

from sparsemix.classic.gates import ConstantGate
from sparsemix.classic.parts import Table


def test_shares_are_weighted_means_of_responsibilities():
    table = Table(np.zeros((3, 1)), np.zeros((3, 1)), np.array([1.0, 3.0, 0.0]))
    responsibility_NE = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    gate = ConstantGate().started(table, 2).updated(table, responsibility_NE)
    np.testing.assert_allclose(np.exp(gate.log_scores(table.X)), [[2.5 / 4, 1.5 / 4]] * 3)
    assert gate.n_parameters == 1
    assert gate.penalty == 0
