"""The time all stages go by: capture time, less what cannot be meant.

Laws:

1. It never steps back: a packet stamped earlier than one before it happens at the later time.
2. A step ahead by more than `STEP_NS_MAX` is believed when the next packet is there as well. A lone
   packet stamped far ahead, by damage or by malice, happens at the time before it; else it would
   stop every window and every bucket for the rest of the replay.
3. It depends on the stamps and their order alone, not on how they were cut into batches.

Records keep the stamp a packet came with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from core.kernels import A_i8, i8, kernel, none

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEP_NS_MAX = 86_400 * 1_000_000_000
"""Longest step ahead that one packet alone can prove: a day."""
UNSET = -1
"""Packets are stamped at 0 or later (law 3 of `core.capture`)."""

START = (UNSET, UNSET)
"""State of a timeline before its first packet: the time now, and the doubted step's, if any."""


@kernel(none(A_i8, A_i8, A_i8, i8))
def _settle(at_ns: Any, state: Any, clock_ns: Any, step_ns_max: Any) -> None:
    """Write the time at which each packet happens."""
    for i in range(at_ns.size):
        at = at_ns[i]
        now, doubted = state[0], state[1]
        state[1] = UNSET
        if now == UNSET or at <= now + step_ns_max or (doubted != UNSET and (
            at >= doubted - step_ns_max
        )):  # fmt: skip
            state[0] = max(now, at)
        else:
            state[1] = at
        clock_ns[i] = state[0]


def settle(
    at_ns: NDArray[np.int64], state: tuple[int, int] = START
) -> tuple[NDArray[np.int64], tuple[int, int]]:
    """Tell when packets happen.

    Args:
        at_ns: `(n,) int64`; their stamps in order, ns since the epoch.
        state: `START`, or what was returned for the packets before them.

    Returns:
        `(n,) int64`, never falling; and the state after them.
    """
    clock_ns, after = np.empty(at_ns.size, np.int64), np.array(state, np.int64)
    _settle(np.ascontiguousarray(at_ns), after, clock_ns, STEP_NS_MAX)
    return clock_ns, (int(after[0]), int(after[1]))
