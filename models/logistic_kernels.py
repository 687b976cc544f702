"""The loops of `models.logistic`.

Laws: those of `models.logistic` and of `core.kernels`.
"""

from __future__ import annotations

import math
from typing import Any

from core.kernels import A2_f8, A_f8, f8, kernel, none

LOGIT_MAX = 30.0
VALUE_MAX = 1e3
"""Larger values of a feature are taken as this large."""


@kernel(none(A_f8))
def _bound(row: Any) -> None:
    """Leave a row without what is unknown, and without what overflows."""
    for i in range(row.size):
        value = row[i]
        row[i] = max(-VALUE_MAX, min(VALUE_MAX, value)) if math.isfinite(value) else 0.0


@kernel(f8(f8))
def _sigmoid(logit: Any) -> Any:
    return 1.0 / (1.0 + math.exp(-max(-LOGIT_MAX, min(LOGIT_MAX, logit))))


@kernel(f8(A_f8, A2_f8, A_f8))
def predict(weights: Any, covariance: Any, row: Any) -> Any:
    """Return the probability of true, moderated by how unsure the weights are."""
    _bound(row)
    logit = 0.0
    variance = 0.0
    for i in range(row.size):
        logit += weights[i] * row[i]
        for j in range(row.size):
            variance += row[i] * covariance[i, j] * row[j]
    return _sigmoid(logit / math.sqrt(1.0 + math.pi * max(0.0, variance) / 8.0))


@kernel(none(A_f8, A2_f8, A_f8, f8, f8, f8, A_f8))
def learn(
    weights: Any, covariance: Any, row: Any, truth: Any, fading: Any, variance_max: Any, shared: Any
) -> None:
    """Take one example into weights and covariance; `shared` is room for as many numbers as a row.

    No variance grows by `fading` beyond `variance_max`: what is not asked about for long is not
    less sure than before anything was learnt.
    """
    _bound(row)
    size = row.size
    logit = 0.0
    variance = 0.0
    for i in range(size):
        shared[i] = 0.0
        for j in range(size):
            shared[i] += covariance[i, j] * row[j]
        logit += weights[i] * row[i]
        variance += shared[i] * row[i]
    yes = _sigmoid(logit)
    bend = yes * (1.0 - yes)
    scale = 1.0 / (1.0 + bend * max(0.0, variance))
    highest = 0.0
    for i in range(size):
        weights[i] += shared[i] * scale * (truth - yes)
        for j in range(size):
            covariance[i, j] -= bend * scale * shared[i] * shared[j]
        highest = max(highest, covariance[i, i])
    if highest * fading <= variance_max:
        for i in range(size):
            for j in range(size):
                covariance[i, j] *= fading
