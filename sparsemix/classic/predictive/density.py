"""What a mixture says of each row beside its mean: normal mixtures with moments, quantiles and draws."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from scipy.special import logsumexp, ndtr, ndtri
from sklearn.utils import check_random_state

from sparsemix.checks import check
from sparsemix.classic.numeric.blocks import in_blocks
from sparsemix.classic.parts import Array
from sparsemix.classic.predictive.roots import rising_roots

ACCURACY = 1e-11
"""Of quantiles, in standard deviations of the row's mixture."""


class NormalMixture:
    """N distributions p(y) = sum_e weight_e prod_m N(y_m; mean_em, variance_em), one a row; methods as scipy's.

    Outputs are independent within an expert, not in the mixture. `pdf`, `logpdf` and `rvs` are of all outputs jointly;
    moments, `cdf`, `ppf`, `median` and `interval` are of each output by itself.

    Args:
        weight_NE: none below 0, rows sum to one.
        mean: (N, E, M); or (N, E), then there is one output and results have no axis for it.
        variance: can be broadcast to the shape of `mean`, all above 0.
    """

    def __init__(self, weight_NE: Array, mean: Array, variance: Array) -> None:
        self.weight_NE = np.asarray(weight_NE, dtype=np.float64)
        self.mean_NEM = np.asarray(mean, dtype=np.float64).reshape(*weight_NE.shape, -1)
        variance = np.broadcast_to(np.asarray(variance, dtype=np.float64), mean.shape)
        self.variance_NEM = variance.reshape(self.mean_NEM.shape)
        self.one_output = mean.ndim == 2

    def __len__(self) -> int:
        return len(self.weight_NE)

    def __getitem__(self, rows: Any) -> Self:
        """The distributions of some rows: a number, a slice, indexes or a mask."""
        chosen = np.atleast_1d(np.arange(len(self))[rows])
        axis = (0,) if self.one_output else ()
        at = (chosen, slice(None), *axis)
        return type(self)(self.weight_NE[chosen], self.mean_NEM[at], self.variance_NEM[at])

    def _shaped(self, values_NM: Array) -> Array:
        return values_NM[:, 0] if self.one_output else values_NM

    def _targets(self, y: Any) -> Array:
        """y with an axis for experts and one for outputs, (N, 1, M)."""
        y = np.asarray(y, dtype=np.float64)
        y_NM = y[..., None] if self.one_output else np.atleast_2d(y)
        return y_NM[..., None, :]

    def mean(self) -> Array:
        """sum_e weight_e mean_e, (N,) or (N, M)."""
        return self._shaped(np.einsum("ne,nem->nm", self.weight_NE, self.mean_NEM))

    def var(self) -> Array:
        """Law of total variance: sum_e weight_e (variance_e + (mean_e - mean)^2), (N,) or (N, M)."""
        mean_NM = np.einsum("ne,nem->nm", self.weight_NE, self.mean_NEM)
        spread_NEM = self.variance_NEM + (self.mean_NEM - mean_NM[:, None]) ** 2
        return self._shaped(np.einsum("ne,nem->nm", self.weight_NE, spread_NEM))

    def std(self) -> Array:
        """Square root of `var`."""
        return np.sqrt(self.var())

    def logpdf(self, y: Any) -> Array:
        """log p(y), (N,); y is (N,) or (N, M), or one that can be broadcast to it."""
        squares = (self._targets(y) - self.mean_NEM) ** 2 / self.variance_NEM
        log_density_NE = -0.5 * (squares + np.log(2 * np.pi * self.variance_NEM)).sum(axis=-1)
        return np.asarray(logsumexp(log_density_NE, axis=-1, b=self.weight_NE))

    def pdf(self, y: Any) -> Array:
        """p(y), (N,)."""
        return np.exp(self.logpdf(y))

    def cdf(self, y: Any) -> Array:
        """P(target <= y) of each output, (N,) or (N, M)."""
        below = ndtr((self._targets(y) - self.mean_NEM) / np.sqrt(self.variance_NEM))
        return self._shaped((self.weight_NE[:, :, None] * below).sum(axis=1))

    def ppf(self, q: Any) -> Array:
        """Quantiles: y with cdf(y) = q, exactly rising in q.

        Args:
            q: in [0, 1]: a number, or Q of them in any order.

        Returns:
            (N,) or (N, M) for a number; (N, Q) or (N, M, Q) for several.
        """
        q_Q = np.atleast_1d(np.asarray(q, dtype=np.float64))
        check(q_Q.ndim == 1 and bool(((q_Q >= 0) & (q_Q <= 1)).all()), "q", "must be in [0, 1]", q)
        order = np.argsort(q_Q, kind="stable")
        rising_NMQ = in_blocks(lambda rows: quantiles(self[rows], q_Q[order]), np.arange(len(self)))
        y_NMQ = np.empty_like(rising_NMQ)
        y_NMQ[..., order] = np.maximum.accumulate(rising_NMQ, axis=-1)
        return self._shaped(y_NMQ if np.ndim(q) else y_NMQ[..., 0])

    def median(self) -> Array:
        """ppf(0.5)."""
        return self.ppf(0.5)

    def interval(self, confidence: float) -> tuple[Array, Array]:
        """Ends of the central interval with that probability."""
        check(0 <= confidence <= 1, "confidence", "must be in [0, 1]", confidence)
        ends = self.ppf([0.5 - confidence / 2, 0.5 + confidence / 2])
        return ends[..., 0], ends[..., 1]

    def rvs(self, size: int | None = None, random_state: Any = None) -> Array:
        """Draws: of each an expert, then all outputs from that expert.

        Returns:
            (N,) or (N, M) without `size`; (N, size) or (N, M, size) with it.
        """
        random = check_random_state(random_state)
        expert_NS = draw(self.weight_NE, 1 if size is None else size, random)
        mean_NSM, variance_NSM = (
            np.take_along_axis(values_NEM, expert_NS[:, :, None], axis=1)
            for values_NEM in (self.mean_NEM, self.variance_NEM)
        )
        y_NSM = mean_NSM + np.sqrt(variance_NSM) * random.standard_normal(mean_NSM.shape)
        return self._shaped(y_NSM[:, 0] if size is None else y_NSM.swapaxes(1, 2))


def quantiles(mixture: NormalMixture, q_Q: Array) -> Array:
    """Quantiles of each output, (N, M, Q), to `ACCURACY`.

    Solved for probits, in which one normal alone is a straight line, in the lower half; the upper half is mirrored, so
    that both tails keep their relative accuracy.
    """
    mirror_Q = np.where(q_Q > 0.5, -1.0, 1.0)
    probit_Q = ndtri(np.where(q_Q > 0.5, 1 - q_Q, q_Q))
    inside_Q = np.isfinite(probit_Q)
    probit_Q = np.where(inside_Q, probit_Q, 0.0)
    weight = mixture.weight_NE.T[:, :, None, None]
    mean = mirror_Q * mixture.mean_NEM.swapaxes(0, 1)[..., None]
    deviation = np.sqrt(mixture.variance_NEM).swapaxes(0, 1)[..., None]

    def excess(y_NMQ: Array) -> Array:
        probability_NMQ = (weight * ndtr((y_NMQ - mean) / deviation)).sum(axis=0)
        return np.clip(ndtri(np.minimum(probability_NMQ, 1.0)), -40, 40) - probit_Q

    ends = mean + deviation * probit_Q
    some = np.broadcast_to(weight > 0, ends.shape)
    low_NMQ = np.min(ends, axis=0, where=some, initial=np.inf)
    high_NMQ = np.max(ends, axis=0, where=some, initial=-np.inf)
    scale_NM1 = np.sqrt(mixture.var().reshape(len(mixture), -1))[..., None]
    spacing_NMQ = np.spacing(np.maximum(np.abs(low_NMQ), np.abs(high_NMQ)))
    root_NMQ = rising_roots(excess, low_NMQ, high_NMQ, np.maximum(ACCURACY * scale_NM1, 2 * spacing_NMQ))
    return mirror_Q * np.where(inside_Q, root_NMQ, -np.inf)


def draw(probability_NK: Array, size: int, random: np.random.RandomState) -> Array:
    """Numbers of experts or classes drawn from each row's probabilities, (N, size)."""
    edge_NK = probability_NK.cumsum(axis=1)
    uniform_NS = random.uniform(size=(len(probability_NK), size)) * edge_NK[:, -1:]
    return (uniform_NS[:, :, None] >= edge_NK[:, None, :-1]).sum(axis=2)
