"""One thread inside, and what there was before outside."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from sparsemix.classic import LogisticExperts, SoftmaxGate
from sparsemix.classic.numeric import multinomial
from sparsemix.classic.numeric.threads import one_thread
from sparsemix.classic.parts import Table


def threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_the_last_one_out_sets_back_what_the_first_one_found():
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        with one_thread:
            with one_thread:
                assert threads() == {1}
            assert threads() == {1}
        assert threads() == before


def test_an_exception_lets_go():
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        with pytest.raises(ZeroDivisionError), one_thread:
            raise ZeroDivisionError
        assert threads() == before


def test_newton_steps_of_gates_and_experts_use_one_thread(monkeypatch):
    seen = []
    step = multinomial.newton_step
    monkeypatch.setattr(multinomial, "newton_step", lambda *rows: (seen.append(threads()), step(*rows))[1])
    X = np.random.RandomState(0).randn(50, 2)
    table = Table(X, (X[:, 0] > 0).astype(int), np.ones(50), 2)
    share_NE = np.random.RandomState(1).dirichlet(np.ones(2), size=50)
    with threadpool_limits(2, user_api="blas"):
        SoftmaxGate().started(table, 2).updated(table, share_NE)
        LogisticExperts().started(table, 2).updated(table, share_NE)
    assert len(seen) >= 3
    assert all(found == {1} for found in seen)
