"""The sender: payloads as UDP datagrams, each at its time.

Laws:

1. No datagram goes out before its time. Times are absolute, so that what was late does not make
   later ones late.
2. A burst is at most `BURST_MIN` datagrams or what `BURST_NS` hold, whichever is more, at the rate
   asked or that of the plan, where a herd or a flood makes it higher. Bursts are `GAP_NS` apart
   when there is something to catch up with; else so far apart that about half of `BURST_MIN` are
   due, if that is no more than `CALM_NS`.
3. Datagrams of one device leave in their order, all through one socket.
4. Every datagram is sent, or counted as unsent under the name of the error. An error that speaks of
   an earlier datagram (nobody listens, says ICMP) is counted, and the datagram sent all the same.

Guarantee: none. UDP promises nothing, and `sent` says that the network took it.

`sendmmsg` is called through ctypes, which releases the GIL; its headers are laid out by numpy for
thousands of datagrams at once, beside and not within the time of sending.

Not here: what is sent (`core.scenario`), and who makes it ahead of its time (`flows.send`).
Source: sendmmsg(2); udp(7) for UDP_SEGMENT; ip(7) and ipv6(7) for IP_RECVERR, without which a full
queue of an interface would swallow datagrams in silence.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from connectors.clock import monotonic_ns, sleep_until
from core.bundles import bundle
from core.endpoint import Endpoint
from core.errors import SinkError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from core.scenario import Plan

BURST_MIN = 64
BURST_NS = 1_000_000
GAP_NS = 250_000
"""Shortest time from one burst to the next."""
CALM_NS = 1_000_000
"""Longest time that a datagram waits for others, because waking costs more than sending."""
SOURCES_MAX = 256

_NAP_NS = 50_000_000  # longest sleep before somebody looks whether to stop
_ROOM_NS = 1_000_000  # how long to wait when a queue below us is full
_CALL_MAX = 1024  # messages the kernel takes in one call (UIO_MAXIOV)
_PAYLOAD_BYTES_MAX = {socket.AF_INET: 0xFFFF - 20 - 8, socket.AF_INET6: 0xFFFF - 8}
_TIMEVAL = struct.pack("@ll", 0, 100_000)
_RECVERR = {
    socket.AF_INET: (socket.IPPROTO_IP, 11),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 25),
}

_ROOM = (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM)  # the datagram may go in a moment
_EARLIER = (errno.ECONNREFUSED,)  # said of a datagram that went before

# struct mmsghdr of 64-bit Linux, as far as it is not zero: pieces and control message.
_MESSAGE = np.dtype({"names": ["iov", "iov_len", "control", "control_len"], "formats": ["u8"] * 4,
                     "offsets": [16, 24, 32, 40], "itemsize": 64})  # fmt: skip
# struct cmsghdr and what it holds: the bytes of each segment of a message.
_SEGMENT = np.dtype({"names": ["len", "level", "type", "bytes"],
                     "formats": ["u8", "i4", "i4", "u2"],
                     "offsets": [0, 8, 12, 16], "itemsize": 24})  # fmt: skip
_SEGMENT_LEN, _SOL_UDP, _UDP_SEGMENT = 18, 17, 103
# struct iovec: where a piece begins, and its bytes.
_PIECE = np.dtype([("base", "u8"), ("bytes", "u8")])

_sendmmsg = ctypes.CDLL(None, use_errno=True).sendmmsg
_sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)


@dataclass(slots=True)
class Share:
    """What one socket is to send of a plan, laid out for the kernel.

    Attributes:
        rows: `(n,) int64`; which rows of the plan these are, in the order they are sent in.
        ends: `(m,) int64`; how many of them are sent by the end of each message.
        at_ns: `(m,) int64`; when each message is due, ns after the beginning.
        begin: Where in memory their headers begin, and
        parts: what keeps them there.
        done: Messages dealt with.
        unsent: Which of these could not be sent.
    """

    rows: NDArray[np.int64]
    ends: NDArray[np.int64]
    at_ns: NDArray[np.int64]
    begin: int
    parts: tuple[NDArray[np.void], ...]
    done: int = 0
    unsent: list[int] = field(default_factory=list)

    def until(self, passed_ns: int, burst: int) -> int:
        """Return up to which message a burst goes that begins now: none, one, or what fits."""
        due = int(self.at_ns.searchsorted(passed_ns, side="right"))
        if due > self.done + 1:
            before = int(self.ends[self.done - 1]) if self.done else 0
            fits = int(self.ends.searchsorted(before + burst, side="right"))
            due = min(due, max(fits, self.done + 1))
        return due


@dataclass(slots=True)
class Schedule:
    """A plan laid out: a share for each socket.

    Attributes:
        plan: What is sent; its times are ns after the beginning.
        shares: Who sends which rows.
        burst: Datagrams that a share sends at once, at most, unless one message has more.
        calm_ns: Time between bursts when there is nothing to catch up with, ns.
    """

    plan: Plan
    shares: list[Share]
    burst: int
    calm_ns: int

    def rows(self, *, sent: bool) -> NDArray[np.int64]:
        """Return the rows of the plan that were sent so far, or those that could not be."""
        parts = []
        for share in self.shares:
            of = np.zeros(share.ends.size, np.bool_)
            of[: share.done] = sent
            of[share.unsent] = not sent
            parts.append(share.rows[np.repeat(of, np.diff(share.ends, prepend=0))])
        return np.concatenate(parts)


class Sender:
    """Sockets connected to one endpoint, and the pace at which they send.

    Args:
        to: Where to; a name is looked up once, and its first address taken.
        rate_hz: Datagrams per second asked for, which sets the size of bursts.
        gso: Whether datagrams of one length that are due within `GAP_NS` go to the kernel as one
            message (`core.bundles`), which costs a third; a receiver with UDP_GRO gets them as one.
        sources: Sockets, each with a port of its own, 1 … `SOURCES_MAX`; devices are spread over
            them.
        stopping: Tells whether to end early.
        on_error: Is told the number of an error, once for each, when it first comes.
        now: The clock, and
        until: how to sleep until a time of it, both in ns.

    Attributes:
        address: Where datagrams go to, as numbers.
        payload_bytes_max: Largest payload of a datagram there.
        errors: How often the system gave which error, by its name.
        late_ns_max: How long after its time the latest datagram was sent, ns.

    Raises:
        UsageError: `sources` is out of bounds.
        SinkError: The host is not known, or there is no way to it.
    """

    def __init__(
        self,
        to: Endpoint,
        rate_hz: float,
        sources: int,
        stopping: Callable[[], bool],
        *,
        gso: bool = False,
        on_error: Callable[[int], None] = lambda _: None,
        now: Callable[[], int] = monotonic_ns,
        until: Callable[[int], None] = sleep_until,
    ) -> None:
        if not 1 <= sources <= SOURCES_MAX:
            raise UsageError(f"sources {sources} is out of bounds: give 1 to {SOURCES_MAX}")
        self._stopping, self._on_error = stopping, on_error
        self._now, self._until, self._gso = now, until, gso
        self._rate_hz = rate_hz
        family, place = _look_up(to)
        self.payload_bytes_max = _PAYLOAD_BYTES_MAX[family]
        self.address = str(Endpoint(str(place[0]), int(place[1])))
        self.errors: Counter[str] = Counter()
        self.late_ns_max = 0
        self._sockets: list[socket.socket] = []
        try:
            for _ in range(sources):
                self._sockets.append(socket.socket(family, socket.SOCK_DGRAM))
                # A full buffer is waited for, but not for so long that nobody could end us.
                self._sockets[-1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL)
                self._sockets[-1].setsockopt(*_RECVERR[family], 1)
                self._sockets[-1].connect(place)
        except OSError as error:
            self.close()
            why = error.strerror or error
            raise SinkError(
                f"{to}: cannot be sent to: {why}; name another endpoint, or fewer sources"
            ) from error

    def close(self) -> None:
        """Close all sockets."""
        for each in self._sockets:
            each.close()

    def lay_out(self, plan: Plan) -> Schedule:
        """Prepare a plan for sending; may be called by another thread than the one that sends.

        What is too large for a datagram (`payload_bytes_max`) is in no share.
        """
        shares = []
        whose = np.where(plan.length > self.payload_bytes_max, -1, plan.device % len(self._sockets))
        for source in range(len(self._sockets)):
            rows = np.flatnonzero(whose == source)
            ends = 1 + np.arange(rows.size)
            if self._gso:
                device, length = plan.device[rows], plan.length[rows]
                order, ends = bundle(plan.at_ns[rows], device, length, GAP_NS)
                rows = rows[order]
            shares.append(_share(plan, rows, ends))
        span_ns = int(np.ptp(plan.at_ns)) if len(plan) else 0
        rate_hz = max(self._rate_hz, len(plan) / max(span_ns, BURST_NS) * 1e9)
        burst = max(BURST_MIN, int(rate_hz * BURST_NS * 1e-9))
        calm_ns = int(min(CALM_NS, max(GAP_NS, BURST_MIN / 2 / rate_hz * 1e9)))
        return Schedule(plan, shares, -(-burst // len(shares)), calm_ns)

    def send(self, schedule: Schedule, begun_ns: int) -> None:
        """Send everything of a schedule, each datagram at its time, or until stopped.

        Args:
            schedule: What to send; its shares say how far it came.
            begun_ns: When the sending began, by the clock.
        """
        while not self._stopping():
            woken_ns = self._now()
            next_ns = None
            for of, share in zip(self._sockets, schedule.shares, strict=True):
                if share.done < share.ends.size:
                    self._send_due(of, share, woken_ns - begun_ns, schedule.burst)
                if share.done < share.ends.size:
                    at_ns = begun_ns + int(share.at_ns[share.done])
                    next_ns = at_ns if next_ns is None else min(next_ns, at_ns)
            if next_ns is None:
                return
            behind = next_ns <= woken_ns
            self.rest(woken_ns + GAP_NS if behind else max(next_ns, woken_ns + schedule.calm_ns))

    def rest(self, at_ns: int) -> None:
        """Wait until a time, or until stopped."""
        while (now_ns := self._now()) < at_ns and not self._stopping():
            self._until(min(at_ns, now_ns + _NAP_NS))

    def _send_due(self, of: socket.socket, share: Share, passed_ns: int, burst: int) -> None:
        """Send one burst of what is due."""
        due = share.until(passed_ns, burst)
        if due == share.done:
            return
        self.late_ns_max = max(self.late_ns_max, passed_ns - int(share.at_ns[share.done]))
        cut_short = 0
        while share.done < due and not self._stopping():
            count = min(due - share.done, _CALL_MAX)
            sent = _sendmmsg(of.fileno(), share.begin + _MESSAGE.itemsize * share.done, count, 0)
            if sent < 0:
                self._failed(ctypes.get_errno(), share)
            else:
                share.done += sent
                cut_short += sent < count
        # The error that cut a call short is forgotten by the kernel when it returns what it sent.
        # If it speaks of earlier datagrams, the last one of them has left it once more.
        if number := of.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._count(number, 1 + cut_short)

    def _failed(self, number: int, share: Share) -> None:
        """Decide what an error means for the datagram it was given for."""
        if number == errno.EINTR:
            return
        self._count(number, 1)
        if number in _ROOM:
            self._until(self._now() + _ROOM_NS)
        elif number not in _EARLIER:
            share.unsent.append(share.done)
            share.done += 1

    def _count(self, number: int, times: int) -> None:
        name = errno.errorcode.get(number, f"errno {number}")
        if name not in self.errors:
            self._on_error(number)
        self.errors[name] += times


def _share(plan: Plan, rows: NDArray[np.int64], ends: NDArray[np.int64]) -> Share:
    """Lay out rows of a plan as messages, each of the rows up to its end."""
    pieces = np.zeros(rows.size, _PIECE)
    pieces["base"] = plan.arena.ctypes.data + plan.start[rows]
    pieces["bytes"] = plan.length[rows]
    count = np.diff(ends, prepend=0)
    messages = np.zeros(ends.size, _MESSAGE)
    messages["iov"] = pieces.ctypes.data + _PIECE.itemsize * (ends - count)
    messages["iov_len"] = count
    segments = np.zeros(ends.size, _SEGMENT)
    segments["len"], segments["level"], segments["type"] = _SEGMENT_LEN, _SOL_UDP, _UDP_SEGMENT
    segments["bytes"] = plan.length[rows[ends - 1]].astype(np.uint16)
    several = np.flatnonzero(count > 1)
    messages["control"][several] = segments.ctypes.data + _SEGMENT.itemsize * several
    messages["control_len"][several] = _SEGMENT.itemsize
    # A message goes when the last of its rows is due; none goes before those ahead of it.
    last = np.maximum.accumulate(plan.at_ns[rows])
    parts = (messages, pieces, segments)
    return Share(rows, ends, last[ends - 1], messages.ctypes.data, parts)


def _look_up(to: Endpoint) -> tuple[socket.AddressFamily, Any]:
    """Return the first address of an endpoint, as its family has addresses."""
    try:
        found = socket.getaddrinfo(to.host, to.port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "not a name of a host"
        raise SinkError(f"{to}: {why}; name a host that is known, or an address") from error
    return found[0][0], found[0][4]
