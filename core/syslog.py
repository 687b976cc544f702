"""Syslog datagrams: where in one its fields lie, by RFC 5424 or, for whatever else, by RFC 3164.

Laws:

1. Any bytes are a message, or one reason why not. A message begins with its priority, 0 … 191.
2. What goes on with version 1 and a year, or no time, claims to be of RFC 5424 and is held to it.
   Anything else is of RFC 3164, which in the wild is loose: what is not there is not made up, and
   what is not understood is the message.
3. Nothing is rewritten, but that one NUL and one line feed at the end of a datagram are taken off,
   as other collectors do: they end a message and are no part of it.
4. A message may be of any octets; so it may be no text.

By RFC 3164 the word after the time is the host, unless it looks like a tag: it ends in a colon, or
has a bracket. A host without a time before it is not looked for. A tag is a word that a colon
follows, or a process id in brackets.

Not here: who sent what has no host (`core.payloads`), and JSON (`core.payload_out`).

Source: RFC 5424 §6; RFC 3164 §4; RFC 3629.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.body import utf8_valid
from core.kernels import A_i8, A_u1, i8, kernel, none
from core.reasons import Reason

PRIORITY_MAX = 191

# What is known of a message: its priority, the RFC it follows, and of each part where it begins and
# ends; a part that is not there, or said to be nothing, begins at -1.
PRIORITY, RFC = 0, 1
TIME, HOST, APP, PROC, MSGID, DATA, MESSAGE = range(2, 16, 2)
FIELDS = 16

HOST_MAX, APP_MAX, PROC_MAX, MSGID_MAX, NAME_MAX = 255, 48, 128, 32, 32
"""Longest of each, in bytes (RFC 5424 §6)."""

_BAD_PRIORITY, _BAD_HEADER = int(Reason.SYSLOG_PRIORITY), int(Reason.SYSLOG_HEADER)
_BAD_DATA = int(Reason.SYSLOG_DATA)

_LESS, _GREATER, _SP, _DASH, _COLON, _POINT = 0x3C, 0x3E, 0x20, 0x2D, 0x3A, 0x2E
_OPEN, _CLOSE, _QUOTE, _EQUALS, _BACKSLASH = 0x5B, 0x5D, 0x22, 0x3D, 0x5C
_ZERO, _NINE, _PLUS, _T, _Z, _LF = 0x30, 0x39, 0x2B, 0x54, 0x5A, 0x0A
_MONTHS = np.frombuffer(b"JanFebMarAprMayJunJulAugSepOctNovDec", np.uint8)
_DAYS = np.array([31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])


@kernel(i8(A_u1, i8, i8, i8), inline=True)
def _digits(buf: Any, at: Any, end: Any, count: Any) -> Any:
    """Read so many digits; -1 when they are not there."""
    if at + count > end:
        return -1
    value = 0
    for i in range(at, at + count):
        digit = int(buf[i]) - _ZERO
        if digit < 0 or digit > 9:
            return -1
        value = value * 10 + digit
    return value


@kernel(i8(A_u1, i8, i8), inline=True)
def _octet(buf: Any, at: Any, end: Any) -> Any:
    """Return the byte at a position, or -1 beyond the end."""
    return int(buf[at]) if at < end else -1


@kernel(i8(A_u1, i8, i8))
def _clock(buf: Any, at: Any, end: Any) -> Any:
    """Return the position after `hh:mm:ss`, or -1."""
    hour, minute = _digits(buf, at, end, 2), _digits(buf, at + 3, end, 2)
    second = _digits(buf, at + 6, end, 2)
    if hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 59:
        return -1
    return at + 8 if buf[at + 2] == _COLON and buf[at + 5] == _COLON else -1


@kernel(i8(A_u1, i8, i8))
def _timestamp(buf: Any, at: Any, end: Any) -> Any:
    """Return the position after a time as RFC 5424 has it, or -1.

    Source: RFC 5424 §6.2.3; RFC 3339 §5.7 (days of a month).
    """
    year, month = _digits(buf, at, end, 4), _digits(buf, at + 5, end, 2)
    day = _digits(buf, at + 8, end, 2)
    if year < 0 or month < 1 or month > 12 or day < 1 or day > _DAYS[month - 1]:
        return -1
    if month == 2 and day == 29 and (year % 4 != 0 or (year % 100 == 0 and year % 400 != 0)):
        return -1
    if buf[at + 4] != _DASH or buf[at + 7] != _DASH or _octet(buf, at + 10, end) != _T:
        return -1
    at = _clock(buf, at + 11, end)
    if at < 0:
        return -1
    if _octet(buf, at, end) == _POINT:
        first = at + 1
        at = first
        while at < end and at - first < 6 and _ZERO <= buf[at] <= _NINE:
            at += 1
        if at == first:
            return -1
    zone = _octet(buf, at, end)
    if zone == _Z:
        return at + 1
    hour, minute = _digits(buf, at + 1, end, 2), _digits(buf, at + 4, end, 2)
    if zone not in (_PLUS, _DASH) or hour < 0 or hour > 23 or minute < 0 or minute > 59:
        return -1
    return at + 6 if buf[at + 3] == _COLON else -1


@kernel(i8(A_u1, i8, i8))
def _bsd_time(buf: Any, at: Any, end: Any) -> Any:
    """Return the position after `Mmm dd hh:mm:ss`, or -1; the day may be of one digit.

    Source: RFC 3164 §4.1.2.
    """
    if at + 14 > end or buf[at + 3] != _SP:
        return -1
    month = 0
    while month < 36:
        if (
            buf[at] == _MONTHS[month]
            and buf[at + 1] == _MONTHS[month + 1]
            and buf[at + 2] == _MONTHS[month + 2]
        ):
            break
        month += 3
    if month == 36:
        return -1
    at += 5 if buf[at + 4] == _SP else 4
    size = 2 if _digits(buf, at, end, 2) >= 0 else 1
    day = _digits(buf, at, end, size)
    if day < 1 or day > 31 or _octet(buf, at + size, end) != _SP:
        return -1
    return _clock(buf, at + size + 1, end)


@kernel(i8(A_u1, i8, i8, i8), inline=True)
def _word(buf: Any, at: Any, end: Any, most: Any) -> Any:
    """Return the position after printable ASCII without space, or -1: none, or more than `most`."""
    begin = at
    while at < end and 0x21 <= buf[at] <= 0x7E:
        at += 1
    return at if 0 < at - begin <= most else -1


@kernel(i8(A_u1, i8, i8, i8, A_i8, i8), inline=True)
def _header_field(buf: Any, at: Any, end: Any, most: Any, field: Any, which: Any) -> Any:
    """Take one word and the space after it; return the position after both, or -1."""
    if at < 0:
        return -1
    stop = _word(buf, at, end, most)
    if stop < 0 or _octet(buf, stop, end) != _SP:
        return -1
    if stop - at > 1 or buf[at] != _DASH:
        field[which], field[which + 1] = at, stop
    return stop + 1


@kernel(i8(A_u1, i8, i8))
def name_end(buf: Any, at: Any, end: Any) -> Any:
    """Return the position after a name of structured data, or -1 (RFC 5424 §6.3: SD-NAME)."""
    begin = at
    while at < end and 0x21 <= buf[at] <= 0x7E and buf[at] not in (_EQUALS, _CLOSE, _QUOTE):
        at += 1
    return at if 0 < at - begin <= NAME_MAX else -1


@kernel(i8(A_u1, i8, i8))
def value_end(buf: Any, at: Any, end: Any) -> Any:
    r"""Return where the quote after a value of structured data is, or -1.

    Source: RFC 5424 §6.3.3: a backslash before anything but `"`, `\` and `]` is itself.
    """
    while at < end and buf[at] != _QUOTE:
        if buf[at] == _CLOSE:
            return -1
        if buf[at] == _BACKSLASH and _octet(buf, at + 1, end) in (_QUOTE, _BACKSLASH, _CLOSE):
            at += 1
        at += 1
    return at if at < end else -1


@kernel(i8(A_u1, i8, i8))
def _data_end(buf: Any, at: Any, end: Any) -> Any:
    """Return the position after structured data, or -1."""
    while _octet(buf, at, end) == _OPEN:
        at = name_end(buf, at + 1, end)
        while at >= 0 and _octet(buf, at, end) == _SP:
            at = name_end(buf, at + 1, end)
            if at < 0 or _octet(buf, at, end) != _EQUALS or _octet(buf, at + 1, end) != _QUOTE:
                return -1
            at = value_end(buf, at + 2, end)
            if at < 0:
                return -1
            at += 1
        if at < 0 or _octet(buf, at, end) != _CLOSE:
            return -1
        at += 1
    return at


@kernel(i8(A_u1, i8, i8, A_i8))
def _rfc5424(buf: Any, at: Any, end: Any, field: Any) -> Any:
    """Take a message apart from its time on; return a reason, or 0."""
    field[RFC] = 5424
    if buf[at] == _DASH:
        stop = at + 1
    else:
        stop = _timestamp(buf, at, end)
        field[TIME], field[TIME + 1] = at, stop
    if stop < 0 or _octet(buf, stop, end) != _SP:
        return _BAD_HEADER
    at = _header_field(buf, stop + 1, end, HOST_MAX, field, HOST)
    at = _header_field(buf, at, end, APP_MAX, field, APP)
    at = _header_field(buf, at, end, PROC_MAX, field, PROC)
    at = _header_field(buf, at, end, MSGID_MAX, field, MSGID)
    if at < 0:
        return _BAD_HEADER
    stop = at + 1
    if _octet(buf, at, end) != _DASH:
        stop = _data_end(buf, at, end)
        if stop <= at or not utf8_valid(buf, at, stop - at):
            return _BAD_DATA
        field[DATA], field[DATA + 1] = at, stop
    if stop == end:
        return 0
    if buf[stop] != _SP:
        return _BAD_DATA
    field[MESSAGE], field[MESSAGE + 1] = stop + 1, end
    return 0


@kernel(i8(A_u1, i8, i8, A_i8))
def _tag(buf: Any, at: Any, end: Any, field: Any) -> Any:
    """Take a tag, if one is there; return where the message begins."""
    stop = at
    while stop < end and 0x21 <= buf[stop] <= 0x7E and buf[stop] not in (_COLON, _OPEN):
        stop += 1
    if stop == at or stop - at > APP_MAX:
        return at
    after = stop
    if _octet(buf, stop, end) == _OPEN:
        after = stop + 1
        while after < end and 0x21 <= buf[after] <= 0x7E and buf[after] != _CLOSE:
            after += 1
        size = after - stop - 1
        if _octet(buf, after, end) != _CLOSE or size == 0 or size > PROC_MAX:
            return at
        after += 1
    if after == stop and _octet(buf, after, end) != _COLON:
        return at
    proc_end = after - 1
    if _octet(buf, after, end) == _COLON:
        after += 1
    if after < end and buf[after] != _SP:
        return at
    field[APP], field[APP + 1] = at, stop
    if proc_end > stop:
        field[PROC], field[PROC + 1] = stop + 1, proc_end
    return min(after + 1, end)


@kernel(none(A_u1, i8, i8, A_i8))
def _rfc3164(buf: Any, at: Any, end: Any, field: Any) -> None:
    """Take a message apart from what comes after its priority on, as far as it can be."""
    field[RFC] = 3164
    stop = _bsd_time(buf, at, end)
    if stop < 0:
        stop = _timestamp(buf, at, end)
    after = _octet(buf, stop, end) if stop >= 0 else 0
    if after in (_SP, _COLON, -1):
        field[TIME], field[TIME + 1] = at, stop
        at = min(stop + 1, end)
        if after == _COLON:
            at = at + 1 if _octet(buf, at, end) == _SP else at
        else:
            stop = _word(buf, at, end, HOST_MAX)
            is_host = stop >= 0 and _octet(buf, stop, end) == _SP and buf[stop - 1] != _COLON
            for i in range(at, stop if is_host else at):
                is_host = is_host and buf[i] != _OPEN
            if is_host:
                at = _header_field(buf, at, end, HOST_MAX, field, HOST)
    at = _tag(buf, at, end, field)
    field[MESSAGE], field[MESSAGE + 1] = at, end


@kernel(i8(A_u1, i8, i8, A_i8))
def parse(buf: Any, start: Any, size: Any, field: Any) -> Any:
    """Find the fields of a datagram.

    Args:
        buf: `uint8`.
        start: Where the datagram begins.
        size: Its bytes.
        field: `(FIELDS,) int64`; written: priority, RFC, and where the parts begin and end.

    Returns:
        0, or the `Reason` why it is no message; `field` then means nothing.
    """
    field[:] = -1
    end = start + size
    at = start + 1
    while at < end and at < start + 4 and _ZERO <= buf[at] <= _NINE:
        at += 1
    count = at - start - 1
    if _octet(buf, start, end) != _LESS or _octet(buf, at, end) != _GREATER or count < 1:
        return _BAD_PRIORITY
    field[PRIORITY] = _digits(buf, start + 1, end, count)
    if field[PRIORITY] > PRIORITY_MAX or (count > 1 and buf[start + 1] == _ZERO):
        return _BAD_PRIORITY
    at += 1
    if end > at and buf[end - 1] == 0:
        end -= 1
    if end > at and buf[end - 1] == _LF:
        end -= 1
    if _octet(buf, at, end) == _ZERO + 1 and _octet(buf, at + 1, end) == _SP:
        year = _digits(buf, at + 2, end, 4) >= 0 and _octet(buf, at + 6, end) == _DASH
        nil = _octet(buf, at + 2, end) == _DASH and _octet(buf, at + 3, end) == _SP
        if year or nil:
            return _rfc5424(buf, at + 2, end, field)
    _rfc3164(buf, at, end, field)
    return 0
