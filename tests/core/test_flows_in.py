"""Flows read back: one arrival of their source each; what the schema refuses is refused."""

from __future__ import annotations

import json
from ipaddress import IPv6Address
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import records
from core.flows_in import flows
from core.host import MAC_HI, key_text
from core.netflow import FlowTable
from core.reading_kernels import TIME_NS_MAX
from core.reasons import Reason
from core.topics import FLOWS
from tests.frames import MAPPED, SECOND_NS, frame_batch
from tests.readings import values
from tests.schemas import validator

KEEPS = validator(FLOWS)
TCP: dict[str, Any] = {
    "community_id": "1:f+KeclPpp7jZVMG07+QrsXBSM5E=", "src": "10.254.0.6", "dst": "10.255.0.1",
    "proto": 6, "ethertype": 2048, "src_port": 50005, "dst_port": 443, "packets": 9, "bytes": 819,
    "packets_back": 0, "bytes_back": 0, "tcp_flags": 4, "tcp_flags_back": 0,
    "first_ns": 1767225600752235764, "last_ns": 1767225617929665738, "source": "2e77a2dfc94dd077",
    "ordinal": 1205, "end": "input_end",
}  # fmt: skip
PING = {k: v for k, v in TCP.items() if not k.startswith("tcp") and not k.endswith("port")} | {
    "src": "2001:db8:1::6", "dst": "::1", "proto": 58, "icmp_type": 135, "icmp_code": 1
}  # fmt: skip
ARP = {k: v for k, v in PING.items() if not k.startswith("icmp")} | {
    "community_id": None, "src": "02:00:00:00:00:0a", "dst": "10.255.0.1", "proto": None,
    "ethertype": 0x0806,
}  # fmt: skip


def reason(record: Any) -> int:
    """Read one record that lies between others."""
    raw = record if isinstance(record, bytes) else json.dumps(record).encode()
    rows = flows(values(b"{}", raw, b"{}"))
    assert rows.reason[[0, 2]].tolist() == [Reason.RECORD, Reason.RECORD]
    return int(rows.reason[1])


def test_a_flow_is_an_arrival_of_its_source() -> None:
    """Ends, ports, protocol, bytes, the time of the last packet and the file of the first."""
    rows = flows(values(*(json.dumps(each).encode() for each in (TCP, PING, ARP))))
    assert rows.reason.tolist() == [0, 0, 0]
    assert rows.key_hi.tolist() == [0, 0x20010DB800010000, int(MAC_HI)]
    assert rows.key_lo.tolist() == [MAPPED + 0x0AFE0006, 6, 0x02000000000A]
    assert rows.peer_hi.tolist() == [0, 0, 0]
    assert rows.peer_lo.tolist() == [MAPPED + 0x0AFF0001, 1, MAPPED + 0x0AFF0001]
    assert rows.proto.tolist() == [6, 58, -1]
    assert rows.sport.tolist() == [50005, 135, 0]
    assert rows.dport.tolist() == [443, 1, 0]
    assert rows.ethertype.tolist() == [2048, 2048, 0x0806]
    assert rows.tcp_flags.tolist() == [4, 0, 0]
    assert rows.size.tolist() == [819] * 3
    assert rows.at_ns.tolist() == [1767225617929665738] * 3
    assert rows.source.tolist() == [0x2E77A2DFC94DD077] * 3
    assert rows.ordinal.tolist() == [1205] * 3
    assert not rows.body_len.any()


def test_what_the_flow_table_writes_is_read() -> None:
    """Flows of every kind of address and protocol come back with what their table counted."""
    words = [(0, MAPPED + 5), (int(MAC_HI), 7), (0x20010DB8 << 32, 1), (0, 1)]
    protocols = [-1, 1, 6, 17, 33, 47, 58, 132, 136, 255]
    rows = [(src, dst, proto) for src in words for dst in words for proto in protocols]
    frames = frame_batch(
        at_ns=np.arange(len(rows)) * SECOND_NS,
        key_hi=[src[0] for src, _, _ in rows], key_lo=[src[1] for src, _, _ in rows],
        peer_hi=[dst[0] for _, dst, _ in rows], peer_lo=[dst[1] for _, dst, _ in rows],
        proto=[proto for _, _, proto in rows], size=[100] * len(rows),
        sport=[8 if proto in (1, 58) else 5353 for _, _, proto in rows],
        dport=[0 if proto in (1, 58) else 53 for _, _, proto in rows],
        ethertype=[0x0800] * len(rows), source=[3] * len(rows),
    )  # fmt: skip
    table = FlowTable(flows_max=1024, idle_s=1, active_s=60, seed=1)
    first, last = table.observe(frames), table.finish()
    held = [v for ended in (first, last) for v in records.flows(ended).value_list()]
    found = flows(values(*held))
    assert not found.reason.any()
    assert sorted(found.ordinal.tolist()) == list(range(len(rows)))
    at = found.ordinal
    for name in ("key_hi", "key_lo", "peer_hi", "peer_lo", "proto", "ethertype", "size", "at_ns"):
        assert np.array_equal(getattr(found, name), getattr(frames, name)[at]), name
    ported = ~np.isin(found.proto, [-1, 47, 255])
    assert np.array_equal(found.sport[ported], frames.sport[at][ported])


@given(st.integers(0, 2**128 - 1) | st.integers(0, 2**32 - 1).map(lambda v4: MAPPED + v4))
def test_addresses_come_back(address: int) -> None:
    """Whatever key a host has, its text is read as that key."""
    hi, lo = address >> 64, address & (2**64 - 1)
    text = key_text(hi, lo, is_device=False)
    if hi == int(MAC_HI):
        lo &= 0xFFFF_FFFF_FFFF
    rows = flows(values(json.dumps(TCP | {"src": text}).encode()))
    assert rows.reason.tolist() == [0]
    assert (int(rows.key_hi[0]), int(rows.key_lo[0])) == (hi, lo)
    exploded = IPv6Address(address).exploded
    rows = flows(values(json.dumps(TCP | {"src": exploded}).encode()))
    assert int(rows.key_hi[0]) << 64 | int(rows.key_lo[0]) == address


@pytest.mark.parametrize(
    "text",
    ["", ":", "1.2.3", "1.2.3.4.5", "256.1.1.1", "01.2.3.4", "fe80::1%eth0", "::g", "1::2::3",
     "02:00:00:00:00", "02:00:00:00:00:0g", "AA:BB:CC:DD:EE:FF", "1.2.3.4:5", "host", "1.2.3.4 "],
)  # fmt: skip
def test_what_is_no_address_is_no_record(text: str) -> None:
    """A name, a zone, a port, or half an address make the record malformed, at either end."""
    assert reason(TCP | {"src": text}) == Reason.RECORD
    assert reason(TCP | {"dst": text}) == Reason.RECORD


def test_sizes_are_cut_where_a_column_ends() -> None:
    """More than 2 GiB count as 2 GiB."""
    rows = flows(values(json.dumps(TCP | {"bytes": 1 << 40}).encode()))
    assert rows.size.tolist() == [2**31 - 1]


WRONG: st.SearchStrategy[Any] = st.sampled_from(
    [None, -1, 0, 1, 6, 17, 58, 255, 256, 65_536, 1.5, "", "x", True, [], {}, "idle", "::1",
     "2E77A2DFC94DD077", "1:f+KeclPpp7jZVMG07+QrsXBSM5E="]
)  # fmt: skip
NAMES = st.sampled_from([*TCP, "icmp_type", "icmp_code", "more"])


@given(st.sampled_from([TCP, PING, ARP]), st.dictionaries(NAMES, WRONG, max_size=2),
       st.sets(NAMES, max_size=2))  # fmt: skip
def test_the_schema_decides(record: dict[str, Any], put: dict[str, Any], out: set[str]) -> None:
    """A record is read exactly if the schema accepts it, its ends being addresses."""
    changed = {k: v for k, v in (record | put).items() if k not in out}
    # Texts that a schema cannot judge are another test's.
    ends = (changed.get("src"), changed.get("dst"))
    known = {TCP["src"], TCP["dst"], PING["src"], PING["dst"], ARP["src"], "::1"}
    accepted = KEEPS.is_valid(changed) and set(ends) <= known
    assert (reason(changed) == 0) == accepted, changed


@pytest.mark.parametrize(
    "change",
    [{"last_ns": -1}, {"last_ns": TIME_NS_MAX + 1}, {"bytes": 2**63}, {"ordinal": 2**63}],
)
def test_numbers_keep_their_bounds(change: dict[str, Any]) -> None:
    """What no column can hold makes the record malformed."""
    assert reason(TCP | change) == Reason.RECORD


@given(st.binary(max_size=40) | st.tuples(st.integers(0, 400), st.binary(max_size=3)).map(
    lambda change: json.dumps(TCP).encode()[: change[0]] + change[1]
    + json.dumps(TCP).encode()[change[0] + 1 :]))  # fmt: skip
def test_any_bytes_are_a_flow_or_named(value: bytes) -> None:
    """Whatever bytes a record has, it is an arrival or `record`."""
    assert reason(value) in (0, Reason.RECORD)


def test_deep_nesting_is_named() -> None:
    """Brackets without end are refused, not followed."""
    assert reason(b'{"src":' + b"[" * 100_000) == Reason.RECORD
    assert reason(b'{"more":' + b"[" * 100_000) == Reason.RECORD
