"""UDP sockets: opened for receiving in bulk, with times, a drop counter and segments on them.

Laws:

1. An address means what it says: `[::]` takes IPv6 only, so that `0.0.0.0` can stand beside it.
2. What the kernel did not grant is said: a receive buffer smaller than asked for, no UDP_GRO.
3. `refuse` ends receipt without a gap in the account: from then on the kernel drops and counts what
   comes, and what came before can still be received.

The kernel counts messages it drops. Where it joined datagrams before (UDP_GRO), up to 64 and more,
and then has no room for them, it counts one for all: its number is a lower bound then. An account
to the packet needs `gro=False`, where it counts every one, or a buffer that never overflows.

Sources: socket(7), udp(7), ip(7), ipv6(7); Linux include/uapi/linux/sock_diag.h (SO_MEMINFO).
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from connectors.bpf import REJECT, attach
from core.datagrams import (
    SO_RXQ_OVFL,
    SO_TIMESTAMPNS,
    TALLY_FIELDS,
    UDP_GRO,
    add_drops,
)
from core.endpoint import Endpoint, parse
from core.errors import SourceError, UsageError
from core.plain import plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SO_RCVBUFFORCE, _SO_MEMINFO = 33, 55
_MEMINFO_RMEM_ALLOC, _MEMINFO_DROPS, _MEMINFO_FIELDS = 0, 8, 9


@dataclass(frozen=True, slots=True)
class UdpOptions:
    """How sockets are opened.

    Attributes:
        buffer_bytes: Receive buffer to ask for. The kernel counts the memory a datagram lies
            in, and grants twice what is asked for: a short one takes some 400 bytes of it.
        reuse_port: Share the port with other sockets that say so too; the kernel then deals senders
            to them by a hash of the 4-tuple.
        gro: Let the kernel join datagrams of one sender and hand them over as one message.
    """

    buffer_bytes: int = 32 << 20
    reuse_port: bool = False
    gro: bool = True


@dataclass(slots=True)
class UdpSocket:
    """One open socket.

    Attributes:
        handle: The socket.
        name: Its address as text, for messages.
        port: The port it is bound to.
        granted_bytes: Receive buffer in the measure of `UdpOptions.buffer_bytes`.
        gro: Whether messages may hold several datagrams.
        tally: `(7,) int64`; sums by `core.datagrams`, written by whoever receives.
    """

    handle: socket.socket
    name: str
    port: int
    granted_bytes: int
    gro: bool
    tally: NDArray[np.int64] = field(default_factory=lambda: np.zeros(TALLY_FIELDS, np.int64))

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self.handle.fileno()

    def count_drops(self) -> None:
        """Add to the tally what the kernel dropped up to now.

        SO_RXQ_OVFL tells of drops with the next message only; the last ones have none after them.
        The number is that of the column `drops` in /proc/net/udp.
        """
        add_drops(self.tally, self._memory()[_MEMINFO_DROPS])

    def waiting_bytes(self) -> int:
        """Return how much of the receive buffer is taken, in the measure of `granted_bytes`."""
        return self._memory()[_MEMINFO_RMEM_ALLOC] // 2

    def refuse(self) -> None:
        """Let the kernel drop, and count as dropped, whatever comes from now on."""
        attach(self.handle, REJECT)

    def close(self) -> None:
        """Close the socket; what waits in it is lost and not counted."""
        self.handle.close()

    def notices(self, options: UdpOptions) -> list[str]:
        """Return a line about each thing that was asked for and not granted."""
        lines = []
        if self.granted_bytes < options.buffer_bytes:
            lines.append(
                f"udp {self.name}: receive buffer of {self.granted_bytes} bytes, "
                f"{options.buffer_bytes} asked for; raise net.core.rmem_max or give CAP_NET_ADMIN"
            )
        if options.gro and not self.gro:
            lines.append(f"udp {self.name}: no UDP_GRO in this kernel (5.0 has it); slower without")
        return lines

    def _memory(self) -> tuple[int, ...]:
        raw = self.handle.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * _MEMINFO_FIELDS)
        return struct.unpack(f"{len(raw) // 4}I", raw)


def open_sockets(addresses: Iterable[str], options: UdpOptions) -> list[UdpSocket]:
    """Open a socket for each address.

    Args:
        addresses: `HOST:PORT` or `[IPV6]:PORT`; a name stands for all its addresses.
        options: See `UdpOptions`.

    Raises:
        UsageError: An address makes no sense, or there is none.
        SourceError: A socket cannot be opened; none is left open.
    """
    with ExitStack() as opened:
        sockets = []
        for family, where in dict.fromkeys(each for text in addresses for each in _resolve(text)):
            sockets.append(_open(family, where, options))
            opened.callback(sockets[-1].close)
        if not sockets:
            raise UsageError("udp: no address to receive on; give HOST:PORT")
        opened.pop_all()
    return sockets


Where = tuple[str, int] | tuple[str, int, int, int]


def _resolve(text: str) -> list[tuple[int, Where]]:
    """Return family and socket address for each address that a text names."""
    try:
        endpoint = parse(text, port_min=0)
    except UsageError as error:
        raise UsageError(f"udp {plain(text)}: {error}") from None
    try:
        found = socket.getaddrinfo(*endpoint, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError, ValueError) as error:
        raise UsageError(
            f"udp {plain(text)}: no address of this name ({_why(error)}); check it, or give the "
            "address"
        ) from error
    families = (socket.AF_INET, socket.AF_INET6)
    return [(family, where) for family, _, _, _, where in found if family in families]  # type: ignore[misc]  # where: also bytes in typeshed, for families we do not ask for


def _open(family: int, where: Where, options: UdpOptions) -> UdpSocket:
    name = str(Endpoint(where[0], where[1]))
    try:
        handle = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise SourceError(f"udp {name}: {_cure(error)}") from error
    with ExitStack() as opened:
        opened.callback(handle.close)
        try:
            if family == socket.AF_INET6:
                handle.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if options.reuse_port:
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            granted = _buffer(handle, options.buffer_bytes)
            handle.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            handle.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
            gro = options.gro and _gro(handle)
            handle.bind(where)
        except OSError as error:
            raise SourceError(f"udp {name}: {_cure(error)}") from error
        opened.pop_all()
    port = int(handle.getsockname()[1])
    return UdpSocket(handle, str(Endpoint(where[0], port)), port, granted, gro)


def _buffer(handle: socket.socket, wanted: int) -> int:
    """Ask for a receive buffer, above net.core.rmem_max if we may; return what was granted."""
    try:
        handle.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, wanted)
    except PermissionError:
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted)
    # The kernel doubles what it is given, and says so (socket(7)).
    return handle.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2


def _gro(handle: socket.socket) -> bool:
    try:
        handle.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
        return False
    return True


def _why(error: Exception) -> str:
    return plain(getattr(error, "strerror", None) or str(error))


def _cure(error: OSError) -> str:
    cures = {
        errno.EADDRINUSE: "the port is in use; stop who uses it, choose another, or let both share "
        "it (SO_REUSEPORT)",
        errno.EADDRNOTAVAIL: "not an address of this machine; `ip address` lists them, 0.0.0.0 and "
        "[::] are all of them",
        errno.EACCES: "ports below net.ipv4.ip_unprivileged_port_start (1024) need "
        "CAP_NET_BIND_SERVICE; choose a higher one, or give it",
        errno.EAFNOSUPPORT: "this machine has no addresses of that family; leave it out",
        errno.EINVAL: "not an address to receive on; a link-local one needs its zone, as "
        "[fe80::1%eth0]",
        errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
    }
    return cures.get(error.errno or 0) or f"cannot be received on: {_why(error)}"
