"""Syslog against a reading by regular expressions, the examples of the RFCs, and any bytes."""

from __future__ import annotations

import re
from calendar import monthrange
from typing import cast

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core import syslog
from core.reasons import Reason
from tests.plain import rest_passes

BOM = b"\xef\xbb\xbf"
Parts = tuple[int, int, bytes | None, bytes | None, bytes | None, bytes | None, bytes | None,
              bytes | None, bytes | None]  # fmt: skip
"""Priority, RFC, time, host, app, process, message id, structured data, message."""


def parsed(message: bytes) -> Parts | Reason:
    """Take a message apart that lies between other bytes."""
    around = b"<1>"
    arena = np.frombuffer(bytearray(around + message + around), np.uint8)
    field = np.full(syslog.FIELDS, 77, np.int64)
    found = syslog.parse(arena, len(around), len(message), field)
    if found:
        return Reason(found)
    whole, (priority, rfc, *places) = arena.tobytes(), field.tolist()
    texts = [
        None if begin < 0 else whole[begin:end]
        for begin, end in zip(places[::2], places[1::2], strict=True)
    ]
    return cast("Parts", (priority, rfc, *texts))


STAMP = (
    rb"(?P<y>[0-9]{4})-(?P<m>0[1-9]|1[0-2])-(?P<d>[0-9]{2})T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5]"
    rb"[0-9](?:\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
BSD = (
    rb"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) (?: |(?=[0-9]))(?:0?[1-9]|[12][0-9]|"
    rb"3[01]) (?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
)
NAME = rb"[!#-<>-\\^-~]{1,32}"
ELEMENT = (
    rb"\[" + NAME + rb"(?: " + NAME + rb'="(?:[^"\\\]]|\\["\\\]]|\\(?!["\\\]]))*")*\]'
)  # fmt: skip
HEADER = re.compile(
    rb"(?P<time>-|" + STAMP + rb") (?P<host>[!-~]{1,255}) (?P<app>[!-~]{1,48})"
    rb" (?P<proc>[!-~]{1,128}) (?P<msgid>[!-~]{1,32}) ", re.DOTALL,
)  # fmt: skip
DATA = re.compile(rb"(?P<data>-|(?:" + ELEMENT + rb")+)(?: (?P<message>.*))?", re.DOTALL)
LOOSE = re.compile(rb"(?P<time>" + BSD + rb"|" + STAMP + rb")(?=[ :]|\Z)")
LOOSE_HOST = re.compile(rb"(?P<host>[!-Z\\-~]{0,254}[!-9;-Z\\-~]) ")
TAG = re.compile(
    rb"(?P<app>[!-9;-Z\\-~]{1,48})(?:\[(?P<proc>[!-\\^-~]{1,128})\]:?|:)(?: |\Z)", re.DOTALL
)


def _is_day(match: re.Match[bytes]) -> bool:
    found = match.groupdict()
    if found.get("y") is None:
        return True
    year, month, day = (int(found[name]) for name in "ymd")
    # The year 0, which Python has not, is a leap year.
    return 1 <= day <= monthrange(year or 4, month)[1]


def reference(message: bytes) -> Parts | Reason:
    """Take a message apart as the RFCs word it, and as `core.syslog` says of what is loose."""
    head = re.match(rb"<(0|[1-9][0-9]{0,2})>", message)
    if head is None or int(head[1]) > 191:
        return Reason.SYSLOG_PRIORITY
    priority, rest = int(head[1]), message[head.end() :]
    rest = rest.removesuffix(b"\0").removesuffix(b"\n")
    if re.match(rb"1 (?:[0-9]{4}-|- )", rest):
        return _rfc5424(priority, rest[2:])
    time = host = app = proc = None
    if (match := LOOSE.match(rest)) is not None and _is_day(match):
        time, rest = match["time"], rest[match.end() :]
        after, rest = rest[:1], rest[1:]
        if after == b":":
            rest = rest.removeprefix(b" ")
        elif (named := LOOSE_HOST.match(rest)) is not None:
            host, rest = named["host"], rest[named.end() :]
    if (tag := TAG.match(rest)) is not None:
        app, proc, rest = tag["app"], tag["proc"], rest[tag.end() :]
    return priority, 3164, time, None if host == b"-" else host, app, proc, None, None, rest


def _rfc5424(priority: int, rest: bytes) -> Parts | Reason:
    header = HEADER.match(rest)
    if header is None or not _is_day(header):
        return Reason.SYSLOG_HEADER
    data = DATA.fullmatch(rest, header.end())
    if data is None or not _is_utf8(data["data"]):
        return Reason.SYSLOG_DATA
    names = ("time", "host", "app", "proc", "msgid")
    said = [None if header[name] == b"-" else header[name] for name in names]
    shown = None if data["data"] == b"-" else data["data"]
    return cast("Parts", (priority, 5424, *said, shown, data["message"]))


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


SU = b"'su root' failed for lonvick on /dev/pts/8"
SD1 = b'[exampleSDID@32473 iut="3" eventSource="Application" eventID="1011"]'
SD2 = b'[examplePriority@32473 class="high"]'
SIGNED = b'[sigSig ver="1" rsID="1234" signature="..."]'
ENTRY = b"An application event log entry..."
DONUTS = b"%% It's time to make the do-nuts."
RECIPE = (b"  %%  Ingredients: Mix=OK, Jelly=OK # Devices: Mixer=OK, Jelly_Injector=OK, Frier=OK # "
          b"Transport: Conveyer1=OK, Conveyer2=OK # %%")  # fmt: skip
FOLKS = b"1990 Oct 22 10:52:01 TZ-6 scapegoat.dmz.example.org 10.1.2.3 sched[0]: That's All Folks!"
HOST = b"mymachine.example.com"

EXAMPLES: list[tuple[bytes, Parts | Reason]] = [
    # RFC 5424 §6.5
    (b"<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - " + BOM + SU,
     (34, 5424, b"2003-10-11T22:14:15.003Z", HOST, b"su", None, b"ID47", None, BOM + SU)),
    (b"<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 - - " + DONUTS,
     (165, 5424, b"2003-08-24T05:14:15.000003-07:00", b"192.0.2.1", b"myproc", b"8710", None, None,
      DONUTS)),
    (b"<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 " + SD1 + b" " + BOM
     + ENTRY,
     (165, 5424, b"2003-10-11T22:14:15.003Z", HOST, b"evntslog", None, b"ID47", SD1, BOM + ENTRY)),
    (b"<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 " + SD1 + SD2,
     (165, 5424, b"2003-10-11T22:14:15.003Z", HOST, b"evntslog", None, b"ID47", SD1 + SD2, None)),
    # RFC 3164 §5.4
    (b"<34>Oct 11 22:14:15 mymachine su: " + SU,
     (34, 3164, b"Oct 11 22:14:15", b"mymachine", b"su", None, None, None, SU)),
    (b"Use the BFG!", Reason.SYSLOG_PRIORITY),
    (b"<13>Feb  5 17:32:18 10.0.0.99 Use the BFG!",
     (13, 3164, b"Feb  5 17:32:18", b"10.0.0.99", None, None, None, None, b"Use the BFG!")),
    (b"<165>Aug 24 05:34:00 CST 1987 mymachine myproc[10]: " + DONUTS + RECIPE,
     (165, 3164, b"Aug 24 05:34:00", b"CST", None, None, None, None,
      b"1987 mymachine myproc[10]: " + DONUTS + RECIPE)),
    (b"<0>" + FOLKS, (0, 3164, None, None, None, None, None, None, FOLKS)),
    (b"<0>Oct 22 10:52:12 scapegoat " + FOLKS,
     (0, 3164, b"Oct 22 10:52:12", b"scapegoat", None, None, None, None, FOLKS)),
    # RFC 5424 §6.2.3.1, times that are none; §6.3.5, structured data that is none or odd
    (b"<1>1 2003-08-24T05:14:15.000000003-07:00 h a - - -", Reason.SYSLOG_HEADER),
    (b"<1>1 1985-04-12T19:20:50.52-04:00 h a - - -",
     (1, 5424, b"1985-04-12T19:20:50.52-04:00", b"h", b"a", None, None, None, None)),
    (b"<1>1 - h a - - " + SD1 + b" " + SD2, (1, 5424, None, b"h", b"a", None, None, SD1, SD2)),
    (b"<1>1 - h a - - [ " + SD1[1:], Reason.SYSLOG_DATA),
    (b"<1>1 - h a - - " + SIGNED, (1, 5424, None, b"h", b"a", None, None, SIGNED, None)),
    (b'<1>1 - h a - - [x y="\\"\\\\\\]\\n"] ',
     (1, 5424, None, b"h", b"a", None, None, b'[x y="\\"\\\\\\]\\n"]', b"")),
    (b'<1>1 - h a - - [x y="]"]', Reason.SYSLOG_DATA),
    (b'<1>1 - h a - - [x y="\xff"]', Reason.SYSLOG_DATA),
    (b"<1>1 - h a - - -x", Reason.SYSLOG_DATA),
    # What is seen in the wild
    (b"<13>1 file deleted", (13, 3164, None, None, None, None, None, None, b"1 file deleted")),
    (b"<13>2 2003-10-11T22:14:15Z h a - - -",
     (13, 3164, None, None, None, None, None, None, b"2 2003-10-11T22:14:15Z h a - - -")),
    (b"<13>su[12]: no time\n\0", (13, 3164, None, None, b"su", b"12", None, None, b"no time")),
    (b"<13>Oct 11 22:14:15 su: no host",
     (13, 3164, b"Oct 11 22:14:15", None, b"su", None, None, None, b"no host")),
    (b"<13>Oct 1 22:14:15 - cron: nil",
     (13, 3164, b"Oct 1 22:14:15", None, b"cron", None, None, None, b"nil")),
    (b"<13>2026-01-01T00:00:00+01:00 web-1 nginx: up",
     (13, 3164, b"2026-01-01T00:00:00+01:00", b"web-1", b"nginx", None, None, None, b"up")),
    (b"<189>Oct 11 22:14:15: %SYS-5-CONFIG_I: Configured",
     (189, 3164, b"Oct 11 22:14:15", None, b"%SYS-5-CONFIG_I", None, None, None, b"Configured")),
    (b"<13>", (13, 3164, None, None, None, None, None, None, b"")),
    (b"<191>\xff", (191, 3164, None, None, None, None, None, None, b"\xff")),
    *((text, Reason.SYSLOG_PRIORITY) for text in
      (b"", b"<", b"<>x", b"<1", b"<192>", b"<01>", b"<00>", b"<1234>", b"<-1>", b"< 1>",
       BOM + b"<1>")),
]  # fmt: skip


@pytest.mark.parametrize(("message", "wanted"), EXAMPLES)
def test_examples(message: bytes, wanted: Parts | Reason) -> None:
    """The examples of both RFCs, and what is common in the wild; the reference agrees."""
    assert parsed(message) == wanted
    assert reference(message) == wanted


@pytest.mark.parametrize(("name", "most"), [("host", 255), ("app", 48), ("proc", 128), ("id", 32)])
def test_the_longest_of_each_part(name: str, most: int) -> None:
    """A part of the header may be as long as the RFC says, and not a byte longer."""
    for size in (most, most + 1):
        words = {"host": "-", "app": "-", "proc": "-", "id": "-"} | {name: "x" * size}
        found = parsed(f"<1>1 - {' '.join(words.values())} -".encode())
        assert (found == Reason.SYSLOG_HEADER) == (size > most)


def test_the_longest_datagram() -> None:
    """A message of 64 KiB is taken apart as any other."""
    message = b"<1>1 - h a - - " + b'[x y="' + b"\\]" * 30_000 + b'"] ' + b"z" * 5_000
    assert len(message) <= 65_507
    assert parsed(message) == reference(message)


WORDS = st.sampled_from(
    [b"-", b"host", b"a.b:", b"su[1]:", b"su:", b"x" * 32, b"x" * 33, b"x" * 49, b"y" * 129,
     b"z" * 256, b"\xc3\xa9", b"\xff", b"", b"1", b"\t", b"%A-1-B:", b"[", b"]", b"p[", b"q[]:"]
)  # fmt: skip
TIMES = st.sampled_from(
    [b"-", b"Oct 11 22:14:15", b"Oct  1 22:14:15", b"Oct 1 22:14:15", b"Oct 32 22:14:15",
     b"Feb 30 24:00:00", b"oct 11 22:14:15", b"Oct 11 22:14:15:", b"2003-10-11T22:14:15.003Z",
     b"2003-02-29T22:14:15Z", b"2004-02-29T22:14:15Z", b"2100-02-29T00:00:00Z",
     b"2000-02-29T00:00:00Z", b"0000-02-29T00:00:00Z", b"2003-10-11T22:14:60Z",
     b"2003-10-11 22:14:15", b"2003-10-11T22:14:15.1234567Z", b"2003-10-11T22:14:15.Z",
     b"2003-10-11T22:14:15+25:00", b"2003-10-11T22:14:15+0200", b"2003-10-11t22:14:15z",
     b"2003-13-01T00:00:00Z", b"2003-04-31T00:00:00Z"]
)  # fmt: skip
STRUCTURED = st.sampled_from(
    [b"-", SD1, SD1 + SD2, b"[x]", b"[]", b"[x ]", b"[x y]", b'[x y=""]', b'[x y="', b'[x y="\\"',
     b'[x y="\\"]', b'[x y="a\\b"]', b'[x  y=""]', b"[" + b"x" * 33 + b"]", b'[x y="\xc3"]', b""]
)  # fmt: skip
HEADS = st.sampled_from([b"<1>1 ", b"<191>1 ", b"<13>", b"<13> ", b"<192>", b"<0>", b"<013>1 "])
ENDS = st.sampled_from([b"", b"\n", b"\0", b"\n\0", b"\0\n", b" " + BOM + b"m", b" \xff"])
MESSAGES = st.binary(max_size=40) | st.builds(
    lambda head, time, words, data, end, cut: (
        head + b" ".join([time, *words, data]) + end
    )[:cut],
    HEADS, TIMES, st.lists(WORDS, max_size=5), STRUCTURED, ENDS, st.none() | st.integers(0, 60),
)  # fmt: skip


@given(MESSAGES)
@example(b"<1>Oct 1 22:14:15")
@example(b"<1>Oct 11 22:14:15 ")
@example(b"<1>1 2003-10-11T22:14:15-00:0")
def test_any_bytes_are_what_the_reference_finds(message: bytes) -> None:
    """Every part, or the reason, agrees; no byte beyond the datagram is looked at."""
    assert parsed(message) == reference(message)


def test_plain_python() -> None:
    """Without the compiler the answers are the same."""
    rest_passes(__file__)
