"""Packet sockets: opened on an interface with a filter and a ring of blocks shared with the kernel.

Laws:

1. Nothing unfiltered is ever in the ring: a socket is bound with a program that rejects all, joins
   its group, and only then takes its filter. `refuse` puts the first program back. What comes to a
   socket that joins a group already at work is missed for these microseconds, and not counted.
2. An account to the packet: what passed the filter in the kernel is `matched`, the kernel's drops
   among it. The kernel forgets its counters when they are read; they are read in one place.
3. An interface is seen as tcpdump sees it: what leaves it too, but on loopback, where everything
   that leaves comes in again, only what comes in.

Sources: packet(7); Linux Documentation/networking/packet_mmap.rst, include/uapi/linux/if_packet.h;
tcpdump.org/linktypes.html.
"""

from __future__ import annotations

import errno
import mmap
import os
import socket
import struct
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from connectors.bpf import REJECT, attach, compile_filter
from core.bpf import MEM_WORDS
from core.bpf_live import KERNEL_LEN_MAX, accept_all, for_kernel
from core.errors import SourceError, UsageError
from core.link import LINK_ETHERNET, LINK_RAW
from core.plain import plain
from core.tpacket import (
    FILTERED,
    LEFT,
    LOST,
    OVERHEAD_BYTES,
    PACKETS,
    PLACE_FIELDS,
    STATUS,
    TALLY_FIELDS,
    USER,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SOL_PACKET, _ETH_P_ALL = 263, 0x0003
_ADD_MEMBERSHIP, _RX_RING, _STATISTICS, _VERSION, _FANOUT = 1, 5, 6, 10, 18
_IGNORE_OUTGOING = 23
_V3, _MR_PROMISC, _FANOUT_HASH = 2, 1, 0
_ARPHRD_LOOPBACK = 772
_LINKTYPES = {1: LINK_ETHERNET, _ARPHRD_LOOPBACK: LINK_ETHERNET, 519: LINK_RAW, 65_534: LINK_RAW}
"""Kinds of interfaces (ARPHRD_ values of linux/if_arp.h) and what their packets begin with: on the
last two, tun devices among them, with IP itself."""
_FRAME_BYTES = 2048
"""The kernel wants to know it, and has no use for it in blocks."""
_BLOCK_BYTES = 1 << 17
"""Of a block at least. Where packets come one by one, a block holds what `block_ms` brings, however
large it is: many blocks bridge a longer pause of the reader than few."""
_NAME_LEN_MAX = 15


@dataclass(frozen=True, slots=True)
class PacketOptions:
    """How sockets are opened.

    Attributes:
        filter: Expression of pcap-filter(7); an empty one keeps every packet.
        snaplen: Bytes kept of a packet, 64 … 262,144.
        ring_bytes: Memory of the ring of one socket, in blocks that hold the largest packet.
        block_ms: Time after which the kernel hands over a block that is not full, 1 … 1000.
        promiscuous: Whether the interface is to let in what is meant for others too.
        group: Number by which sockets share an interface, 1 … 65,535: the kernel deals packets to
            all that name it, in any process, by a hash of the flow. 0 shares it with nobody.
    """

    filter: str = ""
    snaplen: int = 98_304
    ring_bytes: int = 64 << 20
    block_ms: int = 2
    promiscuous: bool = True
    group: int = 0

    @property
    def block_bytes(self) -> int:
        """Bytes of a block: a power of two that the largest packet fits into."""
        return max(_BLOCK_BYTES, 1 << (self.snaplen + OVERHEAD_BYTES - 1).bit_length())


@dataclass(slots=True, kw_only=True)
class PacketSocket:
    """One open socket with its ring.

    Attributes:
        handle: The socket.
        name: Its interface, fit to be shown.
        index: The number of that.
        options: How it was opened.
        linktype: LINKTYPE_ value of its packets.
        program: `(m, 4) int64`; the filter for packets as they are in a file; empty if there is
            none.
        attached: `(k, 4) int64`; the filter as the kernel runs it.
        shared: The memory of the ring.
        ring: `uint8`; that memory.
        words: `uint32`; likewise.
        rule, place, tally: `int64`; how packets are taken, where the walk stands and its sums, by
            `core.tpacket`.
        mem: `(16,) int64`; for the walk.
        matched: Packets that passed the filter in the kernel, as far as counted.
        kernel_dropped: Those among them for which no block was free.
        frozen: How often the kernel found no block free.
    """

    handle: socket.socket
    name: str
    index: int
    options: PacketOptions
    linktype: int
    program: NDArray[np.int64]
    attached: NDArray[np.int64]
    shared: mmap.mmap
    ring: NDArray[np.uint8] = field(init=False)
    words: NDArray[np.uint32] = field(init=False)
    rule: NDArray[np.int64] = field(init=False)
    place: NDArray[np.int64] = field(default_factory=lambda: np.zeros(PLACE_FIELDS, np.int64))
    tally: NDArray[np.int64] = field(default_factory=lambda: np.zeros(TALLY_FIELDS, np.int64))
    mem: NDArray[np.int64] = field(default_factory=lambda: np.zeros(MEM_WORDS, np.int64))
    matched: int = 0
    kernel_dropped: int = 0
    frozen: int = 0

    def __post_init__(self) -> None:
        self.ring = np.frombuffer(self.shared, np.uint8)
        self.words = self.ring.view(np.uint32)
        has_tags = self.linktype == LINK_ETHERNET
        self.rule = np.array([self.options.snaplen, self.linktype, has_tags], np.int64)
        self.place[LEFT] = -1

    @property
    def outstanding(self) -> int:
        """Packets that the kernel put into blocks, as far as counted, and that are still there."""
        taken = self.tally[[PACKETS, FILTERED, LOST]].sum()
        return int(self.matched - self.kernel_dropped - taken)

    def waiting_bytes(self) -> int:
        """Return the bytes of the blocks that wait to be walked."""
        heads = self.words.reshape(-1, self.options.block_bytes // 4)
        return int(np.count_nonzero(heads[:, STATUS] & USER)) * self.options.block_bytes

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self.handle.fileno()

    def accept(self) -> None:
        """Let the kernel fill the ring from now on with what the filter keeps.

        Raises:
            SourceError: It may not share the interface.
        """
        try:
            if self.options.group:
                # No two interfaces have the same, and every process finds it.
                group = (self.options.group + self.index) & 0xFFFF
                self.handle.setsockopt(_SOL_PACKET, _FANOUT, group | _FANOUT_HASH << 16)
            attach(self.handle, self.attached.tolist())
        except OSError as error:
            why = plain(error.strerror or str(error))
            raise SourceError(
                f"packet {self.name}: cannot be shared: {why}; another program may have a group of "
                "that number: choose another"
            ) from error

    def refuse(self) -> None:
        """Let nothing more into the ring."""
        attach(self.handle, REJECT)

    def count(self) -> None:
        """Add up what the kernel counted since it was last asked; for one thread only."""
        raw = self.handle.getsockopt(_SOL_PACKET, _STATISTICS, 12)
        matched, dropped, frozen = struct.unpack("3I", raw)
        self.matched += matched
        self.kernel_dropped += dropped
        self.frozen += frozen

    def failure(self) -> int:
        """Return the number of the error that the kernel reports, 0 for none, and clear it."""
        return self.handle.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def close(self) -> None:
        """Close the socket and let go of the ring."""
        self.ring, self.words = np.zeros(0, np.uint8), np.zeros(0, np.uint32)
        self.shared.close()  # a second reference to the socket: it lives as long as this
        self.handle.close()


def open_sockets(names: Iterable[str], options: PacketOptions) -> list[PacketSocket]:
    """Open a socket for each interface; what comes from then on waits in its ring.

    Args:
        names: Names of interfaces; each counts once.
        options: See `PacketOptions`.

    Raises:
        UsageError: There is no interface, or the filter does not compile for one.
        SourceError: A socket cannot be opened, or may not share its interface; none is left open.
    """
    with ExitStack() as opened:
        sockets = []
        for name in dict.fromkeys(names):
            sockets.append(_open(name, options))
            opened.callback(sockets[-1].close)
        if not sockets:
            raise UsageError("packet: no interface to capture on; give its name, as eth0")
        for each in sockets:
            each.accept()
        opened.pop_all()
    return sockets


def _open(name: str, options: PacketOptions) -> PacketSocket:
    """Open one socket, bound, with a ring, which rejects everything."""
    shown = plain(name)
    try:
        handle = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    except OSError as error:
        raise SourceError(f"packet {shown}: {_cure(error, options)}") from error
    with ExitStack() as opened:
        opened.callback(handle.close)
        try:
            attach(handle, REJECT)
            size = _ring(handle, options)
            _bind(handle, name)
            kind = handle.getsockname()[3]
            linktype = _LINKTYPES.get(kind)
            if linktype is None:
                raise SourceError(
                    f"packet {shown}: packets of this kind of interface (ARPHRD {kind}) are not "
                    "decoded; Ethernet, loopback and raw IP are"
                )
            if kind == _ARPHRD_LOOPBACK:
                handle.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
            index = socket.if_nametoindex(name)
            if options.promiscuous:
                member = struct.pack("iHH8x", index, _MR_PROMISC, 0)
                handle.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, member)
            program, attached = _programs(options, linktype)
            shared = mmap.mmap(handle.fileno(), size)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise SourceError(f"packet {shown}: {_cure(error, options)}") from error
        opened.pop_all()
    return PacketSocket(
        handle=handle, name=shown, index=index, options=options, linktype=linktype,
        program=program, attached=attached, shared=shared,
    )  # fmt: skip


def _bind(handle: socket.socket, name: str) -> None:
    if len(os.fsencode(name)) > _NAME_LEN_MAX:  # it would be cut, and be another's
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    handle.bind((name, _ETH_P_ALL))
    if code := handle.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):  # it is down
        raise OSError(code, os.strerror(code))


def _programs(options: PacketOptions, linktype: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the filter for packets as in files, and as the kernel is to run it."""
    if not options.filter:
        return np.zeros((0, 4), np.int64), accept_all(options.snaplen)
    program = compile_filter(options.filter, linktype)
    attached = for_kernel(program, options.snaplen, tags=linktype == LINK_ETHERNET)
    if len(attached) > KERNEL_LEN_MAX:
        raise UsageError(
            f"filter: {len(attached)} instructions, more than the {KERNEL_LEN_MAX} that the kernel "
            "takes; make it shorter"
        )
    return program, attached


def _ring(handle: socket.socket, options: PacketOptions) -> int:
    """Give a socket its ring; return the bytes of it."""
    block = options.block_bytes
    count = max(2, options.ring_bytes // block)
    handle.setsockopt(_SOL_PACKET, _VERSION, _V3)
    frames = block // _FRAME_BYTES * count
    request = struct.pack("7I", block, count, _FRAME_BYTES, frames, options.block_ms, 0, 0)
    handle.setsockopt(_SOL_PACKET, _RX_RING, request)
    return block * count


def _cure(error: Exception, options: PacketOptions) -> str:
    code = getattr(error, "errno", None)
    cures = {
        errno.EPERM: "capturing needs CAP_NET_RAW; run as root, or give it (in a unit: "
        "AmbientCapabilities=CAP_NET_RAW)",
        errno.ENETDOWN: "the interface is down; `ip link set … up` brings it up",
        errno.ENODEV: "no such interface; `ip link` lists them",
        errno.ENXIO: "no such interface; `ip link` lists them",
        errno.ENOMEM: f"no memory for a ring of {options.ring_bytes} bytes; make it smaller",
        errno.ENOBUFS: f"no memory for a ring of {options.ring_bytes} bytes; make it smaller",
    }
    if isinstance(error, ValueError):
        code = errno.ENODEV
    why = plain(getattr(error, "strerror", None) or str(error))
    return cures.get(code or 0) or f"cannot be captured on: {why}"
