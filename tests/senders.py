"""Senders of UDP for tests and benchmarks: many equal datagrams at once, to loopback.

    python -m tests.senders PORT SECONDS BYTES gso|each

sends from a process of its own as fast as it can, and prints how many datagrams it sent.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys
from typing import Self

import numpy as np

from connectors.clock import monotonic_ns

UDP_SEGMENT = 103
MESSAGES = 64
_libc = ctypes.CDLL(None, use_errno=True)


class Sender:
    """Sends the same datagram over and over by `sendmmsg`, singly or in segments (UDP_SEGMENT)."""

    def __init__(self, port: int, payload: bytes, *, gso: bool, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.connect((host, port))
        self.segments = min(64, 65_000 // len(payload)) if gso else 1
        if gso:
            self.socket.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, len(payload))
        self._payload = np.frombuffer(payload * self.segments, np.uint8)
        self._piece = np.array([self._payload.ctypes.data, self._payload.size], np.uint64)
        self._heads = np.zeros((MESSAGES, 8), np.uint64)
        self._heads[:, 2], self._heads[:, 3] = self._piece.ctypes.data, 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, messages: int = MESSAGES) -> int:
        """Send messages, `MESSAGES` at most; return how many datagrams left."""
        done = _libc.sendmmsg(
            self.socket.fileno(), ctypes.c_void_p(self._heads.ctypes.data), messages, 0
        )
        if done < 0:
            code = ctypes.get_errno()
            # Said of an earlier datagram that nobody received any more.
            if code == errno.ECONNREFUSED:
                return 0
            raise OSError(code, os.strerror(code))
        return int(done) * self.segments


def one(port: int, payload: bytes, segment: int = 0, host: str = "127.0.0.1") -> None:
    """Send one datagram, or one message of segments."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("H", segment))] if segment else []
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.sendmsg([payload], control, 0, (host, port))


def main() -> None:
    """Send for as long as the command line says."""
    port, seconds, size, how = sys.argv[1:]
    until, sent = monotonic_ns() + int(float(seconds) * 1e9), 0
    with Sender(int(port), bytes(int(size)), gso=how == "gso") as sender:
        while monotonic_ns() < until:
            sent += sender.send()
    print(sent)


if __name__ == "__main__":
    main()
