"""Records of datagrams read back: what was written is the same again, anything else is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import records
from core.batches import FrameBatch, RecordBatch
from core.kinds import KINDS
from core.payloads import Payloads
from core.payloads_in import payloads as read_back
from core.reasons import Reason
from core.topics import TELEMETRY
from tests.core.test_payloads import BYTES_MAX, RAW, SYSLOG, framed
from tests.core.test_syslog import SD1
from tests.plain import rest_passes
from tests.readings import values


def written(how: Payloads, *payloads: bytes) -> tuple[FrameBatch, RecordBatch]:
    """Return the frames and records of datagrams, those that have any."""
    _, frames = framed(how, *payloads)
    return frames, records.payloads(frames, how)


@pytest.mark.parametrize(
    ("how", "payloads"),
    [
        (RAW, [b"", b"a", b"\0\xff" * 40]),
        (SYSLOG, [b"<1>1 - " + b"h" * 40 + b" - - - " + SD1, b"<13>hi", b"<13>\xff"]),
        (Payloads.of("json", "a.b"), [b' {"a":{"b":7}}\n', b'{"a":{"b":"' + b"y" * 99 + b'"}}']),
    ],
)
def test_what_was_written_is_read_and_written_again(how: Payloads, payloads: list[bytes]) -> None:
    """Key and time are those of the datagram, and the record of the record is the record."""
    frames, batch = written(how, *payloads)
    rows = KINDS[TELEMETRY].decode(values(*batch.value_list()), BYTES_MAX, of_frames=False)
    assert not rows.reason.any()
    for column in ("key_hi", "key_lo", "at_ns"):
        assert getattr(rows, column).tolist() == getattr(frames, column).tolist()
    if how is not SYSLOG:
        assert rows.size.tolist() == [len(payload.strip()) for payload in payloads]
    again = records.payloads(rows.frames(), Payloads.read_back())
    assert again.value_list() == batch.value_list()
    assert again.key_list() == batch.key_list()


@pytest.mark.parametrize(
    "value",
    [
        b'{"id":"a","seq":1,"data":{},"ts":1}', b'{"id":"a","ts":1}', b'{"id":7,"data":{},"ts":1}',
        b'{"id":"a","data":{},"data_base64":"","ts":1}', b'{"id":"a","data":{},"ts":-1}',
        b'{"id":"a","data":{},"ts":1,"more":1}', b'{"id":"a","data":{},"ts":1.5}', b"", b"[]",
        b'{"id":"a","data":{},"ts":1}x', b'{"id":"a","data_base64":"=","ts":1}', b"\xff",
        b'{"data":{},"ts":1}', b'{"id":"' + b"x" * 256 + b'","data":{},"ts":1}',
        b'{"id":"a","data":' + b"[" * 64 + b"]" * 64 + b',"ts":1}',
        b'{"id":"a","data":{},"ts":9223372036854775807}', b'{"id":"\\ud800","data":{},"ts":1}',
    ],
)  # fmt: skip
def test_what_is_no_record_is_named(value: bytes) -> None:
    """A record of a frame, one that is not closed, and whatever else: `record`."""
    rows = read_back(values(b'{"id":"a","data":{},"ts":1}', value), BYTES_MAX)
    assert rows.reason.tolist() == [0, Reason.RECORD]


@given(st.binary(max_size=40))
def test_any_bytes_are_a_record_or_named(value: bytes) -> None:
    """Nothing is raised."""
    rows = read_back(values(value, b'{"ts":1,"data_base64" : "AA==", "id":"\\u0061"}'), BYTES_MAX)
    assert rows.reason.tolist() == [Reason.RECORD, 0]
    assert (rows.size[1], rows.key_hi[1], rows.key_lo[1]) == (1, ord("a") << 56, 0)


def test_a_record_beyond_any_is_too_large() -> None:
    """What no payload within the limit can become is not taken."""
    value = b'{"id":"a","data":"' + b"x" * 800 + b'","ts":1}'
    assert read_back(values(value), 10).reason.tolist() == [Reason.BODY_TOO_LARGE]
    assert read_back(values(value), 100).reason.tolist() == [0]


def test_plain_python() -> None:
    """Without the compiler the answers are the same."""
    rest_passes(__file__)
