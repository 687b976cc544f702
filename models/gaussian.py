"""The running Gaussian: mean squared distance from what is normal.

Laws:

1. NaN and infinities in a row mean unknown: they are neither evidence nor learnt.
2. Until `warm_rows` rows are learnt a score is NaN, which means warming, not harmless.

Source: Gaussian scoring as `river.anomaly.GaussianScorer`, its mean and variance by B. P. Welford,
"Note on a method for calculating corrected sums of squares and products" (1962).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from river.base import AnomalyDetector

from models.gaussian_kernels import profile_many

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray


class GaussianDetector(AnomalyDetector):
    """Mean squared distance of the features from what is normal, in standard deviations.

    Each feature is followed by a running Gaussian; the score is the mean over the features of the
    squared z-score, unknown ones counting as 1, their expectation.

    Args:
        names: Names of the features, in the order of the columns of rows.
        warm_rows: Rows learnt before anything is scored.

    Example:
        >>> detector = GaussianDetector(("rate",), warm_rows=3)
        >>> for rate in (1.0, 2.0, 3.0):
        ...     detector.learn_one({"rate": rate})
        >>> detector.score_one({"rate": 5.0})
        9.0
    """

    def __init__(self, names: Sequence[str], warm_rows: int = 500) -> None:
        self.names = tuple(names)
        self.warm_rows = warm_rows
        # Per feature: how many values were learnt, their mean, the sum of squared deviations.
        self.moments = np.zeros((3, len(self.names)))
        self.rows = 0

    @property
    def learnt(self) -> int:
        """Rows learnt so far."""
        return self.rows

    def _row(self, x: dict[Hashable, Any]) -> NDArray[np.float64]:
        return np.array([[float(x.get(name, np.nan)) for name in self.names]])

    def learn_one(self, x: dict[Hashable, Any]) -> None:
        """Learn one row, given as feature name → value; absent means unknown."""
        self.learn_many(self._row(x))

    def score_one(self, x: dict[Hashable, Any]) -> float:
        """Return the score of one row, 0 … ∞; NaN while warming."""
        return float(self.score_many(self._row(x))[0])

    def learn_many(self, rows: NDArray[np.float64]) -> None:
        """Learn rows, `(m, d) float64`."""
        self._pass(rows, np.array([len(rows)]), learn=True)

    def score_many(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the scores of rows, `(m,) float64`, without learning them."""
        return self.measure_many(rows)[0]

    def measure_many(
        self, rows: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what `score_learn_many` does, without learning the rows."""
        return self._pass(rows, np.array([len(rows)]), learn=False)

    def score_learn_many(
        self, rows: NDArray[np.float64], group_end: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `models.anomaly.Detector`."""
        return self._pass(rows, group_end, learn=True)

    def _pass(
        self, rows: NDArray[np.float64], group_end: NDArray[np.int64], *, learn: bool
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        scores, distances = np.empty(len(rows)), np.empty(rows.shape)
        rows = np.ascontiguousarray(rows)
        self.rows = int(
            profile_many(
                rows, group_end, self.moments, self.rows, self.warm_rows, learn, scores, distances
            )
        )
        return scores, distances
