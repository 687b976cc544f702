"""Capture filters: from an expression of tcpdump to a program of classic BPF, onto a socket.

Laws:

1. An expression libpcap cannot compile ends the command before a packet is filtered.
2. A link type is no reason to lose packets in silence. Where an expression is sound but libpcap
   cannot ask it of a link type, then either no packet of the link type can match, which libpcap
   says, and the program rejects all; or Penstock does not decode the link type anyway, and the
   program accepts all, so that its packets are counted as `link_unsupported`; or the command ends.

Not here: running a program (`core.bpf`). A host name in an expression is looked up by libpcap,
which may ask the network; nothing else here does.

Sources: pcap-filter(7); tcpdump.org/linktypes.html for the link types whose DLT_ differs; Linux
Documentation/networking/filter.rst (SO_ATTACH_FILTER).
"""

from __future__ import annotations

import ctypes
import socket
import struct
from typing import TYPE_CHECKING

import numpy as np

from core.bpf import validate
from core.errors import UsageError
from core.link import LINK_ETHERNET, LINK_TYPES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from numpy.typing import NDArray

SNAPLEN_BYTES = 262_144
"""What an accepting program returns; any number but 0 keeps the packet."""

_NETMASK_UNKNOWN = 0xFFFF_FFFF
_SHOWN_LEN_MAX = 120
_SO_ATTACH_FILTER = 26

# LINKTYPE_ values of files are DLT_ values of libpcap but for these (raw IP, ATM, SLIP, PPP).
_DLT = {12: 12, 14: 12, 100: 11, 101: 12, 102: 15, 103: 16, 106: 19}

REJECTS_ALL = "expression rejects all packets"
_ACCEPT, REJECT = [(6, 0, 0, SNAPLEN_BYTES)], [(6, 0, 0, 0)]
# Loads by absolute offset from here on are Linux's ancillary data (SKF_AD_OFF).
_ANCILLARY, _LOAD_ABS = 0xFFFF_F000, (0x20, 0x28, 0x30)
# Offsets of an unconditional jump from here on are negative to libpcap.
_BACKWARD, _JUMP = 0x8000_0000, 0x05


def compile_filter(expr: str, linktype: int) -> NDArray[np.int64]:
    """Compile a filter for the packets of one link type.

    Args:
        expr: Expression of pcap-filter(7); an empty one accepts every packet.
        linktype: LINKTYPE_ value of the capture (tcpdump.org/linktypes.html).

    Returns:
        `(m, 4) int64`; code, jump if true, jump if false and operand of each instruction, for
        `core.bpf.select`.

    Raises:
        UsageError: The expression is wrong, cannot be asked of the link type, needs a loop, or asks
            for what only a live capture knows; one line with libpcap's words and the cure.
    """
    program, complaint = _compile(expr, linktype)
    if program is None and linktype != LINK_ETHERNET:
        # Ethernet is what libpcap can ask most of: it tells a bad expression from a bad pairing.
        sound, fault = _compile(expr, LINK_ETHERNET)
        if sound is None:
            raise UsageError(_line(expr, fault))
        if complaint == REJECTS_ALL:
            program = REJECT
        elif linktype not in LINK_TYPES:
            program = _ACCEPT
        else:
            complaint += f" (link type {linktype}); replay such captures apart, without it"
    if program is None:
        raise UsageError(_line(expr, complaint))
    if any(code in _LOAD_ABS and k >= _ANCILLARY for code, _, _, k in program):
        raise UsageError(_line(expr, "asks for what only a live capture knows"))
    array = np.array(program, np.int64).reshape(-1, 4)
    if not validate(array):
        loops = any(code == _JUMP and k >= _BACKWARD for code, _, _, k in program)
        complaint = "needs a loop (protochain), and filters run forward only"
        raise UsageError(_line(expr, complaint if loops else "is no program that ends"))
    return array


def _compile(expr: str, linktype: int) -> tuple[list[tuple[int, int, int, int]] | None, str]:
    """Return libpcap's program, or None and its complaint."""
    try:
        import pcapy
    except ImportError as error:
        reason = "capture filters need the package pcapy-ng; install it"
        raise UsageError(f"filter {_shown(expr)}: {reason}") from error
    dlt = _DLT.get(linktype, linktype)
    try:
        compiled = pcapy.compile(dlt, SNAPLEN_BYTES, expr, 1, _NETMASK_UNKNOWN)
    except (pcapy.PcapError, ValueError, OverflowError) as error:
        # ValueError: a NUL or a lone surrogate in the expression; OverflowError: no link type.
        return None, " ".join(str(error).split())
    return compiled.get_bpf(), ""


def _shown(expr: str) -> str:
    return repr(expr if len(expr) <= _SHOWN_LEN_MAX else expr[:_SHOWN_LEN_MAX] + "…")


def _line(expr: str, complaint: str) -> str:
    return f"filter {_shown(expr)}: {complaint}; see man pcap-filter"


def attach(handle: socket.socket, program: Collection[Iterable[int]]) -> None:
    """Let the kernel judge by a program what comes to a socket from now on.

    Args:
        handle: The socket.
        program: Instructions: code, jt, jf and k of each; `REJECT` keeps nothing.

    Raises:
        OSError: The kernel refuses.
    """
    code = b"".join(struct.pack("HBBI", *each) for each in program)
    held = ctypes.create_string_buffer(code, len(code))
    given = struct.pack("HP", len(program), ctypes.addressof(held))
    handle.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, given)
