"""Flows read back: each record of `network.flows.v1` as one arrival of its source.

Laws:

1. An arrival is of `src`, at `last_ns`, with `dst` as its peer and the bytes of both directions as
   its size, as far as an `int32` goes. Ports are those of the flow's first packet; of ICMP, type
   and code.
2. The object is closed: a record that has less or more than its protocol asks for, or anything out
   of bounds, is `Reason.RECORD`.
3. A flow is identified by the packet that began it, as everywhere.

A flow of a thousand packets is one arrival: what is scored is who begins how many conversations of
which size with how many others, not how many packets there were.

Source: `docs/schemas/network.flows.v1.schema.json`; RFC 4291 §2.2 for addresses.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from core.host import IPV4_MAPPED, MAC_HI
from core.protocols import ICMP, PORTED, PROTO_TCP
from core.reading_kernels import TIME_NS_MAX
from core.readings import Readings
from core.reasons import Reason

if TYPE_CHECKING:
    from core.values import Values

_INT32_MAX = (1 << 31) - 1
_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")

_Address = Annotated[str, Meta(min_length=2, max_length=39)]
_Octet = Annotated[int, Meta(ge=0, le=255)]
_Word = Annotated[int, Meta(ge=0, le=65_535)]
_Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
_Time = Annotated[int, Meta(ge=0, le=TIME_NS_MAX)]


class _Flow(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The closed object of the schema."""

    community_id: Annotated[str, Meta(pattern=r"^1:[A-Za-z0-9+/]{27}=\Z")] | None
    src: _Address
    dst: _Address
    proto: _Octet | None
    ethertype: _Word
    packets: Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
    bytes: _Count
    packets_back: _Count
    bytes_back: _Count
    first_ns: _Time
    last_ns: _Time
    source: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
    ordinal: _Count
    end: Literal["idle", "active", "evicted", "input_end"]
    src_port: _Word | UnsetType = UNSET
    dst_port: _Word | UnsetType = UNSET
    icmp_type: _Octet | UnsetType = UNSET
    icmp_code: _Octet | UnsetType = UNSET
    tcp_flags: _Octet | UnsetType = UNSET
    tcp_flags_back: _Octet | UnsetType = UNSET


_DECODER = msgspec.json.Decoder(_Flow)


def flows(values: Values) -> Readings:
    """Decode records of flows.

    Args:
        values: The records.
    """
    rows = Readings.of(values)
    for i, value in enumerate(values.value_list()):
        flow = _flow(value)
        src, dst = (None, None) if flow is None else (_host(flow.src), _host(flow.dst))
        if flow is None or src is None or dst is None:
            rows.reason[i] = Reason.RECORD
            continue
        rows.key_hi[i], rows.key_lo[i] = src
        rows.peer_hi[i], rows.peer_lo[i] = dst
        rows.at_ns[i], rows.ordinal[i] = flow.last_ns, flow.ordinal
        rows.source[i] = int(flow.source, 16)
        rows.proto[i] = -1 if flow.proto is None else flow.proto
        rows.ethertype[i] = flow.ethertype
        rows.size[i] = min(flow.bytes, _INT32_MAX)
        rows.sport[i] = flow.src_port or flow.icmp_type or 0
        rows.dport[i] = flow.dst_port or flow.icmp_code or 0
        rows.tcp_flags[i] = flow.tcp_flags or 0
    return rows


def _flow(value: bytes) -> _Flow | None:
    """Return what a record says, or `None` when it is none."""
    try:
        flow = _DECODER.decode(value)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    by_protocol = (
        (flow.proto in PORTED, (flow.src_port, flow.dst_port)),
        (flow.proto in ICMP, (flow.icmp_type, flow.icmp_code)),
        (flow.proto == PROTO_TCP, (flow.tcp_flags, flow.tcp_flags_back)),
    )
    if any((each is not UNSET) != due for due, pair in by_protocol for each in pair):
        return None
    return flow if (flow.community_id is None) == (flow.proto is None) else None


@lru_cache(maxsize=65_536)
def _host(text: str) -> tuple[int, int] | None:
    """Return an address as `core.host` has it, or `None` when the text is none."""
    if _MAC.fullmatch(text):
        return int(MAC_HI), int(text.replace(":", ""), 16)
    try:
        if "." in text and ":" not in text:
            return 0, int(IPV4_MAPPED) << 32 | int(IPv4Address(text))
        # A zone names an interface of one machine; it is no part of an address.
        whole = int(IPv6Address(text)) if "%" not in text else None
    except AddressValueError:
        return None
    return None if whole is None else (whole >> 64, whole & 0xFFFF_FFFF_FFFF_FFFF)
