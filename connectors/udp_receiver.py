"""Receiving in bulk: `recvmmsg` into buffers of its own, and from there into an arena.

Laws:

1. Both halves run without the GIL: the system call through ctypes, the unpacking as a kernel.
2. What one call received is all unpacked before the next; where the arena is full before, the rest
   waits for another arena.
3. An arena holds datagrams one after another, without gaps: what a batch keeps alive is what it
   holds. The buffers have room for the largest message in each slot, and are touched as far as
   messages reach.

Sources: recvmmsg(2), recvmsg(2) (MSG_TRUNC gives the length a datagram had), udp(7).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from typing import TYPE_CHECKING

import numpy as np

from connectors.arenas import scratch
from core.datagrams import (
    CONTROL_BYTES,
    HEAD_WORDS,
    MESSAGE,
    MESSAGES,
    NAME_BYTES,
    OFFSET,
    PLACE_FIELDS,
    ROWS,
    TALLY_FIELDS,
    USED,
    Datagrams,
    unpack,
)
from core.errors import SourceError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from connectors.arenas import Arena
    from connectors.udp_socket import UdpSocket

MESSAGES_MAX = 256
"""Messages of one call. Between calls the thread needs the GIL, which a worker busy with Python
gives up every 5 ms only: what one call takes is what then keeps the receive buffer from filling."""
SLOT_BYTES = 65_536
"""More than any message: IP's lengths have 16 bits, and the kernel joins no more than that."""
# Slots whose first lines fall into the same sets of a cache would push each other out of it.
_STRIDE = SLOT_BYTES + 5 * 64
_MSG_DONTWAIT, _MSG_TRUNC = 0x40, 0x20
_PASSING = frozenset(
    {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH}
    | {errno.ENOBUFS, errno.ENOMEM}
)
"""Errors of the network or of the moment, told once by the next call; the socket goes on."""

_libc = ctypes.CDLL(None, use_errno=True)
_recvmmsg = _libc.recvmmsg
_recvmmsg.restype = ctypes.c_int
_recvmmsg.argtypes = [
    ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p,
]  # fmt: skip


class Receiver:
    """The buffers of one thread that receives, from one socket after another."""

    def __init__(self, bytes_max: int, messages_max: int = MESSAGES_MAX) -> None:
        """Lay out the buffers.

        Args:
            bytes_max: Bytes kept of a datagram; the rest is cut off, and known to be.
            messages_max: Messages of one call.
        """
        self.messages_max, self._bytes_max = messages_max, bytes_max
        self.errors = 0
        self._slots = np.frombuffer(mmap.mmap(-1, messages_max * _STRIDE), np.uint8)
        self._names = np.zeros(messages_max * NAME_BYTES, np.uint8)
        # Control messages are aligned as `size_t` is (cmsg(3)).
        self._control = np.zeros(messages_max * CONTROL_BYTES // 8, np.int64).view(np.uint8)
        number = np.arange(messages_max, dtype=np.uint64)
        pieces = np.zeros((messages_max, 2), np.uint64)  # struct iovec: base, length
        pieces[:, 0] = self._slots.ctypes.data + number * np.uint64(_STRIDE)
        pieces[:, 1] = SLOT_BYTES
        self._pieces = pieces
        heads = np.zeros((messages_max, HEAD_WORDS), np.uint64)
        heads[:, 0] = self._names.ctypes.data + number * np.uint64(NAME_BYTES)
        heads[:, 2] = pieces.ctypes.data + number * np.uint64(16)
        heads[:, 3] = 1
        heads[:, 4] = self._control.ctypes.data + number * np.uint64(CONTROL_BYTES)
        heads[:, 5] = CONTROL_BYTES
        heads.view(np.int32)[:, 2] = NAME_BYTES
        self._heads = heads.ctypes.data
        self._words = heads.reshape(-1).view(np.int64)
        self._halves = self._words.view(np.int32)
        self._place = np.zeros(PLACE_FIELDS, np.int64)
        self._found, self._host = np.zeros(3, np.int64), np.zeros(2, np.uint64)
        self._from: UdpSocket | None = None
        # The first call of a kernel takes long; no datagram is to wait for it.
        self._unpack(scratch(Datagrams.COLUMNS, 1, 1), 0, np.zeros(TALLY_FIELDS, np.int64))

    @property
    def pending(self) -> bool:
        """Whether something was received that is not unpacked yet."""
        return bool(self._place[MESSAGE] < self._place[MESSAGES])

    def receive(self, socket: UdpSocket) -> int:
        """Receive what a socket has, as far as there is room, without waiting.

        Args:
            socket: The socket; what an earlier call received must be unpacked.

        Returns:
            The number of messages; fewer than `messages_max` mean that the socket is empty.

        Raises:
            SourceError: The socket failed for good.
        """
        count = _recvmmsg(
            socket.fileno(), self._heads, self.messages_max, _MSG_DONTWAIT | _MSG_TRUNC, None
        )
        if count < 0:
            self._judge(ctypes.get_errno(), socket)
            return 0
        self._from = socket
        self._place[MESSAGES], self._place[MESSAGE], self._place[OFFSET] = count, 0, 0
        return int(count)

    def unpack(self, arena: Arena) -> bool:
        """Move what was received into an arena, behind what is there.

        Returns:
            Whether all of it found room; if not, the rest is for another arena.
        """
        if self._from is None:
            return True
        self._unpack(arena, self._from.port, self._from.tally)
        return not self.pending

    def _unpack(self, arena: Arena, port: int, tally: NDArray[np.int64]) -> None:
        place = self._place
        place[ROWS], place[USED] = arena.rows, arena.used
        unpack(
            self._halves, self._words, self._names, self._control, self._slots, _STRIDE, SLOT_BYTES,
            self._bytes_max, port, place, tally, self._found, self._host,
            arena.memory, *arena.columns.values(),
        )  # fmt: skip
        arena.rows, arena.used = int(place[ROWS]), int(place[USED])

    def _judge(self, code: int, socket: UdpSocket) -> None:
        if code in (errno.EAGAIN, errno.EINTR):
            return
        if code not in _PASSING:
            raise SourceError(f"udp {socket.name}: receiving failed: {os.strerror(code)}")
        self.errors += 1
