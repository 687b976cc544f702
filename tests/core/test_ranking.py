"""Rankings against counting pairs, and worked by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core import ranking
from core.ranking import Benign, kinds, separate

FEW = st.sampled_from([0.0, 1.0, 2.0, 0.5, -3.0, math.nan, math.inf])
SCORES = st.lists(FEW | st.floats(-1e3, 1e3, width=32), min_size=1, max_size=30)


def lowest(score: float) -> float:
    return -math.inf if math.isnan(score) else score


@given(SCORES, SCORES)
def test_the_area_is_the_share_of_pairs_won(attack: list[float], benign: list[float]) -> None:
    """Every pair counted: a tie is half a pair, and no score is below every score."""
    halves = sum(
        (lowest(a) > lowest(b)) * 2 + (lowest(a) == lowest(b)) for a in attack for b in benign
    )
    wanted = Fraction(halves, 2 * len(attack) * len(benign))
    found = Benign(np.array(benign, np.float32)).auc(np.array(attack, np.float32))
    assert found == float(wanted)


@given(SCORES, SCORES, st.sampled_from([0.0, 0.001, 0.01, 0.07, 0.1, 0.5, 1.0]))
@example([0.0], [0.0], 1.0)
def test_a_rate_is_the_best_that_any_threshold_has(
    attack: list[float], benign: list[float], fpr_max: float
) -> None:
    """Of all thresholds that keep to the false-positive rate none finds more."""
    at = Benign(np.array(benign, np.float32)).detect(np.array(attack, np.float32), fpr_max)
    assert at.fpr <= fpr_max + 1e-9
    assert at.fpr == sum(b > at.threshold for b in benign) / len(benign)
    assert at.tpr == sum(a > at.threshold for a in attack) / len(attack)
    for cut in {-math.inf, *map(lowest, benign), *map(lowest, attack)}:
        if sum(lowest(b) > cut for b in benign) <= fpr_max * len(benign) + 1e-9:
            assert sum(lowest(a) > cut for a in attack) / len(attack) <= at.tpr


def test_what_is_reported_of_a_kind() -> None:
    """By hand: five benign packets, two kinds of attack, one packet without a score."""
    scores = np.array([1, 2, 3, 4, 4, 4, 5, math.nan, 9], np.float32)
    labels = np.array([0, 0, 0, 0, 0, 7, 7, 7, 2], np.uint8)
    both, first, second = separate(scores, labels, (0.0, 0.4))
    assert (both.label, first.label, second.label) == (None, 2, 7)
    assert (both.packets, both.unscored, second.packets, second.unscored) == (4, 1, 3, 1)
    assert first.auc == 1.0
    assert second.auc == pytest.approx((4 + 5 + 0) / 15)
    assert both.auc == pytest.approx((4 + 5 + 0 + 5) / 20)
    assert [(at.threshold, at.fpr) for at in second.at] == [(4.0, 0.0), (3.0, 0.4)]
    assert [at.tpr for at in second.at] == pytest.approx([1 / 3, 2 / 3])


def test_portions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at together has a size, which shows in no figure."""
    rng = np.random.default_rng(5)
    scores = rng.integers(0, 50, 1000).astype(np.float32)
    labels = rng.integers(0, 3, 1000)
    whole = separate(scores, labels, (0.01,))
    monkeypatch.setattr(ranking, "_CHUNK", 7)
    assert separate(scores, labels, (0.01,)) == whole
    assert kinds(labels) == [1, 2]


def test_kinds_may_be_any_integer() -> None:
    """Labels of every width are told apart."""
    for dtype in (np.int8, np.uint16, np.int64, ">i4", np.uint64):
        assert kinds(np.array([3, 0, 1, 3], dtype)) == [1, 3]
    assert kinds(np.array([2**63 + 1, 0], np.uint64)) == [2**63 + 1]
