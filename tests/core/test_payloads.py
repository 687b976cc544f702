"""Datagrams of other formats: their keys and records, against `json` and `base64`."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from ipaddress import IPv4Address
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core import payload_out, records
from core.batches import FrameBatch
from core.headers import decode_headers
from core.host import key_text
from core.names import Names, text_of
from core.payloads import Payloads
from core.reasons import Reason
from core.text_key import HASHED, KEY_BYTES_MAX
from core.topics import TELEMETRY
from core.xxh64 import xxh64
from tests.core.test_body import oracle as is_strict_json
from tests.core.test_syslog import BOM, MESSAGES, SD1
from tests.core.test_syslog import reference as syslog_reference
from tests.frames import PORT, packet_batch, udp_packet
from tests.plain import rest_passes
from tests.schemas import validator

BYTES_MAX = 65_485
SENDER = "10.0.0.1"
RAW, SYSLOG = Payloads.of("raw", "id"), Payloads.of("syslog", "id")
KEPT = {kind: validator(TELEMETRY, kind) for kind in ("datagram", "raw")}
SAID = validator(TELEMETRY, "datagram/properties/data/anyOf/0")
TIME_NS = 1_700_000_000_000_000_000


def framed(how: Payloads, *payloads: bytes) -> tuple[list[int], FrameBatch]:
    """Return the reason of each datagram, and the frames."""
    batch = packet_batch([udp_packet(payload) for payload in payloads])
    reason, frames = how.frames(batch, decode_headers(batch), PORT, BYTES_MAX)
    return reason.tolist(), frames


def said(how: Payloads, payload: bytes) -> tuple[str, dict[str, Any]] | Reason:
    """Return key and record of a datagram that stands between others, or its reason."""
    reason, frames = framed(how, b"{", payload, b"")
    frames = frames.take(np.flatnonzero(frames.ordinal == 1))
    if reason[1]:
        assert len(frames) == 0
        return Reason(reason[1])
    batch = records.payloads(frames, how)
    assert (batch.seq.tolist(), batch.has_seq) == ([0], False)
    value: dict[str, Any] = json.loads(batch.value_list()[0])
    assert value["ts"] == TIME_NS + 1_000_000
    assert value["id"].encode() == batch.key_list()[0]
    assert frames.size[0] == frames.body_len[0] == len(payload)
    assert keyed(how, frames) == value["id"]
    return value["id"], value


def keyed(how: Payloads, frames: FrameBatch) -> str:
    """Return the text of the key of the first frame, as a finding would have it."""
    names = Names(how, 16, 1)
    names.learn(frames)
    [row] = names.of(np.stack([frames.key_hi[:1], frames.key_lo[:1]], axis=1))
    hi, lo = int(frames.key_hi[0]), int(frames.key_lo[0])
    assert hi >> 56 == HASHED or not row.any()
    return key_text(hi, lo, is_device=True, name=text_of(row))


# ------------------------------------------------------------------------------------------- JSON

MISSING = object()


class Number(str):
    """A number as it was written."""

    __slots__ = ()


def json_reference(payload: bytes, path: str) -> str | Reason:
    """Return the key of a datagram of JSON as a library finds it."""
    if not is_strict_json(payload):
        return Reason.BODY_NOT_JSON
    value = json.loads(payload, parse_int=Number, parse_float=Number)
    for name in path.split("."):
        value = value.get(name, MISSING) if isinstance(value, dict) else MISSING
    if value is MISSING:
        return Reason.KEY_MISSING
    if not isinstance(value, str) or len(value.encode()) > KEY_BYTES_MAX:
        return Reason.KEY_INVALID
    return str(value)


NAMES = st.sampled_from(["id", "a", "é", "", "i", "idx", "\n", "\\", '"', "\U0001f600"])
TEXTS = st.text(max_size=5) | st.sampled_from(["x" * 16, "x" * 17, "é" * 8, "\0", "a\0b", "\ufeff"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)


def laid_out(value: Any, draw: st.DataObject) -> str:
    """Write JSON with white space, escapes and members that are there twice, as may come."""
    space = draw.draw(st.sampled_from(["", "", " ", "\t\r\n"]))
    ascii_only = draw.draw(st.booleans())
    if isinstance(value, dict):
        members = [(name, laid_out(each, draw)) for name, each in value.items()]
        members += draw.draw(st.lists(st.sampled_from(members), max_size=1)) if members else []
        written = [
            f"{space}{json.dumps(name, ensure_ascii=ascii_only)}{space}:{space}{each}{space}"
            for name, each in members
        ]
        return "{" + space + ",".join(written) + "}"
    if isinstance(value, list):
        return "[" + ",".join(laid_out(each, draw) for each in value) + space + "]"
    text = json.dumps(value, ensure_ascii=ascii_only)
    if isinstance(value, str) and draw.draw(st.booleans()):
        units = value.encode("utf-16-be")
        pairs = [units[i : i + 2].hex() for i in range(0, len(units), 2)]
        text = '"' + "".join(f"\\u{pair}" for pair in pairs) + '"'
    return text


@given(VALUES, st.sampled_from(["id", "a", "a.id", "é", "\n", "\\", "a.a.a"]), st.data())
def test_the_key_is_the_member_a_library_finds(value: Any, path: str, draw: st.DataObject) -> None:
    """Whatever the layout, the escapes and the duplicates: the last member of a name counts."""
    payload = laid_out(value, draw).encode("utf-8", "surrogatepass")
    held_to_the_reference(payload, path)


@given(st.binary(max_size=30), st.sampled_from(["id", "a.b"]))
@example(b'{"id":"\\ud83d\\ude00"}', "id")
@example(b'{"id":"\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000"}', "id")
@example(b'{"i\\u0064":7,"id\\n":8}', "id")
@example(b'{"a":{"b":-1.50e+3}}', "a.b")
@example(b'{"a":{"b":1},"a":{"c":2}}', "a.b")
@example(b'{"a":{"b":"}]\\""},"b":"no"}', "a.b")
@example(b'{"a":[{"b":1}],"b":2}', "a.b")
@example(b'{"id":{}}', "id")
@example(b'{"id":""}', "id")
@example(b"[" * 65 + b"]" * 65, "id")
@example(b'{"id":' + b"9" * 255 + b"}", "id")
@example(b'{"id":' + b"9" * 256 + b"}", "id")
@example(b'{"id":"' + b"x" * 255 + b'"}', "id")
@example(b'{"id":"' + b"x" * 256 + b'"}', "id")
@example(b'{"id":"' + b"x" * 254 + b'\\ud83d\\ude00"}', "id")
@example(b'{"id":"' + b"\\u0001" * 255 + b'"}', "id")
def test_any_bytes_are_json_with_its_key_or_a_reason(payload: bytes, path: str) -> None:
    """Nothing is raised, and nothing accepted that is not to be."""
    held_to_the_reference(payload, path)


def held_to_the_reference(payload: bytes, path: str) -> None:
    """Compare one datagram of JSON."""
    found, wanted = said(Payloads.of("json", path), payload), json_reference(payload, path)
    if isinstance(wanted, Reason):
        assert found == wanted
        return
    key, record = found  # type: ignore[misc]  # a reason would not be the reference's
    assert key == wanted
    assert record == {"id": key, "data": json.loads(payload), "ts": record["ts"]}
    KEPT["datagram"].validate(record)


# ------------------------------------------------------------------------------- syslog and raw


def syslog_reference_record(payload: bytes) -> dict[str, Any] | Reason:
    """Return the record of a datagram of syslog, but for its time, from what a regex found."""
    found = syslog_reference(payload)
    if isinstance(found, Reason):
        return found
    priority, rfc, *parts, data, message = found
    names = ("time", "host", "app", "procid", "msgid")
    texts = [None if part is None else part.decode() for part in parts]
    said_: dict[str, Any] = {"rfc": rfc, "facility": priority // 8, "severity": priority % 8}
    said_ |= dict(zip(names, texts, strict=True))
    said_["structured_data"] = None if data is None else elements(data.decode())
    try:
        said_["message"] = None if message is None else message.decode()
        said_["message"] = (said_["message"] or "").removeprefix("\ufeff") if message else (
            said_["message"])  # fmt: skip
    except UnicodeDecodeError:
        said_.pop("message", None)
        said_["message_base64"] = b64encode(message or b"").decode()
    return {"id": said_["host"] or SENDER, "data": said_}


def elements(text: str) -> list[dict[str, Any]]:
    """Take sound structured data apart, character by character."""
    found: list[dict[str, Any]] = []
    rest = iter(text)
    for character in rest:
        assert character == "["
        name = ""
        found.append({"id": "", "params": []})
        for here in rest:
            if here == '"':
                found[-1]["params"].append({"name": name.strip()[:-1], "value": quoted(rest)})
                name = ""
            elif here == "]" or (here == " " and not found[-1]["id"]):
                found[-1]["id"] = found[-1]["id"] or name
                name = ""
                if here == "]":
                    break
            else:
                name += here
    return found


def quoted(rest: Any) -> str:
    """Take a value up to its quote."""
    value = ""
    for here in rest:
        if here == '"':
            return value
        after = next(rest) if here == "\\" else ""
        if after and after not in '"\\]':
            value += here
        value += after or here
    raise AssertionError("no quote")


@given(MESSAGES)
@example(b'<1>1 - h a - - [x y="\\"\\\\\\]\\n" y="2"][x]' + b" " + BOM)
@example(b"<1>1 - h a - - " + SD1 + b" " + BOM + BOM + b"x")
@example(b"<1>1 - h a - - - " + BOM + b"\xff")
@example(b"<1>" + BOM)
@example(b"<1>1 - " + b"\\" * 255 + b" - - - -")
def test_any_bytes_are_syslog_with_its_record_or_a_reason(payload: bytes) -> None:
    """Key, parts, structured data and message are those of the reference."""
    found, wanted = said(SYSLOG, payload), syslog_reference_record(payload)
    if isinstance(wanted, Reason):
        assert found == wanted
        return
    key, record = found  # type: ignore[misc]  # a reason would not be the reference's
    assert (key, record) == (wanted["id"], wanted | {"ts": record["ts"]})
    KEPT["datagram"].validate(record)
    SAID.validate(record["data"])


@given(st.binary(max_size=50))
def test_raw_bytes_come_back(payload: bytes) -> None:
    """Any bytes are a frame of their sender, in base64."""
    key, record = said(RAW, payload)  # type: ignore[misc]  # there is no reason why not
    assert key == SENDER
    assert b64decode(record["data_base64"], validate=True) == payload
    assert record == {"id": SENDER, "data_base64": record["data_base64"], "ts": record["ts"]}
    KEPT["raw"].validate(record)


def test_what_is_no_datagram_of_ours_is_told_apart_as_ever() -> None:
    """Port, fragments, size and what was cut off are judged before the payload."""
    packets = [udp_packet(b"x", dport=1), udp_packet(b"x", proto=6), udp_packet(b"x", piece=1),
               udp_packet(b"x", udp_len=99), udp_packet(b"x" * 33),
               udp_packet(b"x" * 32)]  # fmt: skip
    batch = packet_batch(packets)
    reason, frames = RAW.frames(batch, decode_headers(batch), PORT, 10)
    assert [Reason(r).name for r in reason] == [
        "OTHER_PORT", "TCP_HEADER", "FRAGMENT", "UDP_LENGTH", "BODY_TOO_LARGE", "FRAME",
    ]  # fmt: skip
    assert frames.size.tolist() == [32]


# ----------------------------------------------------------------------------- room and identity


def worst() -> list[tuple[Payloads, bytes]]:
    """Return what takes the most room."""
    return [
        (SYSLOG, b"<1>1 - - - - - " + b"[\\]" * 20_000),
        (SYSLOG, b"<1>1 - - - - - [x" + b' a=""' * 13_000 + b"]"),
        (SYSLOG, b"<1>1 - " + b"\\" * 255 + b" - - - - " + b"\1" * 65_000),
        (SYSLOG, b"<1>" + b"\1" * 65_000),
        (SYSLOG, b"<1>" + b"\xff" * 65_000),
        (SYSLOG, b"<1>"),
        (RAW, b"\xff" * 65_507),
        (RAW, b""),
        (Payloads.of("json", "id"), b'{"id":"' + b"\\u0001" * 255 + b'"}'),
        (Payloads.of("json", "id"), b'{"id":"' + b"\x7f" * 255 + b'"}'),
        (Payloads.of("json", "id"), b'{"id":0}'),
    ]


@pytest.mark.parametrize(("how", "payload"), worst(), ids=lambda each: str(len(each))
                         if isinstance(each, bytes) else str(each.kind))  # fmt: skip
def test_the_worst_fits_its_bound(how: Payloads, payload: bytes) -> None:
    """A record takes no more room than was made for it, with the longest time and address."""
    reason, frames = framed(how, payload)
    assert reason == [0]
    frames.at_ns[:] = -(2**63)
    frames.peer_hi[:], frames.peer_lo[:] = 2**64 - 1, 2**64 - 1
    batch = records.payloads(frames, how)
    bound = payload_out.BYTES_PER_BYTE * len(payload) + payload_out.RECORD_BYTES_MAX
    assert batch.value_end[-1] <= bound
    assert json.loads(batch.value_list()[0])["ts"] == -(2**63)


def test_a_short_text_is_its_own_key_and_a_long_one_a_hash() -> None:
    """Sixteen bytes are as a device id has them; more, or with NUL, are XXH64 under two seeds."""
    how = Payloads.of("json", "id")
    texts = ["", "pump-7", "x" * 16, "x" * 17, "a\0b"]
    reason, frames = framed(how, *(json.dumps({"id": text}).encode() for text in texts))
    assert not any(reason)
    keys = list(zip(frames.key_hi.tolist(), frames.key_lo.tolist(), strict=True))
    for (hi, lo), text in zip(keys, texts, strict=True):
        raw = text.encode()
        padded = raw.ljust(16, b"\0")
        if len(raw) <= 16 and b"\0" not in raw:
            assert (hi << 64 | lo) == int.from_bytes(padded, "big")
            continue
        arena = np.frombuffer(bytearray(raw), np.uint8)
        first, second = (int(xxh64(arena, 0, len(raw), np.uint64(seed))) for seed in (1, 2))
        assert (hi, lo) == (first & (1 << 56) - 1 | HASHED << 56, second)
    assert len(set(keys)) == len(texts)


def test_the_sender_of_a_test_packet() -> None:
    """What the tests above take for the key is where their packets come from."""
    assert int(IPv4Address(SENDER)) == 0x0A000001


def test_plain_python() -> None:
    """Without the compiler the answers are the same."""
    rest_passes(__file__)
