"""A network namespace of its own with a pair of interfaces, and a sender of whole packets.

    python -m tests.netns NAME INTERFACE SECONDS BYTES

sends frames of so many bytes as fast as it can from an interface of the namespace NAME, and prints
how many it sent.
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import pytest

from connectors.clock import monotonic_ns

MESSAGES = 64
_CLONE_NEWNET = 0x4000_0000
_TUNSETIFF, _TUNSETLINK, _TUN_NO_PI = 0x4004_54CA, 0x4004_54CD, 0x1001
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


def _enter(handle: BinaryIO) -> None:
    if _libc.setns(handle.fileno(), _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@dataclass(frozen=True)
class Namespace:
    """A namespace whose interfaces `left` and `right` are two ends of one wire.

    Attributes:
        name: As `ip netns` has it.
    """

    name: str
    left: str = "left"
    right: str = "right"

    def ip(self, *arguments: str) -> str:
        """Run `ip` in it."""
        command = ["ip", "-n", self.name, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def execute(self, command: Sequence[str]) -> list[str]:
        """Return a command that runs there."""
        return ["ip", "netns", "exec", self.name, *command]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Let sockets that this thread opens belong to it."""
        with (
            Path("/proc/thread-self/ns/net").open("rb") as here,
            Path("/run/netns", self.name).open("rb") as there,
        ):
            _enter(there)
            try:
                yield
            finally:
                _enter(here)

    def passed(self, interface: str) -> int:
        """Return how many packets an interface gave to the wire and the other end took in."""
        found = json.loads(self.ip("-j", "-s", "link", "show", "dev", interface))
        return int(found[0]["stats64"]["tx"]["packets"])


@contextmanager
def namespace() -> Iterator[Namespace]:
    """Make a namespace whose interfaces are up and say nothing by themselves; remove it again."""
    if os.getuid() != 0:
        pytest.skip("not root: no network namespaces")
    if shutil.which("ip") is None:
        pytest.skip("no `ip`: install iproute2")
    # Whoever may have to clear up after us says how to know what is ours.
    prefix = os.environ.get("PENSTOCK_TEST_NETNS", "penstock")
    made = Namespace(f"{prefix}-{os.getpid()}-{next(_numbers)}")
    added = subprocess.run(
        ["ip", "netns", "add", made.name], capture_output=True, text=True, check=False
    )
    if added.returncode != 0:  # as in a container without the right to
        pytest.skip(f"no network namespaces: {added.stderr.strip()}")
    try:
        path = "/proc/sys/net/ipv6/conf/default/disable_ipv6"  # no router solicitations
        quiet = ["sh", "-c", f"[ ! -e {path} ] || echo 1 > {path}"]
        subprocess.run(made.execute(quiet), check=True)
        wire = ("type", "veth", "peer", "name", made.right)
        made.ip("link", "add", made.left, *wire)
        for each in (made.left, made.right):
            made.ip("link", "set", each, "arp", "off", "mtu", "65535", "up")
        made.ip("link", "set", "lo", "up")
        yield made
    finally:
        subprocess.run(["ip", "netns", "del", made.name], check=True)


@contextmanager
def tun(where: Namespace, name: str, kind: int | None = None) -> Iterator[int]:
    """Make a tun device, of another kind if asked; yield what is written to as if it came in."""
    if not Path("/dev/net/tun").exists():
        pytest.skip("no /dev/net/tun: no tun device can be made")
    with where.entered():
        handle = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(handle, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TUN_NO_PI))
        if kind is not None:
            fcntl.ioctl(handle, _TUNSETLINK, kind)
        where.ip("link", "set", name, "up")
        yield handle
    finally:
        os.close(handle)


class FrameSender:
    """Sends whole frames from one interface."""

    def __init__(self, where: Namespace, interface: str) -> None:
        with where.entered():
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self.socket.bind((interface, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, frames: Sequence[bytes]) -> None:
        """Send frames one by one."""
        for each in frames:
            self.socket.send(each)

    def flood(self, frame: bytes, calls: int) -> int:
        """Send one frame over and over, `MESSAGES` a call; return how often it left."""
        held = np.frombuffer(frame, np.uint8)
        piece = np.array([held.ctypes.data, held.size], np.uint64)
        heads = np.zeros((MESSAGES, 8), np.uint64)
        heads[:, 2], heads[:, 3] = piece.ctypes.data, 1
        sent = 0
        for _ in range(calls):
            where = ctypes.c_void_p(heads.ctypes.data)
            done = _libc.sendmmsg(self.socket.fileno(), where, MESSAGES, 0)
            sent += max(0, int(done))
        return sent


def main() -> None:
    """Send for as long as the command line says."""
    name, interface, seconds, size = sys.argv[1:]
    until, sent = monotonic_ns() + int(float(seconds) * 1e9), 0
    frame = bytes(range(12)) + b"\x08\x00" + bytes(int(size) - 14)
    with FrameSender(Namespace(name), interface) as sender:
        while monotonic_ns() < until:
            sent += sender.flood(frame, 16)
    print(sent)


if __name__ == "__main__":
    main()
