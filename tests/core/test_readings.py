"""Readings: rows of a topic as arrivals and as packets, joined without their neighbours' bytes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.kinds import KINDS
from core.link import LINK_USER0
from core.readings import Readings, joined
from core.reasons import Reason
from core.telemetry_in import telemetry
from core.topics import FINDINGS, FINDINGS_DLQ, FLOWS, FLOWS_DLQ, TELEMETRY, TELEMETRY_DLQ, TOPICS
from tests.readings import values

LIMIT = 65_485


def record(i: int) -> bytes:
    """Return a record, every third of which is none."""
    body = "" if i % 3 == 2 else json.dumps({"v": "x" * i})
    return b'{"id":"dev-%d","seq":%d,"data":%s,"ts":%d}' % (i, i, body.encode(), 1000 + i)


def rows_of(*numbers: int) -> Readings:
    return telemetry(values(*map(record, numbers)), LIMIT)


def bytes_at(rows: Readings, begin: str, size: str) -> list[bytes]:
    """Return slices of the arena."""
    each = zip(getattr(rows, begin).tolist(), getattr(rows, size).tolist(), strict=True)
    return [rows.arena[a : a + n].tobytes() for a, n in each]


def test_arrivals_are_the_rows_that_have_no_reason() -> None:
    """Frames carry the number of their row in the replay; malformed rows are left out."""
    rows = rows_of(0, 1, 2, 3)
    rows.index = 40
    assert rows.reason.tolist() == [0, 0, Reason.RECORD, 0]
    assert rows.known.tolist() == [True, True, False, True]
    frames = rows.frames()
    assert frames.index.tolist() == [40, 41, 43]
    assert frames.seq.tolist() == [0, 1, 3]
    assert frames.at_ns.tolist() == [1000, 1001, 1003]
    bodies = [frames.arena[a : a + n].tobytes()
              for a, n in zip(frames.body, frames.body_len, strict=True)]  # fmt: skip
    assert bodies == [b'{"v": ""}', b'{"v": "x"}', b'{"v": "xxx"}']
    assert frames.size.tolist() == [len(body) for body in bodies]
    assert not frames.peer_lo.any()
    assert frames.proto.tolist() == [-1] * 3


def test_records_are_packets_of_a_link_type_of_their_own() -> None:
    """So that what is malformed can be told in a dead letter like any packet."""
    rows = rows_of(1, 2)
    packets = rows.packets()
    assert packets.linktype.tolist() == [LINK_USER0] * 2
    assert packets.caplen.tolist() == packets.wirelen.tolist() == [len(record(1)), len(record(2))]
    assert bytes_at(rows, "start", "length") == [record(1), record(2)]


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=4),
    st.lists(st.integers(0, 5), max_size=4),
)
def test_joined_rows_are_the_same_rows(batches: list[list[int]], chosen: list[int]) -> None:
    """Columns, records and bodies stay what they were; bytes of other rows are left behind."""
    parts = [rows_of(*numbers) for numbers in batches]
    parts = [part.take(np.array([i for i in chosen if i < len(part)], np.int64)) for part in parts]
    whole = joined(parts)
    for name in Readings.COLUMNS:
        if name not in ("start", "body"):
            column = np.concatenate([getattr(part, name) for part in parts])
            assert np.array_equal(getattr(whole, name), column), name
    for begin, size in (("start", "length"), ("body", "body_len")):
        found = bytes_at(whole, begin, size)
        assert found == [each for part in parts for each in bytes_at(part, begin, size)]
    assert whole.arena.size == max(1, int(whole.length.sum()))


def test_what_can_be_replayed() -> None:
    """Every topic but findings, by the mode that writes it; of flows, no flows are written."""
    assert set(TOPICS) - set(KINDS) == {FINDINGS, FINDINGS_DLQ}
    assert {topic: kind.by for topic, kind in KINDS.items()} == {
        TELEMETRY: "device", TELEMETRY_DLQ: "device", FLOWS: "host", FLOWS_DLQ: "host"
    }  # fmt: skip
    for topic, kind in KINDS.items():
        ours = {t for t, other in KINDS.items() if other.by == kind.by} | {FINDINGS, FINDINGS_DLQ}
        assert set(kind.writes) == ours - ({FLOWS} if topic == FLOWS else set())


@pytest.mark.parametrize("topic", KINDS)
def test_each_topic_has_its_decoder(topic: str) -> None:
    """What is no record of any topic is malformed in all; what is one, only in the others."""
    kind = KINDS[topic]
    assert kind.decode(values(b"{}"), LIMIT).reason.tolist() == [Reason.RECORD]
    assert kind.decode(values(record(1)), LIMIT).reason[0] == (topic != TELEMETRY) * Reason.RECORD
    assert kind.is_of_packets == topic.endswith(".dlq")
    assert kind.names_packets == (topic == TELEMETRY)
