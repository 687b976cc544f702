"""Waiting: until when the steps have nothing to do unless packets come.

Laws:

1. A live source sends the time on its own account (a tick) when somebody waits for it. One that
   would change nothing is not sent: an idle run costs nothing but the looking.
2. Whoever waits says so after each batch, for itself; what is due is the earliest of all.

Of a cluster, each process knows its own steps only; for those elsewhere a live source ticks every
second in any case (`connectors.live`).
"""

from __future__ import annotations

import threading


class Waiting:
    """What the steps and the live sources of one process share, from whatever thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next_ns: dict[str, int] = {}

    def write(self, page: str, next_ns: int | None) -> None:
        """Say until when somebody waits.

        Args:
            page: Who; as in the ledger.
            next_ns: The first time at which a tick does something, ns since the epoch; `None` when
                none would.
        """
        with self._lock:
            if next_ns is not None:
                self._next_ns[page] = next_ns
            elif page in self._next_ns:
                del self._next_ns[page]

    @property
    def next_ns(self) -> int | None:
        """The first time that somebody waits for; `None` when nobody does."""
        with self._lock:
            return min(self._next_ns.values(), default=None)
