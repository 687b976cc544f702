"""False-alarm rates against counting by hand, and on what is benign by construction."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.false_alarms import FalseAlarms


def test_rows_and_packets_are_counted_apart() -> None:
    """By hand: a window is judged by those before it, and a row of three packets alarms once."""
    counted = FalseAlarms([0.5, 0.2])
    scores = np.array([1, 1, 2, 8, 8, 8, 1, math.nan, 1, 9], np.float32)
    window = np.array([0, 0, 0, 1, 1, 1, 1, 1, 2, 2])
    is_benign = np.ones(10, np.bool_)
    is_benign[9] = False
    is_counted = np.arange(10) >= 3
    for part in (slice(0, 8), slice(8, 10)):
        counted.add(scores[part], window[part], is_benign[part], is_counted[part])
    # Rows: 1 and 2, then 8 (tail 1/3) and 1 (3/3), then 1 (5/5), and an attack.
    half, fifth = counted.rates()
    assert (half.configured, fifth.configured) == (0.5, 0.2)
    assert half.rows == pytest.approx(1 / 3)
    assert half.packets == pytest.approx(3 / 5)
    assert (fifth.rows, fifth.packets) == (0.0, 0.0)


def test_a_row_that_is_partly_an_attack_is_no_benign_row() -> None:
    """Its benign packets alarmed all the same."""
    counted = FalseAlarms([0.5])
    for i, score in enumerate((1.0, 4.0)):
        scores = np.full(2, score, np.float32)
        everything = np.ones(2, np.bool_)
        counted.add(scores, np.full(2, i), np.array([True, i == 0]), everything)
    assert counted.rates()[0].rows == 0.0
    assert counted.rates()[0].packets == pytest.approx(1 / 3)


def test_nothing_benign_has_no_rate() -> None:
    """Unknown is not zero."""
    counted = FalseAlarms([0.5])
    nothing = np.zeros(0)
    counted.add(nothing, nothing.astype(np.int64), nothing == 0, nothing == 0)
    assert math.isnan(counted.rates()[0].rows)


def test_scores_of_one_kind_alarm_as_often_as_configured() -> None:
    """Of scores that are drawn alike, a rate comes to about what was configured."""
    rng = np.random.default_rng(8)
    counted = FalseAlarms([0.1, 0.01])
    everything = np.ones(200_000, np.bool_)
    counted.add(rng.exponential(size=200_000), np.arange(200_000) // 50, everything, everything)
    for rate in counted.rates():
        assert rate.configured / 2 < rate.rows < rate.configured * 2
