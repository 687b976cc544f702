"""False alarms: how often a configured rate alarms on what is benign.

Laws:

1. A score becomes a tail probability by the calibration that findings use
   (`models.calibration`), in order: a window is judged by those before it, attacks among them, and
   what alarms is what is at most as probable as configured.
2. What is judged is a row: the packets of one window that have one score. Packets and rows are
   counted apart, because one row of many packets alarms once.
3. A row is benign when all its packets are. What was not scored is in neither share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from models.calibration import TailCalibration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class FalseAlarmRate(msgspec.Struct, frozen=True, kw_only=True):
    """What a configured false-alarm rate came to.

    Attributes:
        configured: The tail probability that alarms, 0 … 1.
        packets: Share of the scored benign packets in a row that alarmed; NaN when there are none.
        rows: Share of the benign rows that alarmed, likewise.
    """

    configured: float
    packets: float
    rows: float


class FalseAlarms:
    """Counts alarms on benign packets, window by window.

    Args:
        rates: Configured rates, each 0 … 1.
    """

    def __init__(self, rates: Sequence[float]) -> None:
        self._rates = np.array(rates, np.float64)
        self._calibration = TailCalibration()
        self._alarms = np.zeros((2, len(rates)), np.int64)
        self._seen = np.zeros(2, np.int64)

    def add(
        self,
        scores: NDArray[np.floating],
        window: NDArray[np.int64],
        is_benign: NDArray[np.bool_],
        counts: NDArray[np.bool_],
    ) -> None:
        """Judge the packets of some whole windows, then learn their scores.

        Args:
            scores: `(n,)`; NaN where there is none.
            window: `(n,) int64`; never decreasing: packets of one window have the same number.
            is_benign: `(n,) bool`.
            counts: `(n,) bool`; whether the packet is counted, rather than only learnt.
        """
        scored = np.flatnonzero(~np.isnan(scores))
        if scored.size == 0:
            return
        order = scored[np.lexsort((scores[scored], window[scored]))]
        score, of = scores[order], window[order]
        is_first = np.append(True, (score[1:] != score[:-1]) | (of[1:] != of[:-1]))
        begin = np.flatnonzero(is_first)
        group_end = np.append(np.flatnonzero(of[begin][1:] != of[begin][:-1]) + 1, begin.size)
        tails = self._calibration.tail_many(score[begin].astype(np.float64), group_end)
        benign = np.logical_and.reduceat(is_benign[order] & counts[order], begin)
        of_packets = tails[np.cumsum(is_first) - 1][is_benign[order] & counts[order]]
        for i, each in enumerate((of_packets, tails[benign])):
            self._seen[i] += each.size
            self._alarms[i] += (each[:, None] <= self._rates).sum(axis=0)

    def rates(self) -> tuple[FalseAlarmRate, ...]:
        """Return what each configured rate came to so far."""
        shares = [
            alarms / seen if seen else np.full(self._rates.size, np.nan)
            for alarms, seen in zip(self._alarms, self._seen, strict=True)
        ]
        return tuple(
            FalseAlarmRate(configured=rate, packets=packets, rows=rows)
            for rate, packets, rows in zip(self._rates.tolist(), *(s.tolist() for s in shares),
                                           strict=True)
        )  # fmt: skip
