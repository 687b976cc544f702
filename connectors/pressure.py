"""Pressure: how a sink whose queue is full makes the sources pause.

Laws:

1. A source asks before it emits; while it is told to hold back it emits nothing, so that what waits
   grows by no more than what is already in the graph.
2. Whoever asks helps: the wait is spent on delivering, on the thread that would else be idle.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

Relief = Callable[[float], bool]
"""Called with seconds it may take; returns whether there is room again."""


class Pressure:
    """What the sinks and sources of one process share, from whatever thread."""

    def __init__(self) -> None:
        self._pressed = threading.Event()
        self._relief: Relief = lambda _: True
        self._others: list[Callable[[], bool]] = []

    def on_relief(self, relief: Relief) -> None:
        """Say what a source may call to help."""
        self._relief = relief

    def also(self, holds: Callable[[], bool]) -> None:
        """Name somebody else who may have the sources pause, and needs no help."""
        self._others.append(holds)

    def press(self) -> None:
        """Ask the sources to pause."""
        self._pressed.set()

    def holds(self, wait_s: float) -> bool:
        """Tell whether a source has to hold back, after at most `wait_s` of helping."""
        if self._pressed.is_set() and self._relief(wait_s):
            self._pressed.clear()
        return self._pressed.is_set() or any(holds() for holds in self._others)
