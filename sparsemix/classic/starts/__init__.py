"""Where EM starts: responsibilities made of the table, before the parts that will be fitted."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle, islice

import numpy as np

from sparsemix.classic.parts import Array, Table
from sparsemix.classic.starts.draws import cells, random
from sparsemix.classic.starts.groups import kmeans, residuals
from sparsemix.classic.starts.splits import grown, splits
from sparsemix.classic.starts.trials import trials

Start = Callable[[Table, int, np.random.RandomState], Array]

STARTS: dict[str, Start] = {"splits": splits, "kmeans": kmeans, "residuals": residuals, "random": random}

__all__ = ["STARTS", "Start", "cells", "grown", "kmeans", "random", "residuals", "splits", "starting", "trials"]


def starting(start: str, n_init: int) -> tuple[Start, ...]:
    """The starts of several runs: the one named, then, where it would be the same again, starts of two other kinds.

    By turns, since each kind finds maxima that the other hardly ever does: `trials` where laws overlap in x, `cells`
    where a gate can part them.
    """
    again = cycle((trials, cells) if start == "splits" else (STARTS[start],))
    return (STARTS[start], *islice(again, n_init - 1))
