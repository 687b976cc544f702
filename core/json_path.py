"""A member of a JSON object by its path, in bytes that are known to be sound.

Laws:

1. What is walked is one strict JSON value (`core.body` judges that first). Nothing is built, and
   nothing recurses.
2. Names are compared as the text they stand for, whatever escapes they are written with. Of members
   of one name the last counts, as most JSON libraries have it.
3. A string is taken as its text, a number as it is written: `7` and `"7"` are one text, `7` and
   `7.0` are two.

Source: RFC 8259 §4, §7.
"""

from __future__ import annotations

from typing import Any

from core.kernels import A_i8, A_u1, b1, i8, kernel

MISSING, INVALID = -1, -2
"""No such member; neither text nor number, or too long."""

_QUOTE, _BACKSLASH, _COMMA = 0x22, 0x5C, 0x2C
_OPEN, _CLOSE, _OPEN_LIST, _CLOSE_LIST = 0x7B, 0x7D, 0x5B, 0x5D
_MINUS, _ZERO, _NINE, _U = 0x2D, 0x30, 0x39, 0x75
_SPACE = 0x20


@kernel(i8(A_u1, i8), inline=True)
def _skip_space(buf: Any, at: Any) -> Any:
    while buf[at] <= _SPACE:
        at += 1
    return at


@kernel(i8(A_u1, i8), inline=True)
def _skip_string(buf: Any, at: Any) -> Any:
    """Return the position after the string whose opening quote is at `at`."""
    at += 1
    while buf[at] != _QUOTE:
        at += 2 if buf[at] == _BACKSLASH else 1
    return at + 1


@kernel(i8(A_u1, i8))
def _skip_value(buf: Any, at: Any) -> Any:
    """Return the position after a value within an object."""
    depth = 0
    while True:
        octet = buf[at]
        if octet == _QUOTE:
            at = _skip_string(buf, at)
            if depth == 0:
                return at
        elif octet in (_OPEN, _OPEN_LIST):
            depth += 1
            at += 1
        elif octet in (_CLOSE, _CLOSE_LIST):
            if depth == 0:
                return at  # of what the value, a number or a word, stood in
            depth -= 1
            at += 1
            if depth == 0:
                return at
        elif depth == 0 and octet in (_COMMA, _SPACE, 0x09, 0x0A, 0x0D):
            return at
        else:
            at += 1


@kernel(i8(A_u1, i8), inline=True)
def _hex4(buf: Any, at: Any) -> Any:
    """Read four hexadecimal digits."""
    value = 0
    for i in range(at, at + 4):
        octet = int(buf[i])
        value = value << 4 | (octet - _ZERO if octet <= _NINE else (octet & 0xDF) - 55)
    return value


@kernel(i8(A_u1, i8, i8))
def _write_utf8(out: Any, at: Any, code: Any) -> Any:
    """Write one character from U+0080 on, or below; return the position after it."""
    if code < 0x80:
        out[at] = code
        return at + 1
    if code < 0x800:
        out[at] = 0xC0 | code >> 6
        out[at + 1] = 0x80 | code & 0x3F
        return at + 2
    if code < 0x10000:
        out[at] = 0xE0 | code >> 12
        out[at + 1] = 0x80 | code >> 6 & 0x3F
        out[at + 2] = 0x80 | code & 0x3F
        return at + 3
    out[at] = 0xF0 | code >> 18
    out[at + 1] = 0x80 | code >> 12 & 0x3F
    out[at + 2] = 0x80 | code >> 6 & 0x3F
    out[at + 3] = 0x80 | code & 0x3F
    return at + 4


@kernel(i8(i8), inline=True)
def _unescaped(letter: Any) -> Any:
    """Return what a letter after a backslash stands for, other than `u`."""
    if letter == 0x62:
        return 0x08
    if letter == 0x66:
        return 0x0C
    if letter == 0x6E:
        return 0x0A
    if letter == 0x72:
        return 0x0D
    if letter == 0x74:
        return 0x09
    return letter


@kernel(i8(A_u1, i8, A_u1, i8, i8))
def _write_string(buf: Any, at: Any, out: Any, out_at: Any, most: Any) -> Any:
    """Write the text of the string whose opening quote is at `at`, at most so many bytes of it.

    Returns:
        The position after what was written, or `INVALID` when it is longer. Three bytes more than
        `most` may be touched.
    """
    begin = out_at
    at += 1
    while buf[at] != _QUOTE:
        if out_at - begin >= most:
            return INVALID
        octet = int(buf[at])
        if octet != _BACKSLASH:
            out[out_at] = octet
            out_at += 1
            at += 1
        elif buf[at + 1] != _U:
            out[out_at] = _unescaped(int(buf[at + 1]))
            out_at += 1
            at += 2
        else:
            code = _hex4(buf, at + 2)
            at += 6
            if 0xD800 <= code < 0xDC00:  # the other half of the pair follows
                code = 0x10000 + ((code - 0xD800) << 10) + (_hex4(buf, at + 2) - 0xDC00)
                at += 6
            out_at = _write_utf8(out, out_at, code)
    return out_at if out_at - begin <= most else INVALID


@kernel(b1(A_u1, i8, i8, A_u1, i8, i8, A_u1))
def _is_named(
    buf: Any, at: Any, end: Any, path: Any, begin: Any, path_end: Any, scratch: Any
) -> Any:
    """Tell whether the string from quote to quote is a segment of the path."""
    size = path_end - begin
    start = at + 1
    if end - at - 2 != size:
        # Escapes make a name longer, and hardly any name has one.
        escaped = False
        for i in range(start, end - 1):
            escaped = escaped or buf[i] == _BACKSLASH
        if not escaped or _write_string(buf, at, scratch, 0, size) != size:
            return False
        same = True
        for i in range(size):
            same = same and scratch[i] == path[begin + i]
        return same
    for i in range(size):
        if buf[start + i] != path[begin + i] or buf[start + i] == _BACKSLASH:
            return False
    return True


@kernel(i8(A_u1, i8, A_u1, A_i8, A_u1))
def _find(buf: Any, at: Any, path: Any, path_end: Any, scratch: Any) -> Any:
    """Return where the value of a path begins, or `MISSING`."""
    begin = 0
    for segment in range(path_end.size):
        at = _skip_space(buf, at)
        if buf[at] != _OPEN:
            return MISSING
        at = _skip_space(buf, at + 1)
        found = MISSING
        while buf[at] != _CLOSE:
            name = at
            name_end = _skip_string(buf, at)
            at = _skip_space(buf, name_end)  # the colon
            at = _skip_space(buf, at + 1)
            if _is_named(buf, name, name_end, path, begin, path_end[segment], scratch):
                found = at
            at = _skip_space(buf, _skip_value(buf, at))
            if buf[at] == _COMMA:
                at = _skip_space(buf, at + 1)
        if found == MISSING:
            return MISSING
        at = found
        begin = path_end[segment]
    return at


@kernel(i8(A_u1, i8, A_u1, A_i8, A_u1, A_u1, i8, i8))
def write_member(
    buf: Any, at: Any, path: Any, path_end: Any, scratch: Any, out: Any, out_at: Any, most: Any
) -> Any:
    """Write the text of a member: a string without its escapes, or a number as it stands.

    Args:
        buf: `uint8`.
        at: Where one strict JSON value, or white space before it, begins.
        path: `uint8`; the names on the way to the member, as UTF-8, one after another.
        path_end: `(n,) int64`; where each ends.
        scratch: `uint8`; overwritten; room for `path.size + 3` bytes.
        out: `uint8`; room for `most + 3` bytes at `out_at`.
        out_at: Where to write.
        most: Longest text taken.

    Returns:
        The position after the text, `MISSING`, or `INVALID`: the value is another, or longer.
    """
    at = _find(buf, at, path, path_end, scratch)
    if at < 0:
        return MISSING
    octet = int(buf[at])
    if octet == _QUOTE:
        return _write_string(buf, at, out, out_at, most)
    if octet != _MINUS and not _ZERO <= octet <= _NINE:
        return INVALID
    size = _skip_value(buf, at) - at
    if size > most:
        return INVALID
    for i in range(size):
        out[out_at + i] = buf[at + i]
    return out_at + size
