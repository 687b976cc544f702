"""Online anomaly detectors over rows of features, with River's interface.

Laws:

1. Score, then learn: a group of rows is scored by what was learnt before it, then learnt whole. So
   scores depend on the rows and their groups, never on how they were cut into batches.
2. Until `warm_rows` rows are learnt a score is NaN, which means warming, not harmless.
3. A score becomes a tail probability by comparison with the scores seen before it, so that one
   threshold means the same false-alarm rate for every detector.
4. NaN in a row means unknown: it is neither evidence nor learnt.

Source: Gaussian scoring as `river.anomaly.GaussianScorer`, its mean and variance by B. P. Welford,
"Note on a method for calculating corrected sums of squares and products" (1962).
"""

from __future__ import annotations

import math
from inspect import signature
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from river.base import AnomalyDetector

from core.errors import SettingError
from models.anomaly_kernels import BINS, profile_many, tail_many

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray


RIVER = ("HalfSpaceTrees", "LODA", "LocalOutlierFactor", "OneClassSVM")
"""Detectors of `river.anomaly` that score a row by itself."""


class Detector(Protocol):
    """What the graph asks of a detector."""

    @property
    def learnt(self) -> int:
        """Rows learnt so far."""
        ...

    def score_learn_many(
        self, rows: NDArray[np.float64], group_end: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Score and learn rows group by group.

        Args:
            rows: `(m, d) float64`; NaN where unknown.
            group_end: `(g,) int64`; where each group of rows ends.

        Returns:
            The score of each row, `(m,) float64`, NaN while warming; and how far each feature lay
            from its mean in standard deviations, `(m, d) float64`, as evidence.
        """
        ...


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
        """See `Detector`."""
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


class RiverDetector:
    """Any unsupervised detector of `river.anomaly`, one row at a time, inside the same interface.

    Rows are handed over without their unknown features. Half-Space Trees expect values in 0 … 1,
    so features pass through River's `MinMaxScaler` first. Evidence comes from a Gaussian profile
    beside it. Expect 10^3 … 10^4 rows/s, of `LocalOutlierFactor` 10^2.

    Args:
        name: Class name in `river.anomaly`, such as `HalfSpaceTrees`.
        names: Names of the features.
        warm_rows: Rows learnt before anything is scored.
        seed: Seed of detectors that use chance.
    """

    def __init__(self, name: str, names: Sequence[str], warm_rows: int, seed: int) -> None:
        from river import anomaly, compose, preprocessing

        kind = getattr(anomaly, name)
        options = {"seed": seed} if "seed" in signature(kind).parameters else {}
        self.model = compose.Pipeline(preprocessing.MinMaxScaler(), kind(**options))
        self.profile = GaussianDetector(names, warm_rows)
        self._met: set[str] = set()

    @property
    def learnt(self) -> int:
        """Rows learnt so far."""
        return self.profile.rows

    def score_learn_many(
        self, rows: NDArray[np.float64], group_end: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `Detector`."""
        scores = np.full(len(rows), np.nan)
        begin = 0
        for end in group_end.tolist():
            seen = [
                {n: v for n, v in zip(self.profile.names, row, strict=True) if not math.isnan(v)}
                for row in rows[begin:end].tolist()
            ]
            if self.profile.rows + begin >= self.profile.warm_rows:
                # A feature met for the first time has no range yet: scaled, it would be NaN.
                known = [{n: v for n, v in x.items() if n in self._met} for x in seen]
                scores[begin:end] = [self.model.score_one(x) for x in known]
            for x in seen:
                self.model.learn_one(x)
                self._met.update(x)
            begin = end
        _, distances = self.profile.score_learn_many(rows, group_end)
        return scores, distances


def make_detector(name: str, names: Sequence[str], warm_rows: int, seed: int) -> Detector:
    """Build a detector by the name it has in settings.

    Args:
        name: `gaussian`, or the class name of an unsupervised detector in `river.anomaly`.
        names: Names of the features.
        warm_rows: Rows learnt before anything is scored.
        seed: Seed of detectors that use chance.

    Raises:
        SettingError: There is no such detector.
    """
    if name == "gaussian":
        return GaussianDetector(names, warm_rows)
    if name not in RIVER:
        raise SettingError(
            f"anomaly.detector: {name!r} is unknown; want one of: gaussian, {', '.join(RIVER)}"
        )
    return RiverDetector(name, names, warm_rows, seed)


class TailCalibration:
    """How probable a score this high was so far: a histogram of scores on a logarithmic scale."""

    def __init__(self) -> None:
        self.bins = np.zeros(BINS)

    def tail_many(
        self, scores: NDArray[np.float64], group_end: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the tail probability of each score, then count it.

        Args:
            scores: `(m,) float64`; NaN means not scored and is passed through.
            group_end: `(g,) int64`; where each group ends; a group is judged by those before it.

        Returns:
            `(m,) float64` in 0 … 1: the share of earlier scores at least as high, to the width of
            a bin (9 %), this one counted among them.
        """
        tails = np.empty(scores.size)
        tail_many(scores, group_end, self.bins, tails)
        return tails
