"""Records: JSON that parses, keeps its schema, fits its bounds and says what the packets said."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import record_kernels, records
from core.batches import RecordBatch
from core.frame import device_frames
from core.headers import decode_headers
from core.host import MAC_HI
from core.netflow import FlowBatch
from core.netflow_kernels import (
    BYTES,
    BYTES_BACK,
    DPORT,
    END,
    ETHERTYPE,
    FIRST_NS,
    FLAGS,
    FLAGS_BACK,
    LAST_NS,
    NAMES,
    NUMBERS,
    ORDINAL,
    PACKETS,
    PACKETS_BACK,
    PROTO,
    SOURCE,
    SPORT,
)
from core.reasons import MALFORMED, Reason
from core.text_out import base64_bytes
from core.topics import FLOWS, FLOWS_DLQ, TELEMETRY, TELEMETRY_DLQ
from tests.core.test_body import DOCUMENTS
from tests.core.test_body import oracle as is_strict_json
from tests.core.test_community import expected_id
from tests.frames import MAPPED, PORT, device_batch, frame_batch, packet_batch, udp_packet
from tests.schemas import schema, validator

INT64 = st.integers(-(2**63), 2**63 - 1)
U64 = st.integers(0, 2**64 - 1)
ENDS = ("idle", "active", "evicted", "input_end")


def parsed(batch: RecordBatch, schema: str) -> list[Any]:
    """Parse every value with two libraries, and hold it to the schema of its topic."""
    keeps, found = validator(schema), []
    for value in batch.value_list():
        record = json.loads(value)
        assert msgspec.json.decode(value) == record
        keeps.validate(record)
        found.append(record)
    assert len(found) == len(batch)
    return found


DEVICES = (
    st.text(max_size=16)
    .map(lambda t: t.encode()[:16])
    .filter(lambda raw: b"\0" not in raw and raw == raw.decode(errors="ignore").encode())
)
BODIES = st.just(b"") | DOCUMENTS.filter(is_strict_json) | st.sampled_from([b" 1\n", b"\t{ }\r\n"])


@given(st.lists(st.tuples(DEVICES, st.integers(0, 2**32 - 1), BODIES, INT64), max_size=5))
def test_telemetry_says_what_the_frame_said(rows: list[tuple[bytes, int, bytes, int]]) -> None:
    """Id, sequence number and time come back, and the body byte for byte; an empty one is null."""
    batch = records.telemetry(device_batch(rows))
    assert batch.topic == TELEMETRY
    assert batch.key_list() == [row[0] for row in rows]
    assert batch.seq.tolist() == [row[1] for row in rows]
    for record, value, row in zip(parsed(batch, TELEMETRY), batch.value_list(), rows, strict=True):
        device, seq, body, at_ns = row
        assert (record["id"], record["seq"], record["ts"]) == (device.decode(), seq, at_ns)
        data = value.split(b',"data":', 1)[1].rsplit(b',"ts":', 1)[0]
        assert data == (body or b"null")


def test_worst_frames_fit_their_bound() -> None:
    """Sixteen control characters, and the longest numbers, many times over."""
    worst = int.from_bytes(b"\x01" * 16, "big")
    n = 100
    frames = frame_batch(
        at_ns=[-(2**63)] * n, key_hi=[worst >> 64] * n, key_lo=[worst & (2**64 - 1)] * n,
        seq=[2**32 - 1] * n,
    )  # fmt: skip
    batch = records.telemetry(frames)
    sizes = np.diff(batch.value_end, prepend=0)
    # Nothing is longer: each part is at its longest, "null" the longest that is not a body.
    assert sizes.tolist() == [int(sizes[0])] * n
    assert sizes[0] <= record_kernels.TELEMETRY_BYTES_MAX
    assert parsed(batch, TELEMETRY)[0]["id"] == "\x01" * 16


def ended(proto: int, ethertype: int, ends: tuple[int, ...], **numbers: int) -> FlowBatch:
    """Return one ended flow; what is not given is the longest number there is."""
    row = np.full((1, NUMBERS), -(2**63), np.int64)
    row[0, [PACKETS, PACKETS_BACK, BYTES, BYTES_BACK]] = -(2**62)
    row[0, [FLAGS, FLAGS_BACK]] = 255
    row[0, [PROTO, ETHERTYPE, END]] = proto, ethertype, numbers.get("end", 3)
    row[0, [SPORT, DPORT]] = numbers.get("sport", 65535), numbers.get("dport", 65535)
    return FlowBatch(row, np.array([[*ends, 2**64 - 1]], np.uint64))


LONGEST = (2**64 - 1, 2**64 - 1, 2**64 - 1, 2**64 - 1)


@pytest.mark.parametrize("proto", [-1, 1, 6, 17, 33, 47, 58, 132, 136, 255])
def test_worst_flows_fit_their_bound(proto: int) -> None:
    """The longest addresses and numbers, for every shape of flow record and every end."""
    for end in range(4):
        flow = ended(proto, 65535, LONGEST, end=end)
        assert flow.numbers.shape == (1, NUMBERS)
        assert flow.names.shape == (1, NAMES)
        batch = records.flows(flow)
        assert batch.value_end[0] <= record_kernels.FLOW_BYTES_MAX
        assert batch.key_end[0] <= records.KEY_BYTES_MAX
        record = json.loads(batch.value_list()[0])
        assert len(record["src"]) == 39
        assert record["end"] == ENDS[end]
        # The buffer may be as small as the bound says, for many records as for one.
        many = FlowBatch(np.repeat(flow.numbers, 50, 0), np.repeat(flow.names, 50, 0))
        assert records.flows(many).value_end[-1] == 50 * batch.value_end[0]


WORDS = st.tuples(st.just(0), U64.map(lambda lo: MAPPED | lo & 0xFFFFFFFF)) | st.tuples(U64, U64)


@given(
    st.sampled_from([1, 6, 17, 33, 58, 132, 136]) | st.integers(0, 255),
    WORDS, WORDS, st.integers(0, 65535), st.integers(0, 65535),
)  # fmt: skip
def test_flows_bear_the_community_id_of_hashlib(
    proto: int, src: tuple[int, int], dst: tuple[int, int], sport: int, dport: int
) -> None:
    """Key and field are the id derived step by step from the specification."""
    if proto in (1, 58):
        sport, dport = sport & 255, dport & 255
    batch = records.flows(ended(proto, 0x0800, (*src, *dst), sport=sport, dport=dport))
    wide = [(hi << 64 | lo).to_bytes(16, "big") for hi, lo in (src, dst)]
    if all(end.startswith(b"\0" * 10 + b"\xff\xff") for end in wide):
        wide = [end[12:] for end in wide]
    wanted = expected_id(0, (wide[0], wide[1], proto, sport, dport))
    record = json.loads(batch.value_list()[0])
    assert record["community_id"] == batch.key_list()[0].decode() == wanted
    names = ("icmp_type", "icmp_code") if proto in (1, 58) else ("src_port", "dst_port")
    has_ports = proto in (1, 6, 17, 33, 58, 132, 136)
    assert [record.get(name) for name in names] == ([sport, dport] if has_ports else [None] * 2)


def test_a_flow_record_sums_both_directions() -> None:
    """Packets and bytes are those of both ends, and how many came back is told beside."""
    numbers = np.zeros((2, NUMBERS), np.int64)
    numbers[:, [PACKETS, PACKETS_BACK, BYTES, BYTES_BACK]] = 3, 2, 300, 20
    numbers[:, [FLAGS, FLAGS_BACK, FIRST_NS, LAST_NS, ORDINAL]] = 0x02, 0x12, 7, 9, 4
    numbers[:, [PROTO, ETHERTYPE]] = [[6, 0x0800], [-1, 0x88CC]]
    hosts = [[0, MAPPED | 1, 0, MAPPED | 2], [int(MAC_HI), 1, int(MAC_HI), 2]]
    names = np.array([[*ends, 0xAB] for ends in hosts], np.uint64)
    assert names[0, SOURCE] == 0xAB
    batch = records.flows(FlowBatch(numbers, names))
    tcp, link = parsed(batch, FLOWS)
    sums = {"packets": 5, "bytes": 320, "packets_back": 2, "bytes_back": 20, "first_ns": 7,
            "last_ns": 9, "source": "00000000000000ab", "ordinal": 4, "end": "idle"}  # fmt: skip
    assert tcp == sums | {
        "community_id": tcp["community_id"], "src": "0.0.0.1", "dst": "0.0.0.2", "proto": 6,
        "ethertype": 0x0800, "src_port": 0, "dst_port": 0, "tcp_flags": 0x12,
        "tcp_flags_back": 0x12,
    }  # fmt: skip
    assert link == sums | {
        "community_id": None, "src": "00:00:00:00:00:01", "dst": "00:00:00:00:00:02",
        "proto": None, "ethertype": 0x88CC,
    }  # fmt: skip
    assert batch.key_list()[1] == b"00:00:00:00:00:01"
    assert batch.ordinal.tolist() == [4, 4]


@given(st.lists(st.tuples(st.binary(max_size=80), st.sampled_from([0, 1, *MALFORMED])), max_size=6))
def test_rejected_packets_keep_their_bytes(rows: list[tuple[bytes, int]]) -> None:
    """Only malformed packets are records; reason, position and bytes come back."""
    packets = packet_batch([row[0] for row in rows], snaplen=50, index=9)
    reason = np.array([row[1] for row in rows], np.uint8)
    batch = records.rejects(packets, reason, TELEMETRY_DLQ)
    bad = [i for i, row in enumerate(rows) if row[1] >= MALFORMED[0]]
    assert (batch is None) == (not bad)
    if batch is None:
        return
    found = parsed(batch, TELEMETRY_DLQ)
    assert batch.key_list() == [Reason(rows[i][1]).name.lower().encode() for i in bad]
    assert [(r["reason"].encode(), r["ordinal"]) for r in found] == [
        (key, 9 + i) for key, i in zip(batch.key_list(), bad, strict=True)
    ]
    assert [b64decode(r["packet"], validate=True) for r in found] == [rows[i][0][:50] for i in bad]
    assert [r["wire_bytes"] for r in found] == [len(rows[i][0]) for i in bad]
    assert [r["ts"] for r in found] == packets.at_ns[bad].tolist()


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1000])
def test_worst_rejects_fit_their_bound(size: int) -> None:
    """The longest name and numbers, beside packets of every remainder of base64."""
    n = 40
    packets = packet_batch([b"\xff" * size] * n)
    packets.at_ns[:] = packets.ordinal[:] = -(2**63)
    packets.wirelen[:] = packets.linktype[:] = -(2**31)
    longest = max(MALFORMED, key=lambda r: len(r.name))
    batch = records.rejects(packets, np.full(n, longest, np.uint8), FLOWS_DLQ)
    assert batch is not None
    sizes = np.diff(batch.value_end, prepend=0)
    assert sizes.max() - base64_bytes(size) <= record_kernels.REJECT_BYTES_MAX
    assert batch.value_end[-1] <= n * record_kernels.REJECT_BYTES_MAX + n * size * 4 // 3
    assert len(longest.name) <= records.KEY_BYTES_MAX


def test_every_reason_of_host_mode_is_in_its_schema() -> None:
    """Headers, and records read again, are rejected for what the flows' schema lists, no more."""
    device, host = (
        set(schema(topic)["$defs"]["malformed_packet"]["properties"]["reason"]["enum"])
        for topic in (TELEMETRY_DLQ, FLOWS_DLQ)
    )
    assert device == {reason.name.lower() for reason in MALFORMED}
    assert host == {
        reason.name.lower()
        for reason in MALFORMED
        if reason < Reason.UDP_LENGTH or reason == Reason.RECORD
    }


def test_from_packet_to_record() -> None:
    """A datagram becomes the record a consumer reads."""
    frame = b"\xaa\x55" + b"pump-7".ljust(16, b"\0") + b"\0\0\0\x2a" + b'{"flow": 12.5}'
    packets = packet_batch([udp_packet(frame)])
    _, frames = device_frames(packets, decode_headers(packets), PORT, 100)
    value = records.telemetry(frames).value_list()[0]
    assert value == b'{"id":"pump-7","seq":42,"data":{"flow": 12.5},"ts":1700000000000000000}'
