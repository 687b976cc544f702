"""Dead letters read back: the packets they hold, to be judged again."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import records
from core.letters_in import letters
from core.link import LINK_USER0
from core.reading_kernels import TIME_NS_MAX
from core.reasons import MALFORMED, Reason
from core.topics import TELEMETRY, TELEMETRY_DLQ
from core.undeliverable import undeliverable
from tests.frames import packet_batch, udp_packet
from tests.readings import values

LETTER: dict[str, Any] = {
    "reason": "frame_short", "source": "2e77a2dfc94dd077", "ordinal": 14, "ts": 1767225600024282203,
    "linktype": 1, "wire_bytes": 60, "packet": base64.b64encode(b"\0\x01\xff").decode(),
}  # fmt: skip
REFUSED = undeliverable(TELEMETRY, b"k", b"{}", 7, 1, 2, "topic_unknown", "no such topic")[1]


def test_packets_come_back_as_captured() -> None:
    """Bytes, link type, length on the wire, time, number and file are those of the capture."""
    packets = packet_batch([udp_packet(b"x" * n) for n in (0, 3, 500)], snaplen=60, index=40)
    reason = np.full(3, Reason.FRAME_SHORT, np.uint8)
    written = records.rejects(packets, reason, TELEMETRY_DLQ)
    assert written is not None
    rows = letters(values(*written.value_list()))
    assert not rows.reason.any()
    found = rows.packets()
    for name in ("caplen", "wirelen", "at_ns", "linktype", "ordinal"):
        assert np.array_equal(getattr(found, name), getattr(packets, name)), name
    assert rows.source.tolist() == [packets.source] * 3
    for i in range(3):
        begin, kept = int(found.start[i]), int(found.caplen[i])
        then = int(packets.start[i])
        assert found.arena[begin : begin + kept].tobytes() == (
            packets.arena[then : then + kept].tobytes()
        )


def test_files_are_kept_apart() -> None:
    """Rejects of several files keep the file of each."""
    packets = packet_batch([udp_packet(b"")] * 3)
    reason = np.array([Reason.BAD_MAGIC, 0, Reason.BAD_MAGIC], np.uint8)
    written = records.rejects(packets, reason, TELEMETRY_DLQ, np.array([5, 6, 7], np.uint64))
    assert written is not None
    assert written.source.tolist() == [5, 7]
    assert letters(values(*written.value_list())).source.tolist() == [5, 7]


def test_other_kinds_are_told_apart() -> None:
    """A record the brokers refused is passed over; what was no packet is malformed as it was."""
    no_packet = LETTER | {"linktype": LINK_USER0}
    held = [json.dumps(LETTER).encode(), REFUSED, json.dumps(no_packet).encode(), b"{}", b""]
    rows = letters(values(*held))
    assert rows.reason.tolist() == [
        0, Reason.UNDELIVERABLE, Reason.RECORD, Reason.RECORD, Reason.RECORD
    ]  # fmt: skip
    assert Reason.UNDELIVERABLE not in MALFORMED
    kept = [rows.arena[a : a + n].tobytes() for a, n in zip(rows.start, rows.length, strict=True)]
    # What is malformed as a letter keeps its own bytes; what was no packet, the bytes it was of.
    assert kept == [b"\0\x01\xff", REFUSED, b"\0\x01\xff", b"{}", b""]
    assert rows.linktype.tolist() == [1, *[LINK_USER0] * 4]


@pytest.mark.parametrize(
    "change",
    [{"ts": -1}, {"ts": TIME_NS_MAX + 1}, {"linktype": 2**31}, {"wire_bytes": 2**31},
     {"packet": "***"}, {"source": "xyz"}, {"ordinal": -1}, {"more": 1}],
)  # fmt: skip
def test_numbers_keep_their_bounds(change: dict[str, Any]) -> None:
    """What no capture can hold makes a letter malformed."""
    value = json.dumps(LETTER | change).encode()
    rows = letters(values(json.dumps(LETTER).encode(), value))
    assert rows.reason.tolist() == [0, Reason.RECORD]
    begin = int(rows.start[1])
    assert rows.arena[begin : begin + int(rows.length[1])].tobytes() == value


BASE = json.dumps(LETTER).encode()


@given(st.binary(max_size=40) | st.tuples(st.integers(0, 200), st.binary(max_size=3)).map(
    lambda change: BASE[: change[0]] + change[1] + BASE[change[0] + 1 :]))  # fmt: skip
def test_any_bytes_are_a_letter_or_named(value: bytes) -> None:
    """Whatever bytes a record has, it is a packet, a record that was refused, or `record`."""
    rows = letters(values(value, BASE))
    assert rows.reason[0] in (0, Reason.UNDELIVERABLE, Reason.RECORD)
    assert rows.reason[1] == 0
