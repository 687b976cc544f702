"""A plain UDP socket on loopback that keeps what it gets, and from where."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from core.endpoint import Endpoint

PATIENCE_S = 20.0
_SO_RCVBUFFORCE = 33


class Receiver:
    """Receives in a thread until told how much there has to be."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        for option in (socket.SO_RCVBUF, _SO_RCVBUFFORCE):  # the second one is for root
            with suppress(PermissionError):
                self._socket.setsockopt(socket.SOL_SOCKET, option, 1 << 22)
        self._socket.bind((host, 0))
        self._socket.settimeout(0.05)
        self.got: list[tuple[bytes, Any]] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._receive)

    @property
    def endpoint(self) -> Endpoint:
        host, port, *_ = self._socket.getsockname()
        return Endpoint(host, port)

    @property
    def payloads(self) -> list[bytes]:
        return [payload for payload, _ in self.got]

    def _receive(self) -> None:
        while True:
            try:
                self.got.append(self._socket.recvfrom(1 << 16))
            except TimeoutError:
                if self._ending.is_set():
                    return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()
        self._socket.close()

    def end(self) -> list[bytes]:
        """Take what is on its way, and return all payloads."""
        self._ending.set()
        self._thread.join(PATIENCE_S)
        return self.payloads


def nobody() -> Endpoint:
    """Return an endpoint on loopback where nothing listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", 0))
        return Endpoint("127.0.0.1", held.getsockname()[1])
