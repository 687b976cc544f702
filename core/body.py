r"""Is this body one strict JSON value? A table that judges bytes without building anything.

Laws:

1. Any bytes give yes or no, in one pass of one table look-up a byte, so that no body is slow to
   refuse. Nothing recurses: containers are counted, and their kinds are bits of a `uint64`.
2. Yes means RFC 8259 to the letter: exactly one value, the four whitespace bytes round it, no
   byte-order mark, valid UTF-8, no `NaN` or `Infinity`, no bare control character in a string.
3. Yes also means that JSON libraries can read it: containers nest at most `DEPTH_MAX` deep, every
   `\uD800` … `\uDFFF` escape is half of a pair, as I-JSON demands, and no number has more than
   `DIGITS_MAX` digits in a row, which Python refuses to read.

The grammar is written below as rules "in this state, on these bytes, go to that state". The same
value has states of its own at the top, in an object and in an array, because what may follow it
differs. Only brackets need more than the table: they lead to actions, which keep the bits.

Not here: member names are not compared, so duplicates are accepted as RFC 8259 accepts them, and
the range of a number is that of the grammar: what a double cannot hold, as 1e999, some libraries
refuse. An empty body is no JSON value; that it is allowed all the same is the business of
`core.frame`.

Source: RFC 8259; RFC 3629 §4 (UTF-8); RFC 7493 §2.1 (I-JSON, surrogates).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from core.kernels import A_u1, b1, i8, kernel, u8

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEPTH_MAX = 64
"""Containers inside containers; one bit each."""
DIGITS_MAX = 4300
"""Digits in a row; the limit of Python (`sys.int_info.default_max_str_digits`)."""

_SPACE = b" \t\n\r"
_DIGITS = b"0123456789"
_HEX = b"0123456789abcdefABCDEF"
_TAIL = range(0x80, 0xC0)

_ACCEPTED = ("top after", "top zero", "top integer", "top fraction", "top exponent")
_ACTIONS = ("open object", "open array", "close", "bad")


class _Rules:
    """State → byte → next state; a byte without a rule is bad."""

    def __init__(self) -> None:
        self.next: dict[str, dict[int, str]] = {}

    def on(self, state: str, octets: Iterable[int], then: str) -> None:
        self.next.setdefault(state, {}).update(dict.fromkeys(octets, then))

    def utf8(self, text: str) -> None:
        """Sequences of two to four bytes that come back to `text`; RFC 3629 §4 gives the ranges."""
        one, two, three = (f"{text}, {left} to come" for left in (1, 2, 3))
        self.on(one, _TAIL, text)
        self.on(two, _TAIL, one)
        self.on(three, _TAIL, two)
        self.on(text, range(0xC2, 0xE0), one)
        self.on(text, range(0xE1, 0xF0), two)
        self.on(text, range(0xF1, 0xF4), three)
        # The second byte of these leads is held shorter: no overlong forms, no surrogates, no end.
        for lead, second, then in (
            (0xE0, range(0xA0, 0xC0), one),
            (0xED, range(0x80, 0xA0), one),
            (0xF0, range(0x90, 0xC0), two),
            (0xF4, range(0x80, 0x90), two),
        ):
            self.on(text, [lead], f"{text}, {lead:x}")
            self.on(f"{text}, {lead:x}", second, then)

    def string(self, text: str, after: str) -> None:
        """The inside of a string, its closing quote, and its escapes (RFC 8259 §7)."""
        self.on(text, (c for c in range(0x20, 0x80) if c not in b'"\\'), text)
        self.utf8(text)
        self.on(text, b'"', after)
        self.on(text, b"\\", f"{text} \\")
        self.on(f"{text} \\", b'"\\/bfnrt', text)
        self.on(f"{text} \\", b"u", f"{text} \\u")
        self.on(f"{text} \\u", _HEX, f"{text} \\ux")
        self.on(f"{text} \\ux", _HEX, f"{text} \\uxx")
        self.on(f"{text} \\uxx", _HEX, f"{text} \\uxxx")
        self.on(f"{text} \\uxxx", _HEX, text)
        # D800 … DBFF must be followed by the escape of DC00 … DFFF, which may not stand alone.
        self.on(f"{text} \\u", b"dD", f"{text} \\ud")
        self.on(f"{text} \\ud", b"01234567", f"{text} \\uxx")
        self.on(f"{text} \\ud", b"89abAB", f"{text} high")
        self.on(f"{text} high", _HEX, f"{text} high x")
        self.on(f"{text} high x", _HEX, f"{text} high xx")
        self.on(f"{text} high xx", b"\\", f"{text} high xx\\")
        self.on(f"{text} high xx\\", b"u", f"{text} high xx\\u")
        self.on(f"{text} high xx\\u", b"dD", f"{text} low")
        self.on(f"{text} low", b"cdefCDEF", f"{text} \\uxx")

    def number(self, start: str, place: str) -> None:
        """A number from its first byte on (RFC 8259 §6); it ends where something else may come."""
        zero, integer, fraction, exponent = (
            f"{place} {part}" for part in ("zero", "integer", "fraction", "exponent")
        )
        for state in (zero, integer, fraction, exponent):
            self.next[state] = dict(self.next[f"{place} after"])
        for state in (start, f"{place} minus"):
            self.on(state, b"0", zero)
            self.on(state, b"123456789", integer)
        self.on(start, b"-", f"{place} minus")
        self.on(integer, _DIGITS, integer)
        for state in (zero, integer):
            self.on(state, b".", f"{place} point")
        for state in (f"{place} point", fraction):
            self.on(state, _DIGITS, fraction)
        for state in (zero, integer, fraction):
            self.on(state, b"eE", f"{place} e")
        self.on(f"{place} e", b"+-", f"{place} e sign")
        for state in (f"{place} e", f"{place} e sign", exponent):
            self.on(state, _DIGITS, exponent)

    def value(self, start: str, place: str) -> None:
        """Whitespace, then any value that begins in state `start` and ends in `place after`."""
        self.on(start, _SPACE, start)
        self.on(start, b"{", "open object")
        self.on(start, b"[", "open array")
        self.on(start, b'"', f"{place} string")
        self.string(f"{place} string", f"{place} after")
        self.number(start, place)
        for word in ("true", "false", "null"):
            states = [start, *(f"{place} {word[:n]}" for n in range(1, 5))][: len(word)]
            for state, letter, then in zip(
                states, word.encode(), [*states[1:], f"{place} after"], strict=True
            ):
                self.on(state, [letter], then)


def _grammar() -> dict[str, dict[int, str]]:
    rules = _Rules()
    for place in ("top", "object", "array"):
        rules.on(f"{place} after", _SPACE, f"{place} after")
    rules.on("object after", b",", "object name")
    rules.on("object after", b"}", "close")
    rules.on("array after", b",", "array value")
    rules.on("array after", b"]", "close")

    rules.value("top value", "top")
    rules.value("array value", "array")
    rules.value("array first", "array")
    rules.on("array first", b"]", "close")
    rules.value("object value", "object")
    for state in ("object name", "object first"):
        rules.on(state, _SPACE, state)
        rules.on(state, b'"', "name")
    rules.on("object first", b"}", "close")
    rules.string("name", "object colon")
    rules.on("object colon", _SPACE, "object colon")
    rules.on("object colon", b":", "object value")

    rules.on("text", range(0x80), "text")
    rules.utf8("text")
    return rules.next


def _compile(
    rules: dict[str, dict[int, str]],
) -> tuple[NDArray[np.uint16], NDArray[np.uint8], dict[str, np.uint64]]:
    """Number the states and squeeze bytes that every state treats alike into one column.

    Returns:
        The table, flat, `uint16`; the column of each byte, `(256,) uint8`; and the number of each
        state, which is where its row begins. Accepting states come first, actions last.
    """
    inner = [name for name in rules if name not in _ACCEPTED]
    names = [*_ACCEPTED, *inner, *_ACTIONS]
    order = {name: row for row, name in enumerate(names)}
    wide = np.full((len(names), 256), order["bad"], np.int64)
    for state, steps in rules.items():
        for octet, then in steps.items():
            wide[order[state], octet] = order[then]
    narrow, column = np.unique(wide, axis=1, return_inverse=True)
    width = narrow.shape[1]
    table = np.ascontiguousarray(narrow * width).astype(np.uint16).reshape(-1)
    numbers = {name: np.uint64(row * width) for name, row in order.items()}
    return table, column.reshape(-1).astype(np.uint8), numbers


_TABLE, _COLUMN, _STATE = _compile(_grammar())
_OPEN_OBJECT, _OPEN_ARRAY = _STATE["open object"], _STATE["open array"]
_CLOSE, _BAD = _STATE["close"], _STATE["bad"]
_FIRST_NAME, _FIRST_VALUE = _STATE["object first"], _STATE["array first"]
_AFTER_TOP, _AFTER_MEMBER = _STATE["top after"], _STATE["object after"]
_AFTER_ELEMENT = _STATE["array after"]
_TOP, _TEXT = _STATE["top value"], _STATE["text"]
_LAST_ACCEPTED = _STATE[_ACCEPTED[-1]]


@kernel(u8(A_u1, i8, i8, u8))
def _walk(buf: Any, start: Any, size: Any, state: Any) -> Any:
    """Walk the table over a slice; return the state it ends in."""
    if start < 0 or size < 0 or size > buf.size - start:
        return _BAD
    one = np.uint64(1)
    in_object = np.uint64(0)  # bit 0 is the innermost container
    depth = 0
    for i in range(start, start + size):
        state = np.uint64(_TABLE[state + np.uint64(_COLUMN[buf[i]])])
        if state < _OPEN_OBJECT:
            continue
        if state == _BAD:
            return _BAD
        if state == _CLOSE:
            in_object >>= one
            depth -= 1
            state = _AFTER_MEMBER if in_object & one != 0 else _AFTER_ELEMENT
            if depth == 0:
                state = _AFTER_TOP
        else:
            if depth == DEPTH_MAX:
                return _BAD
            depth += 1
            in_object <<= one
            if state == _OPEN_OBJECT:
                in_object |= one
                state = _FIRST_NAME
            else:
                state = _FIRST_VALUE
    return state


@kernel(b1(A_u1, i8, i8))
def _long_number(buf: Any, start: Any, size: Any) -> Any:
    """Tell whether a sound JSON text has more than `DIGITS_MAX` digits in a row in a number."""
    in_string = False
    digits = 0
    i = start
    while i < start + size:
        byte = int(buf[i])
        if byte == 0x22:
            in_string = not in_string
        elif in_string and byte == 0x5C:
            i += 1  # whatever is escaped ends no string
        digits = digits + 1 if not in_string and 0x30 <= byte <= 0x39 else 0
        if digits > DIGITS_MAX:
            return True
        i += 1
    return False


@kernel(b1(A_u1, i8, i8))
def validate(buf: Any, start: Any, size: Any) -> Any:
    """Tell whether a slice is exactly one strict JSON value.

    Args:
        buf: `uint8`.
        start: Where the slice begins.
        size: Its bytes.

    Returns:
        True when it is; False also when the slice is empty or does not lie within `buf`.

    Source: RFC 8259 §2 … §8; RFC 7493 §2.1.
    """
    if _walk(buf, start, size, _TOP) > _LAST_ACCEPTED:
        return False
    return size <= DIGITS_MAX or not _long_number(buf, start, size)


@kernel(b1(A_u1, i8, i8))
def utf8_valid(buf: Any, start: Any, size: Any) -> Any:
    """Tell whether a slice is valid UTF-8.

    Args:
        buf: `uint8`.
        start: Where the slice begins.
        size: Its bytes; none is valid.

    Returns:
        True when it is; False also when the slice does not lie within `buf`.

    Source: RFC 3629.
    """
    if start >= 0 and 0 <= size <= buf.size - start:
        # As a rule it is ASCII, which is seen many bytes at a time.
        high = np.uint8(0)
        for octet in buf[start : start + size]:
            high |= octet
        if high < 0x80:
            return True
    return _walk(buf, start, size, _TEXT) == _TEXT
