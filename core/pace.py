"""Pace of a replay: when each packet is due, at a multiple of capture time.

Laws:

1. Pace delays packets, and changes neither their order nor what they say.
2. Time stands still where capture time does not tell: at a step backwards, between two files, and
   at a step beyond `STEP_NS_MAX`, which is a damaged or missing stamp and no silence.

Not here: the clock, whose reading is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEP_NS_MAX = 86_400 * 1_000_000_000
"""Longest silence inside a capture that is waited for: a day."""
WAIT_NS_MAX = STEP_NS_MAX * 365
"""Longest wait that is told; a bound for arithmetic only."""


@dataclass(slots=True)
class Pace:
    """Schedules packets; one object for a whole replay.

    Attributes:
        speed: Multiple of capture time, above 0.
    """

    speed: float
    _file: int = -1
    _latest_ns: int = 0
    _reached_ns: int = 0
    _begun_ns: int | None = None

    def schedule(self, at_ns: NDArray[np.int64], file: int) -> NDArray[np.int64]:
        """Tell how far into the replay, in capture time, the next packets lie.

        Args:
            at_ns: `(n,) int64`, n ≥ 1; capture times of the packets that follow those scheduled
                before, ns since the epoch.
            file: Number of their file.

        Returns:
            `(n,) int64`; ns since the first packet of the replay, never falling.
        """
        if file != self._file:
            self._file, self._latest_ns = file, int(at_ns[0])
        latest = np.maximum.accumulate(np.concatenate([[self._latest_ns], at_ns]))
        steps = np.diff(latest)
        steps[steps > STEP_NS_MAX] = 0
        due_ns = self._reached_ns + np.cumsum(steps)
        self._latest_ns, self._reached_ns = int(latest[-1]), int(due_ns[-1])
        return due_ns

    def due(self, due_ns: NDArray[np.int64], now_ns: int) -> tuple[int, int]:
        """Count the packets that are due by now.

        Args:
            due_ns: `(n,) int64`, n ≥ 1; what `schedule` returned, less those handed on.
            now_ns: Reading of a clock that never steps backwards, ns; the first one begins.

        Returns:
            Packets at the head that are due, and ns until the next is when none is, else 0.
        """
        if self._begun_ns is None:
            self._begun_ns = now_ns - int(int(due_ns[0]) / self.speed)
        passed_ns = (now_ns - self._begun_ns) * self.speed
        count = int(np.searchsorted(due_ns, passed_ns, side="right"))
        if count:
            return count, 0
        return 0, int(min(WAIT_NS_MAX, (float(due_ns[0]) - passed_ns) / self.speed)) + 1
