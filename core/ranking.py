"""How well scores tell what is labelled an attack from what is labelled benign.

Laws:

1. What was not scored (NaN) lies below every score: it costs, among attacks and benign packets
   alike, as it does a reader who puts the lowest score there, and never raises an alarm.
2. Equal scores are equal: a pair of them counts half, and a threshold passes all of them or none.
   Nothing is interpolated, so that every rate reported is one that a threshold has.

Source: the area under the curve as the statistic of H. B. Mann and D. R. Whitney, "On a test of
whether one of two random variables is stochastically larger than the other" (1947).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_CHUNK = 1 << 20
"""Packets looked at together: what is needed beside the scores is of this size."""


class Detected(msgspec.Struct, frozen=True, kw_only=True):
    """What one threshold finds.

    Attributes:
        fpr_max: Share of benign packets that may lie above it, 0 … 1.
        threshold: The score that must be exceeded; the lowest that keeps to `fpr_max`.
        fpr: Share of benign packets above it.
        tpr: Share of attack packets above it; NaN when there are none.
    """

    fpr_max: float
    threshold: float
    fpr: float
    tpr: float


class Separation(msgspec.Struct, frozen=True, kw_only=True):
    """How one kind of attack, or all of them, stand out from the benign packets.

    Attributes:
        label: The kind; `None` for all attacks together.
        packets: Its packets.
        unscored: Packets among them that have no score.
        auc: Probability that one of its packets has a higher score than a benign one.
        at: What is found at each false-positive rate that was asked for.
    """

    label: int | None
    packets: int
    unscored: int
    auc: float
    at: tuple[Detected, ...]


class Benign:
    """The scores of benign packets, in order, for attacks to be compared with.

    Args:
        scores: `(n,) float32` or `float64`, n ≥ 1; NaN where there is none.
    """

    def __init__(self, scores: NDArray[np.floating]) -> None:
        self._sorted = _filled(scores)
        self._sorted.sort()

    def auc(self, attack: NDArray[np.floating]) -> float:
        """Return the share of pairs in which the attack has the higher score; equal ones half.

        Args:
            attack: `(m,)`, m ≥ 1; scores of attack packets, NaN where there is none.
        """
        doubled = 0  # an exact integer, however many pairs there are
        for begin in range(0, attack.size, _CHUNK):
            part = _filled(attack[begin : begin + _CHUNK])
            part.sort()  # neighbours are looked for in the same place
            doubled += int(np.searchsorted(self._sorted, part, side="left").sum(dtype=np.int64))
            doubled += int(np.searchsorted(self._sorted, part, side="right").sum(dtype=np.int64))
        return doubled / (2 * attack.size * self._sorted.size)

    def detect(self, attack: NDArray[np.floating], fpr_max: float) -> Detected:
        """Return what the lowest threshold finds that keeps to a false-positive rate.

        Args:
            attack: As for `auc`; may be empty.
            fpr_max: 0 … 1; below 1 / n no benign packet may lie above the threshold.
        """
        n = self._sorted.size
        allowed = math.floor(fpr_max * n + 1e-9)  # 0.07 × 100 is a little below 7
        threshold = self._sorted[n - 1 - allowed] if allowed < n else -math.inf
        above = n - int(np.searchsorted(self._sorted, threshold, side="right"))
        # NaN compares as false.
        found = sum(
            int(np.count_nonzero(attack[begin : begin + _CHUNK] > threshold))
            for begin in range(0, attack.size, _CHUNK)
        )
        tpr = found / attack.size if attack.size else math.nan
        return Detected(fpr_max=fpr_max, threshold=float(threshold), fpr=above / n, tpr=tpr)


def separate(
    scores: NDArray[np.floating], labels: NDArray[np.integer], rates: Sequence[float]
) -> list[Separation]:
    """Compare all attacks, then each kind of them, with the benign packets.

    Args:
        scores: `(n,)`; NaN where there is none.
        labels: `(n,)`; 0 is benign, every other number a kind of attack. Both must be there.
        rates: False-positive rates to look at, 0 … 1.
    """
    benign = Benign(scores[labels == 0])
    found = []
    for label in [None, *kinds(labels)]:
        attack = scores[labels != 0 if label is None else labels == label]
        found.append(
            Separation(
                label=label,
                packets=attack.size,
                unscored=int(np.isnan(attack).sum()),
                auc=benign.auc(attack),
                at=tuple(benign.detect(attack, rate) for rate in rates),
            )
        )
    return found


def kinds(labels: NDArray[np.integer]) -> list[int]:
    """Return the kinds of attack among labels, in order."""
    found: set[int] = set()
    for begin in range(0, labels.size, _CHUNK):
        found.update(np.unique(labels[begin : begin + _CHUNK]).tolist())
    return sorted(found - {0})


def _filled(scores: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return a copy in which what has no score lies lowest (law 1)."""
    return np.where(np.isnan(scores), -np.inf, scores).astype(scores.dtype, copy=False)
