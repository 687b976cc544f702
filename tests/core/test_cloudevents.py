"""CloudEvents attributes: times against the standard library's calendar, ids against their rule."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core import cloudevents
from core.topics import FINDINGS, FLOWS, FLOWS_DLQ, TELEMETRY, TOPICS
from tests.plain import rest_passes
from tests.records import ROWS, Row, records_of

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY_NS = 86_400_000_000_000


def slow(at_ns: int) -> bytes:
    """Write a time as the standard library does, which knows no ns."""
    second, ns = divmod(at_ns, 1_000_000_000)
    moment = EPOCH + timedelta(seconds=second)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ns:09d}Z".encode()


# Many of them in the same second, as packets are.
TIMES = st.lists(
    st.integers(INT64_MIN, INT64_MAX)
    | st.integers(-2_000_000_000, 2_000_000_000)
    | st.sampled_from([INT64_MIN, INT64_MAX, -1, 0, 1, 951_782_400_000_000_000])
)


@given(TIMES)
@example([INT64_MIN, INT64_MIN + 1, INT64_MAX, 0, -1, -1, 999_999_999, 1_000_000_000])
def test_times_are_those_of_the_calendar(times: list[int]) -> None:
    """Any time there is, 1677 to 2262, to the last ns, whatever the time before it."""
    assert cloudevents.times(np.array(times, np.int64)) == [slow(each) for each in times]


@pytest.mark.parametrize("year", [1896, 1996])
def test_every_day_of_nine_years_has_its_date(year: int) -> None:
    """Ends of months, leap years, 1900 that is none and 2000 that is one."""
    start = (date(year, 1, 1) - EPOCH.date()).days
    days = np.arange(start, start + 9 * 366, dtype=np.int64)
    dates = [(EPOCH.date() + timedelta(days=day)).isoformat().encode() for day in days.tolist()]
    found = cloudevents.times((days + 1) * DAY_NS - 1)
    assert found == [each + b"T23:59:59.999999999Z" for each in dates]


ID = re.compile(rb"([a-z0-9.]+):(\d+)(?::([0-9a-f]{16}))?")


@given(st.sampled_from(sorted(TOPICS)), st.lists(ROWS, max_size=6))
def test_ids_name_topic_and_packet_and_tell_records_apart(topic: str, rows: list[Row]) -> None:
    """Topic and number can be read from an id; other keys or values of one packet are others."""
    batch = records_of(topic, rows)
    for column in (batch.keys, batch.key_end, batch.values, batch.value_end, batch.ordinal):
        column.flags.writeable = False
    found = cloudevents.ids(batch)
    assert len(found) == len(rows)
    for id_, row in zip(found, rows, strict=True):
        match = ID.fullmatch(id_)
        assert match is not None
        assert (match[1].decode(), int(match[2])) == (topic, row.ordinal)
        assert (match[3] is None) == TOPICS[topic].one_per_packet
    named = {
        (row.ordinal, *(() if TOPICS[topic].one_per_packet else row[:2])): id_
        for row, id_ in zip(rows, found, strict=True)
    }
    assert len(set(named.values())) == len(named)


@given(st.lists(ROWS, min_size=1, max_size=6), st.integers(0, 5))
def test_an_id_is_the_same_in_any_batch(rows: list[Row], at: int) -> None:
    """Alone or among others, a record has the same id."""
    at = min(at, len(rows) - 1)
    for topic in (TELEMETRY, FINDINGS):
        together = cloudevents.ids(records_of(topic, rows))
        assert cloudevents.ids(records_of(topic, [rows[at]])) == [together[at]]


@pytest.mark.parametrize(
    ("topic", "wanted"),
    [
        (TELEMETRY, b"telemetry.readings.v1:7"),
        (FLOWS, b"network.flows.v1:7:7b572dc2312ae10d"),
        (FLOWS_DLQ, b"network.flows.v1.dlq:7:7b572dc2312ae10d"),
    ],
)
def test_ids_stay_what_they_were(topic: str, wanted: bytes) -> None:
    """Consumers keep them, so they are pinned here."""
    assert cloudevents.ids(records_of(topic, [Row(b"key", b"value", ordinal=7)])) == [wanted]


@given(st.integers(0, 2**64 - 1))
def test_a_source_is_a_urn_of_sixteen_digits(source: int) -> None:
    """Leading zeros stay."""
    assert cloudevents.source_name(source) == b"urn:penstock:capture:%016x" % source


def test_plain_python_writes_the_same() -> None:
    """The rest of this file passes with compilation switched off."""
    rest_passes(__file__)
