"""The loops of `core.records`: columns to JSON text.

Laws: those of `core.records` and of `core.text_out`. The constants below bound each record, so
that a buffer of `n` times the bound is always enough.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.community import COMMUNITY_ID_BYTES, write_community_id
from core.frame import ID_LEN
from core.kernels import A2_i8, A2_u8, A_i4, A_i8, A_u1, A_u4, A_u8, b1, i8, kernel, none, u8
from core.netflow_kernels import (
    BYTES,
    BYTES_BACK,
    DPORT,
    DST_HI,
    DST_LO,
    END,
    END_ACTIVE,
    END_EVICTED,
    END_IDLE,
    ETHERTYPE,
    FIRST_NS,
    FLAGS,
    FLAGS_BACK,
    LAST_NS,
    ORDINAL,
    PACKETS,
    PACKETS_BACK,
    PROTO,
    SOURCE,
    SPORT,
    SRC_HI,
    SRC_LO,
)
from core.protocols import ICMP, PORTED, PROTO_TCP
from core.text_out import (
    constant,
    write_address,
    write_base64,
    write_copy,
    write_decimal,
    write_escaped,
    write_hex_u64,
    write_literal,
)

TELEMETRY_BYTES_MAX = 192
"""Beside the body: an id of 16 escaped bytes, two numbers, and the names."""
FLOW_BYTES_MAX = 640
REJECT_BYTES_MAX = 320
"""Beside the base64 of the packet."""

_T_ID, _T_SEQ, _T_DATA = constant('{"id":"'), constant('","seq":'), constant(',"data":')
_T_NULL, _T_TS, _T_END = constant("null"), constant(',"ts":'), constant("}")
_F_ID, _F_NO_ID = constant('{"community_id":"'), constant('{"community_id":null')
_F_SRC, _F_DST, _F_QUOTE = constant(',"src":"'), constant('","dst":"'), constant('"')
_F_SPORT, _F_DPORT = constant(',"src_port":'), constant(',"dst_port":')
_F_TYPE, _F_CODE = constant(',"icmp_type":'), constant(',"icmp_code":')
_F_PROTO, _F_ETHERTYPE = constant(',"proto":'), constant(',"ethertype":')
_F_PACKETS, _F_BYTES = constant(',"packets":'), constant(',"bytes":')
_F_PACKETS_BACK, _F_BYTES_BACK = constant(',"packets_back":'), constant(',"bytes_back":')
_F_FLAGS, _F_FLAGS_BACK = constant(',"tcp_flags":'), constant(',"tcp_flags_back":')
_F_FIRST, _F_LAST, _F_END = constant(',"first_ns":'), constant(',"last_ns":'), constant(',"end":"')
_F_SOURCE = constant(',"source":"')
_IDLE, _ACTIVE = constant('idle"}'), constant('active"}')
_EVICTED, _INPUT = constant('evicted"}'), constant('input_end"}')
_R_REASON, _R_SOURCE, _R_ORDINAL = (
    constant('{"reason":"'),
    constant('","source":"'),
    constant('","ordinal":'),
)
_R_LINKTYPE, _R_WIRE = constant(',"linktype":'), constant(',"wire_bytes":')
_R_PACKET, _R_END = constant(',"packet":"'), constant('"}')


@kernel(none(u8, u8, A_u1))
def _id_bytes(hi: Any, lo: Any, out: Any) -> None:
    """Write the 16 bytes of a device id."""
    for i in range(8):
        shift = np.uint64(8 * (7 - i))
        out[i] = np.uint8((hi >> shift) & np.uint64(0xFF))
        out[8 + i] = np.uint8((lo >> shift) & np.uint64(0xFF))


@kernel(none(A_u1, A_u8, A_u8, A_u4, A_i8, A_i4, A_i8, A_u1, A_i8, A_u1, A_i8), allocates=True)
def write_telemetry(
    arena: Any, key_hi: Any, key_lo: Any, seq: Any, body: Any, body_len: Any, at_ns: Any,
    values: Any, value_end: Any, keys: Any, key_end: Any,
) -> None:  # fmt: skip
    """Write `{"id","seq","data","ts"}` and the key of each frame."""
    device = np.zeros(ID_LEN, np.uint8)
    at = 0
    key_at = 0
    for i in range(seq.size):
        _id_bytes(key_hi[i], key_lo[i], device)
        size = 0
        while size < ID_LEN and device[size] != 0:
            size += 1
        at = write_literal(values, at, _T_ID)
        at = write_escaped(values, at, device, 0, size)
        at = write_literal(values, at, _T_SEQ)
        at = write_decimal(values, at, np.int64(seq[i]))
        at = write_literal(values, at, _T_DATA)
        if body_len[i] > 0:
            at = write_copy(values, at, arena, body[i], np.int64(body_len[i]))
        else:
            at = write_literal(values, at, _T_NULL)
        at = write_literal(values, at, _T_TS)
        at = write_decimal(values, at, at_ns[i])
        at = write_literal(values, at, _T_END)
        value_end[i] = at
        key_at = write_copy(keys, key_at, device, 0, size)
        key_end[i] = key_at


@kernel(i8(A_u1, i8, A2_i8, i8))
def _flow_ports(out: Any, at: Any, numbers: Any, i: Any) -> Any:
    """Write the ports, or the ICMP type and code, where the protocol has them."""
    proto = numbers[i, PROTO]
    if proto in ICMP:
        at = write_literal(out, at, _F_TYPE)
        at = write_decimal(out, at, numbers[i, SPORT])
        at = write_literal(out, at, _F_CODE)
        return write_decimal(out, at, numbers[i, DPORT])
    if proto in PORTED:
        at = write_literal(out, at, _F_SPORT)
        at = write_decimal(out, at, numbers[i, SPORT])
        at = write_literal(out, at, _F_DPORT)
        return write_decimal(out, at, numbers[i, DPORT])
    return at


@kernel(i8(A_u1, i8, A2_i8, i8, u8))
def _flow_sums(out: Any, at: Any, numbers: Any, i: Any, source: Any) -> Any:
    """Write what was counted in both directions, how much of it came back, when, and where from."""
    at = write_literal(out, at, _F_PACKETS)
    at = write_decimal(out, at, numbers[i, PACKETS] + numbers[i, PACKETS_BACK])
    at = write_literal(out, at, _F_BYTES)
    at = write_decimal(out, at, numbers[i, BYTES] + numbers[i, BYTES_BACK])
    at = write_literal(out, at, _F_PACKETS_BACK)
    at = write_decimal(out, at, numbers[i, PACKETS_BACK])
    at = write_literal(out, at, _F_BYTES_BACK)
    at = write_decimal(out, at, numbers[i, BYTES_BACK])
    if numbers[i, PROTO] == PROTO_TCP:
        at = write_literal(out, at, _F_FLAGS)
        at = write_decimal(out, at, numbers[i, FLAGS] | numbers[i, FLAGS_BACK])
        at = write_literal(out, at, _F_FLAGS_BACK)
        at = write_decimal(out, at, numbers[i, FLAGS_BACK])
    at = write_literal(out, at, _F_FIRST)
    at = write_decimal(out, at, numbers[i, FIRST_NS])
    at = write_literal(out, at, _F_LAST)
    at = write_decimal(out, at, numbers[i, LAST_NS])
    at = write_literal(out, at, _F_SOURCE)
    at = write_hex_u64(out, at, source)
    at = write_literal(out, at, _R_ORDINAL)
    return write_decimal(out, at, numbers[i, ORDINAL])


@kernel(i8(A_u1, i8, A2_i8, A2_u8, i8, b1))
def _flow_ends(out: Any, at: Any, numbers: Any, names: Any, i: Any, is_ip: Any) -> Any:
    """Write the Community ID, both addresses, ports and protocol."""
    if is_ip:
        at = write_literal(out, at, _F_ID)
        at = write_community_id(
            out, at, 0, names[i, SRC_HI], names[i, SRC_LO], names[i, DST_HI], names[i, DST_LO],
            np.int32(numbers[i, PROTO]), np.int32(numbers[i, SPORT]), np.int32(numbers[i, DPORT]),
        )  # fmt: skip
        at = write_literal(out, at, _F_QUOTE)
    else:
        at = write_literal(out, at, _F_NO_ID)
    at = write_literal(out, at, _F_SRC)
    at = write_address(out, at, names[i, SRC_HI], names[i, SRC_LO])
    at = write_literal(out, at, _F_DST)
    at = write_address(out, at, names[i, DST_HI], names[i, DST_LO])
    at = write_literal(out, at, _F_QUOTE)
    at = write_literal(out, at, _F_PROTO)
    if is_ip:
        at = write_decimal(out, at, numbers[i, PROTO])
    else:
        at = write_literal(out, at, _T_NULL)
    at = write_literal(out, at, _F_ETHERTYPE)
    at = write_decimal(out, at, numbers[i, ETHERTYPE])
    return _flow_ports(out, at, numbers, i)


@kernel(none(A2_i8, A2_u8, A_u1, A_i8, A_u1, A_i8))
def write_flows(
    numbers: Any, names: Any, values: Any, value_end: Any, keys: Any, key_end: Any
) -> None:
    """Write the record and the key of each flow."""
    at = 0
    key_at = 0
    for i in range(value_end.size):
        is_ip = numbers[i, PROTO] >= 0
        begin = at
        at = _flow_ends(values, at, numbers, names, i, is_ip)
        if is_ip:
            key_at = write_copy(keys, key_at, values, begin + _F_ID.size, COMMUNITY_ID_BYTES)
        else:
            key_at = write_address(keys, key_at, names[i, SRC_HI], names[i, SRC_LO])
        key_end[i] = key_at
        at = _flow_sums(values, at, numbers, i, names[i, SOURCE])
        at = write_literal(values, at, _F_END)
        end = numbers[i, END]
        if end == END_IDLE:
            at = write_literal(values, at, _IDLE)
        elif end == END_ACTIVE:
            at = write_literal(values, at, _ACTIVE)
        elif end == END_EVICTED:
            at = write_literal(values, at, _EVICTED)
        else:
            at = write_literal(values, at, _INPUT)
        value_end[i] = at


@kernel(
    none(
        A_u1, A_i8, A_i4, A_i4, A_i8, A_i4, A_i8, A_u8, A_u1, A_u1, A_i8,
        A_u1, A_i8, A_u1, A_i8,
    )
)  # fmt: skip
def write_rejects(
    arena: Any, start: Any, caplen: Any, wirelen: Any, at_ns: Any, linktype: Any, ordinal: Any,
    source: Any, reason: Any, reasons: Any, reason_end: Any, values: Any, value_end: Any,
    keys: Any, key_end: Any,
) -> None:  # fmt: skip
    """Write the record and the key of each rejected packet."""
    at = 0
    key_at = 0
    for i in range(start.size):
        code = int(reason[i])
        begin = reason_end[code - 1]
        size = reason_end[code] - begin
        at = write_literal(values, at, _R_REASON)
        at = write_copy(values, at, reasons, begin, size)
        at = write_literal(values, at, _R_SOURCE)
        at = write_hex_u64(values, at, source[i])
        at = write_literal(values, at, _R_ORDINAL)
        at = write_decimal(values, at, ordinal[i])
        at = write_literal(values, at, _T_TS)
        at = write_decimal(values, at, at_ns[i])
        at = write_literal(values, at, _R_LINKTYPE)
        at = write_decimal(values, at, np.int64(linktype[i]))
        at = write_literal(values, at, _R_WIRE)
        at = write_decimal(values, at, np.int64(wirelen[i]))
        at = write_literal(values, at, _R_PACKET)
        at = write_base64(values, at, arena, start[i], np.int64(caplen[i]))
        at = write_literal(values, at, _R_END)
        value_end[i] = at
        key_at = write_copy(keys, key_at, reasons, begin, size)
        key_end[i] = key_at
