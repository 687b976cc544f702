"""The loops of `models.anomaly`.

Laws: those of `models.anomaly` and of `core.kernels`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from core.kernels import A2_f8, A_f8, A_i8, b1, f8, i8, kernel, none

BINS = 512
_BINS_PER_OCTAVE = 8.0
_LOWEST_OCTAVE = -16.0
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


@kernel(i8(f8))
def _bin(score: Any) -> Any:
    """Return the histogram bin of a score."""
    if score <= 0.0:
        return 0
    octave = math.log2(score) - _LOWEST_OCTAVE
    return int(max(0.0, min(float(BINS - 1), octave * _BINS_PER_OCTAVE)))


@kernel(none(A_f8, A_i8, A_f8, A_f8), allocates=True)
def tail_many(scores: Any, group_end: Any, bins: Any, tails: Any) -> None:
    """Give each score the share of earlier ones at least as high, group by group."""
    above = np.zeros(BINS + 1)
    begin = 0
    for g in range(group_end.size):
        end = group_end[g]
        for b in range(BINS - 1, -1, -1):
            above[b] = above[b + 1] + bins[b]
        for i in range(begin, end):
            if math.isfinite(scores[i]):
                tails[i] = (above[_bin(scores[i])] + 1.0) / (above[0] + 1.0)
            else:
                tails[i] = np.nan
        for i in range(begin, end):
            if math.isfinite(scores[i]):
                bins[_bin(scores[i])] += 1.0
        begin = end
