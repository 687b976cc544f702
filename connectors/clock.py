"""The only place that reads a clock.

Nothing that decides about a packet calls this: time inside the graph is packet time, or what a live
source says it has become when no packets come. What is left is pacing a replay or a sender,
measuring how long a run took, and refreshing a progress bar.
"""

from __future__ import annotations

import time


def monotonic_ns() -> int:
    """Return a time in ns that never steps backwards; only differences mean anything."""
    return time.monotonic_ns()


def wall_ns() -> int:
    """Return the time in ns since the epoch, as the kernel stamps what it receives.

    It steps when somebody sets it; live sources alone ask for it, to say what time it has become.
    """
    return time.time_ns()


def cpu_ns() -> int:
    """Return the CPU time of this process in ns, all threads together."""
    return time.process_time_ns()


def sleep_until(at_ns: int) -> None:
    """Sleep until `monotonic_ns` has reached a time; signals are handled in between."""
    if (left_ns := at_ns - monotonic_ns()) > 0:
        time.sleep(left_ns * 1e-9)
