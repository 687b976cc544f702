"""Strict JSON bodies: the standard library's decoder plus three rules is the oracle."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.body import DEPTH_MAX, DIGITS_MAX, utf8_valid, validate
from tests.plain import rest_passes


def is_json(body: bytes) -> bool:
    """Judge a body that lies between bytes which would change the answer if they were read."""
    arena = np.frombuffer(b"[" + body + b"]1", np.uint8).copy()
    return bool(validate(arena, 1, len(body)))


def is_utf8(text: bytes) -> bool:
    """Judge a slice whose neighbours are UTF-8 tail bytes."""
    arena = np.frombuffer(b"\x80" + text + b"\x80\x80\x80", np.uint8).copy()
    return bool(utf8_valid(arena, 1, len(text)))


def refuse_constant(name: str) -> Any:
    """Refuse what the standard library accepts beyond the grammar."""
    raise ValueError(name)


def acceptable(value: Any, depth: int = 0) -> bool:
    """Tell whether a decoded value keeps the rules on depth and surrogates; objects are tuples."""
    if isinstance(value, str):
        return not any("\ud800" <= c <= "\udfff" for c in value)
    if isinstance(value, tuple):
        inside = [part for pair in value for part in pair]
    elif isinstance(value, list):
        inside = value
    else:
        return True
    return depth < DEPTH_MAX and all(acceptable(part, depth + 1) for part in inside)


def oracle(body: bytes) -> bool:
    """Decide by Python's own decoder; numbers stay text, because their range is not judged."""
    try:
        value = json.loads(
            body.decode("utf-8"),
            parse_constant=refuse_constant,
            parse_int=str,
            parse_float=str,
            object_pairs_hook=tuple,
        )
    except (ValueError, RecursionError):
        return False
    return acceptable(value)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
DOCUMENTS = st.builds(
    lambda value, ascii_only, indent: json.dumps(
        value, ensure_ascii=ascii_only, indent=indent
    ).encode("utf-8", "surrogatepass"),
    VALUES,
    st.booleans(),
    st.sampled_from([None, 0, "\t"]),
)
# Pieces that stand next to each other in JSON, so that chance meets every corner of the grammar.
PIECES = [
    *("{", "}", "[", "]", ",", ":", '"', "\\", "/", "b", "u", "n", "t", '""', '"a"', '"a":1'),
    *("0", "1", "9", "-", "+", ".", "e", "E", "01", "-0", "1e5", "0.5", "NaN", "Infinity"),
    *("true", "false", "null", "nul", " ", "\n", "\t", "\r", "\v", "\x00", "\x1f", "\x7f"),
    *("\\u", "\\u0041", "\\u00g0", "\\ud83d", "\\ude00", "\\uDBFF\\uDFFF", '"\\ud83d', '\\ude00"'),
    *("é", "€", "😀", "\u2028", "\ufeff"),
]
TOKENS = st.lists(st.sampled_from(PIECES), max_size=8).map(lambda parts: "".join(parts).encode())


@given(DOCUMENTS)
def test_every_json_value_python_writes_is_judged_as_python_reads_it(body: bytes) -> None:
    """Documents, with and without lone surrogates, escaped or as bytes."""
    assert is_json(body) == oracle(body)


@given(DOCUMENTS, st.data())
def test_one_changed_byte_is_judged_as_python_judges_it(body: bytes, data: st.DataObject) -> None:
    """Mutation: replace, insert, delete or cut anywhere."""
    at = data.draw(st.integers(0, len(body)))
    keep = data.draw(st.integers(at, min(at + 2, len(body))))
    new = data.draw(st.binary(max_size=1) | st.sampled_from([b'"', b"\\", b"}", b"]", b",", b"0"]))
    for changed in (body[:at] + new + body[keep:], body[:at]):
        assert is_json(changed) == oracle(changed)


@given(TOKENS)
@example(b"")
@example(b" ")
@example(b'"\\ud83d\\ude00"')
@example(b'"\\ud83d\\ud83d\\ude00"')
def test_any_sequence_of_tokens_is_judged_as_python_judges_it(body: bytes) -> None:
    """The grammar's corners, bare and inside a string."""
    assert is_json(body) == oracle(body)
    assert is_json(b'"' + body + b'"') == oracle(b'"' + body + b'"')


@given(st.binary(max_size=12))
def test_any_bytes_are_judged_as_python_judges_them(body: bytes) -> None:
    """Arbitrary bytes, bare and inside a string, and as UTF-8."""
    assert is_json(body) == oracle(body)
    assert is_json(b'"' + body + b'"') == oracle(b'"' + body + b'"')
    assert is_utf8(body) == decodes(body)


def decodes(text: bytes) -> bool:
    """Tell whether Python decodes the bytes as strict UTF-8."""
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def test_the_second_byte_of_every_utf8_lead_is_held_to_its_range() -> None:
    """All pairs of lead and second byte, completed by tails: no overlong form, no surrogate."""
    seconds = (0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF)
    for lead in range(0x80, 0x100):
        for second in seconds:
            for tails in range(3):
                text = bytes([lead, second]) + b"\xbf" * tails
                assert is_utf8(text) == decodes(text), text
                assert is_json(b'"' + text + b'"') == oracle(b'"' + text + b'"'), text


@pytest.mark.parametrize("kinds", [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
def test_containers_nest_as_deep_as_the_limit_and_no_deeper(kinds: tuple[bytes, bytes]) -> None:
    """64 levels pass, 65 do not, whichever kinds they are; closing in another order never does."""
    opening, closing = kinds
    levels = DEPTH_MAX // len(closing)
    full = opening * levels + b"0" + closing * levels
    assert is_json(full)
    assert is_json(b" \n" + full + b"\t\r")
    assert not is_json(b"[" + full + b"]")
    assert not is_json(b'{"a":' + full + b"}")
    assert not is_json(full[:-1])
    assert not is_json(full + closing)
    assert not is_json(full[:-1] + (b"}" if full.endswith(b"]") else b"]"))
    assert is_json(b"[" + b",".join([full[len(opening) : -len(closing)]] * 3) + b"]")


def test_a_scalar_is_a_value_and_whitespace_is_four_bytes() -> None:
    """Worked examples of the whole-body rules."""
    for body in (b"0", b"-0.0e-0", b'""', b"true", b" null\r\n\t", b"[]", b"{}", b'{"a":1,"a":2}'):
        assert is_json(body), body
    for body in (b"", b" ", b"\xef\xbb\xbf0", b"0 0", b"01", b"1.", b".5", b"+1", b"1e", b"NaN"):
        assert not is_json(body), body
    for body in (b"-Infinity", b"[1,]", b'{"a":1,}', b"{,}", b"\x0b0", b"\xa00", b'"\x1f"', b"'a'"):
        assert not is_json(body), body


def test_a_number_has_as_many_digits_as_python_reads() -> None:
    """One digit more than Python converts is refused; digits in strings do not count."""
    digits = b"7" * DIGITS_MAX
    for body in (digits, b"-" + digits, b"0." + digits, b"[" + digits + b"," + digits + b"]"):
        assert is_json(body)
        json.loads(body)
    for body in (digits + b"7", b'["a\\"1",' + digits + b"7]", b"1." + digits + b"7"):
        assert not is_json(body)
    assert is_json(b'"' + digits + digits + b'"')
    assert is_json(b'["\\"' + digits + digits + b'"]')


def test_a_slice_outside_its_buffer_is_refused() -> None:
    """No position and length make a kernel read elsewhere."""
    arena = np.frombuffer(b"1234", np.uint8).copy()
    big = 2**63 - 1
    for start, size in ((-1, 2), (0, 5), (4, 1), (5, 0), (0, -1), (big, 1), (1, big), (big, big)):
        assert not validate(arena, start, size), (start, size)
        assert not utf8_valid(arena, start, size), (start, size)
    assert validate(arena, 0, 4)
    assert utf8_valid(arena, 4, 0)


def test_plain_python_gives_the_same_answers() -> None:
    """The rest of this file passes with compilation switched off."""
    rest_passes(__file__)
