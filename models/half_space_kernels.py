"""The loops of `models.half_space`.

A tree is a row of arrays: the children of node `i` are `2 i + 1` and `2 i + 2`.

Laws: those of `models.half_space` and of `core.kernels`.
"""

from __future__ import annotations

import math
from typing import Any

from core.kernels import A2_f8, A2_i8, A_f8, A_i8, b1, i8, kernel, none

COUNTER, PIVOTS = 0, 1
"""Rows learnt in the open window, and windows closed so far."""


@kernel(i8(A2_i8, A2_f8, A2_i8, i8, i8, A2_f8, i8), inline=True)
def _child(feature: Any, threshold: Any, mass: Any, t: Any, node: Any, rows: Any, i: Any) -> Any:
    """Return the child a row goes to; the one more rows went to when its value is unknown."""
    left = 2 * node + 1
    value = rows[i, feature[t, node]]
    if math.isfinite(value):
        return left if value < threshold[t, node] else left + 1
    return left + 1 if mass[t, left] < mass[t, left + 1] else left


@kernel(none(A2_f8, i8, i8, A2_f8, A2_f8, b1))
def scale(rows: Any, begin: Any, end: Any, limits: Any, out: Any, learn: Any) -> None:
    """Put values to where they lie between the limits of their feature, widening these before.

    `limits` holds the least and the greatest value of each feature, NaN while there was none.
    """
    for i in range(begin, end):
        for j in range(rows.shape[1]):
            value = rows[i, j]
            out[i, j] = math.nan
            if not math.isfinite(value):
                continue
            if learn:
                if math.isnan(limits[0, j]):
                    limits[0, j] = limits[1, j] = value
                limits[0, j] = min(limits[0, j], value)
                limits[1, j] = max(limits[1, j], value)
            if not math.isnan(limits[0, j]):
                width = limits[1, j] - limits[0, j]
                out[i, j] = (value - limits[0, j]) / width if width != 0.0 else 0.0


@kernel(none(A2_f8, i8, i8, A2_i8, A2_f8, A2_i8, A2_i8, A_i8, i8, i8))
def learn(
    rows: Any, begin: Any, end: Any, feature: Any, threshold: Any, mass: Any, reference: Any,
    state: Any, height: Any, window_size: Any,
) -> None:  # fmt: skip
    """Count rows on their way through each tree; a full window becomes the reference."""
    trees, nodes = mass.shape
    for i in range(begin, end):
        for t in range(trees):
            node = 0
            for _ in range(height):
                mass[t, node] += 1
                node = _child(feature, threshold, mass, t, node, rows, i)
            mass[t, node] += 1
        state[COUNTER] += 1
        if state[COUNTER] == window_size:
            for t in range(trees):
                for node in range(nodes):
                    reference[t, node] = mass[t, node]
                    mass[t, node] = 0
            state[COUNTER] = 0
            state[PIVOTS] += 1


@kernel(none(A2_f8, i8, i8, A2_i8, A2_f8, A2_i8, A2_i8, i8, i8, A_f8))
def score(
    rows: Any, begin: Any, end: Any, feature: Any, threshold: Any, mass: Any, reference: Any,
    height: Any, window_size: Any, scores: Any,
) -> None:  # fmt: skip
    """Score rows by how few of the last window went the same way, and how soon."""
    trees = mass.shape[0]
    most = float(trees) * float(window_size) * float(2 ** (height + 1) - 1)
    limit = 0.1 * window_size
    for i in range(begin, end):
        total = 0.0
        for t in range(trees):
            node = 0
            power = 1.0
            for _ in range(height):
                total += reference[t, node] * power
                if reference[t, node] < limit:
                    break
                node = _child(feature, threshold, mass, t, node, rows, i)
                power *= 2.0
            else:
                total += reference[t, node] * power
        scores[i] = 1.0 - total / most
