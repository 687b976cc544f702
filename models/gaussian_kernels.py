"""The loops of `models.gaussian`.

Laws: those of `models.gaussian` and of `core.kernels`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from core.kernels import A2_f8, A_f8, A_i8, b1, f8, i8, kernel, none

SPREAD_MIN = 1e-2
"""Least standard deviation assumed: a feature that never moved must not make every move a scandal.
Features are logarithms, so this is a change of one percent."""
DISTANCE_MAX = 1e3
"""Distances are cut here, so that no sum overflows."""


@kernel(f8(A2_f8, i8, f8))
def _distance(moments: Any, j: Any, value: Any) -> Any:
    """Return how many standard deviations a value lies from the mean of feature `j`."""
    count = moments[0, j]
    spread = math.sqrt(moments[2, j] / (count - 1.0)) if count > 1.0 else 0.0
    distance = (value - moments[1, j]) / max(spread, SPREAD_MIN)
    return max(-DISTANCE_MAX, min(DISTANCE_MAX, distance))


@kernel(none(A2_f8, i8, i8, A2_f8))
def _learn(rows: Any, begin: Any, end: Any, moments: Any) -> None:
    """Take rows into the running moments (Welford)."""
    for i in range(begin, end):
        for j in range(rows.shape[1]):
            value = rows[i, j]
            if not math.isfinite(value):
                continue
            moments[0, j] += 1.0
            delta = value - moments[1, j]
            moments[1, j] += delta / moments[0, j]
            moments[2, j] += delta * (value - moments[1, j])


@kernel(i8(A2_f8, A_i8, A2_f8, i8, i8, b1, A_f8, A2_f8))
def profile_many(
    rows: Any, group_end: Any, moments: Any, learnt: Any, warm_rows: Any, learn: Any,
    scores: Any, distances: Any,
) -> Any:  # fmt: skip
    """Score groups of rows against the running moments, learning each group after its scores."""
    width = rows.shape[1]
    begin = 0
    for g in range(group_end.size):
        end = group_end[g]
        for i in range(begin, end):
            total = 0.0
            for j in range(width):
                value = rows[i, j]
                if not math.isfinite(value) or moments[0, j] < 2.0:
                    distances[i, j] = np.nan
                    total += 1.0
                    continue
                distance = _distance(moments, j, value)
                distances[i, j] = distance
                total += distance * distance
            scores[i] = total / width if learnt >= warm_rows else np.nan
        if learn:
            _learn(rows, begin, end, moments)
            learnt += end - begin
        begin = end
    return learnt
