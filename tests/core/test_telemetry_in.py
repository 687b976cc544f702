"""Telemetry read back: what was written comes back, whoever laid it out; anything else is named."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core import records
from core.reading_kernels import OTHER, TIME_NS_MAX, read_telemetry
from core.readings import Readings
from core.reasons import Reason
from core.telemetry_in import reading, telemetry
from core.topics import TELEMETRY
from tests.core.test_records import BODIES, DEVICES
from tests.frames import device_batch
from tests.plain import rest_passes
from tests.readings import values
from tests.schemas import validator

LIMIT = 65_485
FRAMES = st.tuples(DEVICES, st.integers(0, 2**32 - 1), BODIES, st.integers(0, TIME_NS_MAX))
KEEPS = validator(TELEMETRY, "frame")

Said = tuple[bytes, int, bytes, int]
"""Id, sequence number, body and time of a record."""


def written(rows: list[Said]) -> list[bytes]:
    """Return frames as the values of their records."""
    return records.telemetry(device_batch(rows)).value_list()


def said(rows: Readings, i: int) -> Said:
    """Return what a row says."""
    key = int(rows.key_hi[i]) << 64 | int(rows.key_lo[i])
    begin = int(rows.body[i])
    body = rows.arena[begin : begin + int(rows.body_len[i])].tobytes()
    return key.to_bytes(16, "big").rstrip(b"\0"), int(rows.seq[i]), body, int(rows.at_ns[i])


def read(value: bytes, body_bytes_max: int = LIMIT) -> Said | Reason:
    """Read one record that lies between others."""
    rows = telemetry(values(b'{"id":"x"', value, b'"}'), body_bytes_max)
    assert rows.reason[[0, 2]].tolist() == [Reason.RECORD, Reason.RECORD]
    return said(rows, 1) if rows.reason[1] == 0 else Reason(rows.reason[1])


@given(st.lists(FRAMES, max_size=6))
@example([(b'a"\\\x01', 1, b" {}\n", 2), (b"a", 1, b"null", 2), (b"a", 1, b" null ", 2)])
def test_what_was_written_comes_back(frames: list[Said]) -> None:
    """A frame is read as it was: white space round its body too; a body of `null` is none."""
    rows = telemetry(values(*written(frames)), LIMIT)
    assert not rows.reason.any()
    for i, (device, seq, body, at_ns) in enumerate(frames):
        assert said(rows, i) == (device, seq, b"" if body == b"null" else body, at_ns)
    assert rows.size.tolist() == rows.body_len.tolist()


def in_any_layout(frame: Said, order: tuple[int, ...], space: str, ascii_only: bool) -> bytes:
    """Write a frame as another JSON library might."""
    device, seq, body, at_ns = frame
    members = [
        '"id"', json.dumps(device.decode(), ensure_ascii=ascii_only), '"seq"', str(seq),
        '"data"', (body or b"null").decode("utf-8", "surrogatepass"), '"ts"', str(at_ns),
    ]  # fmt: skip
    pairs = [f"{space}:{space}".join(members[2 * i : 2 * i + 2]) for i in order]
    return (space + "{" + f"{space},{space}".join(pairs) + "}" + space).encode()


LAYOUTS = st.tuples(
    st.permutations(range(4)).map(tuple), st.sampled_from(["", " ", "\n\t"]), st.booleans()
)


@given(FRAMES, LAYOUTS)
def test_layouts_do_not_matter(frame: Said, layout: Any) -> None:
    """Another order, white space and escapes say the same; white space round the body is free."""
    value = in_any_layout(frame, *layout)
    found = read(value)
    device, seq, body, at_ns = frame
    assert not isinstance(found, Reason), value
    space = b" \t\r\n"
    body = b"" if body.strip(space) == b"null" and found[2] == b"" else body
    assert (*found[:2], found[2].strip(space), found[3]) == (device, seq, body.strip(space), at_ns)


GOOD = b'{"id":"dev-1","seq":7,"data":{"a":1},"ts":1767225600005937259}'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"59}", b'59,"more":1}'), (b'"seq":7,', b""), (b'"seq":7', b'"seq":"7"'), (b":7", b":7.0"),
        (b":7", b":-1"), (b":7", b":4294967296"), (b":7", b":07"), (b":7", b":true"),
        (b":7", b":7e0"), (b'"dev-1"', b'"seventeen-letters"'), (b'"dev-1"', b'"\\u0000"'),
        (b'"dev-1"', b'"\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9"'),
        (b'"dev-1"', b'"\xff"'), (b'"dev-1"', b'"\\ud800"'), (b'"dev-1"', b"null"),
        (b'"dev-1"', b'"\x01"'), (b"1767225600005937259", b"-1"), (b'{"a":1}', b""),
        (b"1767225600005937259", b"9999999999999999999"), (b'{"a":1}', b"{'a':1}"),
        (b"1767225600005937259", b"99999999999999999999999"), (b'{"a":1}', b'"\xff"'),
        (b'{"a":1}', b"NaN"), (b'{"a":1}', b'1,"data":2'), (b'{"a":1}', b"[" * 65 + b"]" * 65),
        (b'{"a":1}', b"[" * 100_000), (b'{"a":1}', b"1" * 5000), (b"{", b"\xef\xbb\xbf{"),
        (b'"id"', b'"ID"'), (b'"ts":1767225600005937259', b'"ts":"2026-01-01"'), (GOOD, b""),
        (GOOD, b"null"), (GOOD, b"[]"), (GOOD, GOOD + GOOD), (GOOD, b"\x00"),
    ],
)  # fmt: skip
def test_what_is_no_record_is_named(old: bytes, new: bytes) -> None:
    """Anything but the closed object of the schema is a malformed record."""
    assert read(GOOD) == (b"dev-1", 7, b'{"a":1}', 1767225600005937259)
    value = GOOD.replace(old, new, 1)
    found = read(value)
    if new == b'1,"data":2':  # a name twice: the last one counts, as with most libraries
        assert not isinstance(found, Reason)
        assert found[2] == b"2"
    else:
        assert found == Reason.RECORD


@pytest.mark.parametrize("space", [b"", b" "])
def test_bodies_keep_their_limit(space: bytes) -> None:
    """A body over `frame.body_bytes_max` is too large, in our layout and in any other."""
    value = space + b'{"id":"d","seq":1,"data":"123456","ts":5}'
    assert read(value, 8) == (b"d", 1, b'"123456"', 5)
    assert read(value, 7) == Reason.BODY_TOO_LARGE
    assert read(space + b'{"id":"d","seq":1,"data":null,"ts":5}', 0) == (b"d", 1, b"", 5)


PIECES = st.sampled_from(
    [b'{"id":"', b"d", b'","seq":', b"7", b',"data":', b"{}", b',"ts":', b"5", b"}", b'"', b"\\",
     b" ", b"null", b"\xff", b"0", b"-", b",", b"1" * 19, b"\0", b"[", b"]"]
)  # fmt: skip
SPLICES = st.lists(PIECES, max_size=14).map(b"".join)


@given(st.binary(max_size=60) | SPLICES | st.tuples(st.integers(0, 61), st.binary(max_size=3)).map(
    lambda change: GOOD[: change[0]] + change[1] + GOOD[change[0] + 1 :]))  # fmt: skip
def test_any_bytes_are_a_record_or_named(value: bytes) -> None:
    """Whatever is taken keeps the schema; and what our loop takes, a JSON library reads alike."""
    found = read(value)
    if isinstance(found, Reason):
        return
    KEEPS.validate(json.loads(value))
    said_by_library = reading(value)
    assert said_by_library is not None
    assert tuple(said_by_library) == (found[0], found[1], found[3], found[2])


@given(st.lists(FRAMES, min_size=1, max_size=4))
def test_our_layout_needs_no_library(frames: list[Said]) -> None:
    """Records as we write them are read by the loop, but for ids with escapes."""
    rows = Readings.of(values(*written(frames)))
    read_telemetry(
        rows.arena, rows.start, rows.length, LIMIT, rows.reason, rows.key_hi, rows.key_lo,
        rows.seq, rows.body, rows.body_len, rows.at_ns,
    )  # fmt: skip
    for reason, value in zip(rows.reason, written(frames), strict=True):
        assert (reason == OTHER) == (b"\\" in value.split(b'","seq":')[0])


@given(st.lists(st.tuples(FRAMES, st.booleans()), max_size=6), st.lists(st.integers(0, 6)))
def test_cuts_do_not_matter(frames: list[tuple[Said, bool]], cuts: list[int]) -> None:
    """Records are read alike, alone and with others."""
    held = [b" " * other + value for value, (_, other) in
            zip(written([frame for frame, _ in frames]), frames, strict=True)]  # fmt: skip
    ends = [0, *sorted(min(cut, len(held)) for cut in cuts), len(held)]
    whole = telemetry(values(*held), LIMIT)
    parts = [telemetry(values(*held[a:b]), LIMIT) for a, b in itertools.pairwise(ends)]
    found = [said(part, i) for part in parts for i in range(len(part))]
    assert found == [said(whole, i) for i in range(len(held))]


def test_plain_python() -> None:
    """Without the compiler the answers are the same."""
    rest_passes(__file__)
