"""What systemd is told of a run: that it is ready, reloads, stops, and is alive.

Laws:

1. Without `NOTIFY_SOCKET` nothing is sent; a supervisor that cannot be reached ends no run.
2. `WATCHDOG=1` means that every part of the source has looked for packets since the last one: it is
   sent by the workers themselves while they do, and by nobody else.

Sources: sd_notify(3), sd_watchdog_enabled(3), systemd.service(5) (`Type=notify-reload`).
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from connectors.clock import monotonic_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PINGS = 4
"""Pings in the time after which the supervisor would give up; it advises two."""


class Supervisor:
    """Whoever started this process and wants to know how it is, if anybody does.

    Args:
        env: Environment variables: `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
        now_ns: A clock that never steps backwards; that of systemd.
    """

    def __init__(
        self, env: Mapping[str, str] = os.environ, now_ns: Callable[[], int] = monotonic_ns
    ) -> None:
        self._now_ns = now_ns
        self._socket: socket.socket | None = None
        address = env.get("NOTIFY_SOCKET", "")
        if address.startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            # A name that begins with NUL is no file; so does nobody wait for one that is full.
            self._address = f"\0{address[1:]}" if address.startswith("@") else address
            self._socket.setblocking(False)
        self._ping_ns = _ping_ns(env) if self._socket else 0
        self._due_ns = 0
        self._seen: set[str] = set()
        self._lock = threading.Lock()
        self._is_ready = self._is_stopping = False

    def ready(self) -> None:
        """Say, once, that the source is open and the sink answers."""
        if not self._is_ready:
            self._is_ready = True
            self._tell("READY=1")

    def reloading(self) -> None:
        """Say that settings are read again; `reloaded` has to follow."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={self._now_ns() // 1_000}")

    def reloaded(self) -> None:
        """Say that settings were read again, and whatever came of it is done."""
        self._tell("READY=1")

    def stopping(self) -> None:
        """Say, once, that no more is taken in; what was is still delivered."""
        if not self._is_stopping:
            self._is_stopping = True
            self._tell("STOPPING=1")

    def alive(self, part: str, parts: int) -> None:
        """Take note that a part of the source looks for packets; called whenever it does.

        Args:
            part: Its name.
            parts: How many there are.
        """
        if not self._ping_ns:
            return
        with self._lock:
            self._seen.add(part)
            now_ns = self._now_ns()
            if now_ns < self._due_ns or len(self._seen) < parts:
                return
            self._due_ns = now_ns + self._ping_ns
            self._seen.clear()
        self._tell("WATCHDOG=1")

    def close(self) -> None:
        """Tell nothing more."""
        if self._socket is not None:
            self._socket.close()
            self._socket, self._ping_ns = None, 0

    def _tell(self, state: str) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.sendto(state.encode(), self._address)


def _ping_ns(env: Mapping[str, str]) -> int:
    """Return the time between two pings; 0 when nobody waits for any from this process."""
    after_us, meant_for = env.get("WATCHDOG_USEC", ""), env.get("WATCHDOG_PID", "")
    if not after_us.isdecimal() or meant_for not in ("", str(os.getpid())):
        return 0
    return int(after_us) * 1_000 // PINGS
