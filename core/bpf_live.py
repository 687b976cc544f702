"""A capture filter as the kernel is to run it, before packets are handed over.

The kernel takes a VLAN tag off before a socket sees the packet, and remembers it beside the bytes;
`core.tpacket` puts it back. A filter compiled for the packets of a file asks for bytes where they
lie in a file.

Laws:

1. What the kernel keeps is all that the filter accepts as it would in a file of the same packets,
   and nothing else but for packets whose tag was taken off: of these it may keep more.
2. Tagged packets take a second copy of the program, whose loads are moved to where those bytes are
   in the kernel. An instruction that cannot be moved accepts: the packet is judged again, whole,
   when its tag is back.

Source: Linux include/uapi/linux/filter.h (SKF_AD_OFF and what lies behind it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

KERNEL_LEN_MAX = 4096
"""Instructions of a program at most (BPF_MAXINSNS)."""

_AD_OFF = 0xFFFF_F000
_TCI, _TAGGED, _TPID = _AD_OFF + 44, _AD_OFF + 48, _AD_OFF + 60
_LOAD_WORD, _JUMP, _JUMP_EQUAL, _RETURN = 0x20, 0x05, 0x15, 0x06
_SIZES = {0x00: 4, 0x08: 2, 0x10: 1}
_LOAD, _LOAD_X, _ABSOLUTE, _INDIRECT, _LENGTH, _HEADER = 0x00, 0x01, 0x20, 0x40, 0x80, 0xA0
_TYPE_AT, _TAG_BYTES = 12, 4

Instruction = tuple[int, int, int, int]


def accept_all(snaplen: int) -> NDArray[np.int64]:
    """Return a program that keeps `snaplen` bytes of every packet; nothing at all if that is 0."""
    return np.array([(_RETURN, 0, 0, snaplen)], np.int64)


def for_kernel(program: NDArray[np.int64], snaplen: int, *, tags: bool) -> NDArray[np.int64]:
    """Return a filter as it is to be attached to a packet socket.

    Args:
        program: `(m, 4) int64`; one that `core.bpf.validate` accepts, for packets of a file.
        snaplen: Bytes to keep of a packet, at least 1.
        tags: Whether the link type has VLAN tags, which the kernel takes off.

    Returns:
        `(k, 4) int64`; may be longer than `KERNEL_LEN_MAX`.
    """
    plain = [_kept(each, snaplen) for each in program.tolist()]
    if not tags:
        return np.array(plain, np.int64)
    moved = [_kept(_moved(each), snaplen) for each in program.tolist()]
    head = [(_LOAD_WORD, 0, 0, _TAGGED), (_JUMP_EQUAL, 1, 0, 0), (_JUMP, 0, 0, len(plain))]
    # The programs begin with an accumulator of 0, as they would alone.
    zero = [(_LOAD, 0, 0, 0)]
    return np.array([*head, *plain, *zero, *moved], np.int64)


def _kept(instruction: Instruction, snaplen: int) -> Instruction:
    """Let what accepts a packet keep `snaplen` bytes of it."""
    code, jt, jf, k = instruction
    return (code, jt, jf, snaplen) if code == _RETURN and k else (code, jt, jf, k)


def _moved(instruction: Instruction) -> Instruction:
    """Return an instruction that finds in the kernel what this one finds in a file."""
    code, jt, jf, k = instruction
    kind, mode, size = code & 0x07, code & 0xE0, _SIZES.get(code & 0x18, 1)
    if kind not in (_LOAD, _LOAD_X) or mode not in (_ABSOLUTE, _INDIRECT, _LENGTH, _HEADER):
        return (code, jt, jf, k)
    if mode in (_ABSOLUTE, _HEADER) and k + size <= _TYPE_AT:
        return (code, jt, jf, k)
    if mode != _LENGTH and _TYPE_AT + _TAG_BYTES <= k < 0x8000_0000:
        return (code, jt, jf, k - _TAG_BYTES)
    if mode == _ABSOLUTE and size == 2 and k == _TYPE_AT:
        return (_LOAD_WORD, jt, jf, _TPID)
    if mode == _ABSOLUTE and size == 2 and k == _TYPE_AT + 2:
        return (_LOAD_WORD, jt, jf, _TCI)
    return (_RETURN, 0, 0, 1)
