"""Detectors of River, one row at a time, where arrays are scored.

Law: rows are handed over without their unknown features.
"""

from __future__ import annotations

import math
from inspect import signature
from typing import TYPE_CHECKING

import numpy as np

from models.gaussian import GaussianDetector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class RiverDetector:
    """Any unsupervised detector of `river.anomaly`, one row at a time, inside the same interface.

    Features pass through River's `MinMaxScaler` first. Evidence comes from a Gaussian profile
    beside it. Expect 10^3 … 10^4 rows/s, of `LocalOutlierFactor` 10^2.

    Args:
        name: Class name in `river.anomaly`, such as `LODA`.
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
        """See `models.anomaly.Detector`."""
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
