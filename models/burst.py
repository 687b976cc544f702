"""Bursts: how probable it is that more arrives within the next second than the dam passes.

Laws:

1. A second is one of packet time. At its end the model is told whether more arrived in it than the
   rate, learns that from what was known a second before, and predicts the next.
2. Nothing depends on how arrivals were cut into batches, nor on ticks. After `SILENCE_S_MAX`
   seconds without an arrival the past is forgotten but for the weights, and nothing is learnt until
   one comes; so any gap costs the same.
3. A second is held against the rate that was in force at its first arrival.
4. Until `WARM_S` seconds are learnt the probability is NaN, which means warming.

Any classifier of River may stand in for the model: it is given rows of `FEATURES`, and true or not.

Source: forecasts as in G. Brier, "Verification of forecasts expressed in terms of probability"
(1950): the score counted here is the mean squared error of the probability.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from models.logistic import LogisticRegression

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from river.base import Classifier

SECOND_NS = 1_000_000_000
LATE_NS = 250_000_000
"""The last part of a second, which says how it will go on."""
WARM_S = 30
SILENCE_S_MAX = 120

FEATURES = (
    "last", "late", "short", "long", "last_over", "late_over", "short_over", "share", "above",
)  # fmt: skip
"""What is known at the end of a second, `VALUE_MAX` at most. Logarithms of rates as multiples of
that of the dam: of the second, its last quarter, and damped means; by how many deviations of a
second the first three are above it; the damped share of seconds above it; whether this one was."""
VALUE_MAX = 4.0
PRIOR = {"": -3.0, "above": 4.0} | dict.fromkeys(FEATURES[:-1], 0.0)
"""Before anything is learnt: bursts are rare, and last."""
_SHORT, _LONG = 1 / 4, 1 / 32
"""Weights of a new second in the damped means."""


class BurstPredictor:
    """Watches the arrivals of one dam.

    Args:
        make: Makes the model.

    Attributes:
        seconds: Seconds whose prediction was held against what came.
        bursts: Seconds among these in which more arrived than the rate.
        squared_error: Sum over these of (prediction − what came)²; divided by `seconds` it is the
            Brier score.
    """

    def __init__(self, make: Callable[[], Classifier] | None = None) -> None:
        self._model: Classifier = LogisticRegression(PRIOR) if make is None else make()
        self._now_ns = -1
        self._second = -1  # the open one
        self._count = self._late = self._rate = 0
        self._silent = 0  # seconds in a row, up to the open one
        self._row: dict[Any, float] = {}
        self._next = math.nan
        self._learnt = 0
        self._forget()
        self.seconds = self.bursts = 0
        self.squared_error = 0.0

    def _forget(self) -> None:
        self._short = self._long = self._square = self._share = 0.0
        self._known = 0  # seconds that the means are of

    def arrive(self, clock_ns: NDArray[np.int64], rate_hz: int) -> None:
        """Count arrivals.

        Args:
            clock_ns: `(n,) int64`; packet times, ns since the epoch; one that steps back counts as
                the latest before it.
            rate_hz: Arrivals a second that the dam passes.
        """
        if clock_ns.size == 0:
            return
        at = np.maximum.accumulate(np.maximum(clock_ns, self._now_ns))
        self._now_ns = int(at[-1])
        begin = 0
        while begin < at.size:
            second = int(at[begin]) // SECOND_NS
            self._pass_to(second)
            if self._count == 0:
                self._rate = rate_hz
            end_ns = (second + 1) * SECOND_NS
            end = int(np.searchsorted(at, end_ns)) if self._now_ns >= end_ns else at.size
            late = max(begin, int(np.searchsorted(at, end_ns - LATE_NS)))
            self._count += end - begin
            self._late += max(0, end - late)
            begin = end

    def tick(self, now_ns: int) -> None:
        """Let time pass without an arrival; an earlier `now_ns` changes nothing."""
        if self._second >= 0:
            self._now_ns = max(self._now_ns, now_ns)
            self._pass_to(self._now_ns // SECOND_NS)

    @property
    def probability(self) -> float:
        """Probability that more arrives in the open second than the rate; NaN while warming."""
        return self._next if self._learnt >= WARM_S else math.nan

    def totals(self) -> dict[str, int]:
        """Return what is to be published: counts, and in millionths error and probability.

        The probability is left out while warming.
        """
        counts = {
            "burst_seconds": self.seconds,
            "bursts": self.bursts,
            "burst_error_ppm": round(self.squared_error * 1e6),
        }
        if not math.isnan(self.probability):
            counts["burst_ppm_max"] = round(self.probability * 1e6)
        return counts

    def _pass_to(self, second: int) -> None:
        """Close every second before this one."""
        if self._second < 0:
            self._second = second
        while self._second < second:
            if self._count == 0 and self._silent >= SILENCE_S_MAX:
                self._second = second
                return
            self._close()
            self._second += 1

    def _close(self) -> None:
        """Hold the open second against its prediction, learn it, and predict the next (law 1)."""
        count, above = self._count, self._count > self._rate
        if self._row and self._silent < SILENCE_S_MAX:
            if self._learnt >= WARM_S:
                self.seconds += 1
                self.bursts += above
                self.squared_error += (self._next - above) ** 2
            self._model.learn_one(self._row, above)
            self._learnt += 1
        self._silent = self._silent + 1 if count == 0 else 0
        if self._silent >= SILENCE_S_MAX:
            self._forget()
        else:
            self._damp(float(count), float(above))
        self._row = self._describe(float(count), float(self._late), above=above)
        self._next = float(self._model.predict_proba_one(self._row).get(True, 0.0))
        self._count = self._late = 0

    def _damp(self, count: float, above: float) -> None:
        """Put a second into the damped means; the first ones into plain means."""
        self._known += 1
        short, long = max(_SHORT, 1 / self._known), max(_LONG, 1 / self._known)
        self._short += short * (count - self._short)
        self._long += long * (count - self._long)
        self._square += long * (count * count - self._square)
        self._share += long * (above - self._share)

    def _describe(self, count: float, late: float, *, above: bool) -> dict[Any, float]:
        """Return what is known at the end of a second as `FEATURES`."""
        rate, late = float(max(1, self._rate)), late * (SECOND_NS / LATE_NS)
        deviation = math.sqrt(max(0.0, self._square - self._long**2)) + 1.0
        once = math.log(rate + 1.0)
        values = (
            math.log(count + 1.0) - once,
            math.log(late + 1.0) - once,
            math.log(self._short + 1.0) - once,
            math.log(self._long + 1.0) - once,
            (count - rate) / deviation,
            (late - rate) / deviation,
            (self._short - rate) / deviation,
            self._share,
            1.0 if above else 0.0,
        )
        return {
            name: max(-VALUE_MAX, min(VALUE_MAX, value))
            for name, value in zip(FEATURES, values, strict=True)
        }
