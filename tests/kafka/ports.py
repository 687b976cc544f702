"""Ports of this machine that nobody else gets, whether or not anybody listens there.

Law: a port is ours from the moment it is chosen until it is given back, also while the broker that
listens there is stopped: its own socket, bound and never listening, keeps it.

Linux lets a second socket bind where the first one allows it (`SO_REUSEADDR` on both) and does not
listen; Java allows it for each server socket. It hands such a port to nobody who asks for any.

Source: Linux, socket(7) and `inet_csk_bind_conflict`.
"""

from __future__ import annotations

import socket

HOST = "127.0.0.1"


class Port:
    """A port that is kept.

    Attributes:
        number: Its number.
    """

    def __init__(self) -> None:
        self._keeper = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._keeper.bind((HOST, 0))
        self.number: int = self._keeper.getsockname()[1]

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{HOST}:{self.number}"

    def close(self) -> None:
        """Give the port back."""
        self._keeper.close()
