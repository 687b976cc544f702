"""The frame codec against one written with `struct` and `json`; any bytes have one answer."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.frame import HEADER_LEN, encode_frame, host_frames
from core.frame import device_frames as decode
from core.headers import decode_headers
from core.reasons import FIRST_MALFORMED, Reason
from tests.core.test_body import oracle as is_strict_json
from tests.frames import PORT, packet_batch, udp_packet

BODY_MAX = 600
Frame = tuple[bytes, int, bytes]
"""Id up to the first NUL, sequence number, body."""


def judged(*packets: bytes, snaplen: int = 1 << 18) -> list[Reason | Frame]:
    """Return what becomes of each packet: a frame, or a reason."""
    batch = packet_batch(packets, snaplen=snaplen)
    reason, frames = decode(batch, decode_headers(batch), PORT, BODY_MAX)
    assert len(reason) == len(packets)
    assert frames.ordinal.tolist() == np.flatnonzero(reason == 0).tolist()
    arena = frames.arena.tobytes()
    found = []
    for i in range(len(frames)):
        key = int(frames.key_hi[i]) << 64 | int(frames.key_lo[i])
        begin, size = int(frames.body[i]), int(frames.body_len[i])
        assert frames.size[i] == size
        device = key.to_bytes(16, "big").split(b"\0")[0]
        assert device.ljust(16, b"\0") == key.to_bytes(16, "big")
        found.append((device, int(frames.seq[i]), arena[begin : begin + size]))
    rest = iter(found)
    return [Reason(r) if r else next(rest) for r in reason.tolist()]


def reference(payload: bytes) -> Reason | Frame:
    """Decode a payload as the wire format words it."""
    if len(payload) < 22:
        return Reason.FRAME_SHORT
    magic, device, seq = struct.unpack_from(">H16sI", payload)
    body = payload[22:]
    device = device.split(b"\0")[0]
    if magic != 0xAA55:
        return Reason.BAD_MAGIC
    try:
        device.decode()
    except UnicodeDecodeError:
        return Reason.BAD_DEVICE_ID
    if len(body) > BODY_MAX:
        return Reason.BODY_TOO_LARGE
    if body and not is_strict_json(body):
        return Reason.BODY_NOT_JSON
    return device, seq, body


BODIES = (
    st.just(b"")
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=6),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=6,
    ).map(lambda value: json.dumps(value, ensure_ascii=False, indent=1).encode())
    | st.sampled_from([b"{", b"NaN", b" [1 ,\t2]\r\n", b'"\xff"', b"{}{}", b"1 2", b"[" * 65])
    | st.binary(max_size=12)
    | st.just(b'"' + b"x" * BODY_MAX)
)
IDS = (
    st.text(max_size=5).map(lambda text: text.encode()[:16].ljust(16, b"\0"))
    | st.binary(min_size=16, max_size=16)
    | st.sampled_from([b"\0" * 16, b"a\0" + b"\xff" * 14, b"16 bytes, no NUL", b"\xc3" * 16])
)
SEQS = st.integers(0, 2**32 - 1)
MAGICS = st.sampled_from([b"\xaa\x55"] * 4 + [b"\x55\xaa", b"\xaa\x54"])
PAYLOADS = st.binary(max_size=40) | st.builds(
    lambda magic, device, seq, body, cut: (magic + device + struct.pack(">I", seq) + body)[:cut],
    MAGICS, IDS, SEQS, BODIES, st.none() | st.integers(0, 30),
)  # fmt: skip


@given(st.lists(PAYLOADS, min_size=1, max_size=6))
@example([b"", b"\xaa\x55" + b"\0" * 19, b"\xaa\x55" + b"\0" * 20])
def test_any_payload_is_the_frame_or_the_reason_the_reference_finds(payloads: list[bytes]) -> None:
    """Reason, id, sequence number and body agree, whatever the bytes and the neighbours."""
    assert judged(*map(udp_packet, payloads)) == [reference(p) for p in payloads]


@given(st.text(max_size=16).filter(lambda t: len(t.encode()) <= 16 and "\0" not in t), SEQS, BODIES)
def test_what_is_encoded_is_decoded(device: str, seq: int, body: bytes) -> None:
    """A frame written by `encode_frame` comes back, unless its body is at fault."""
    frame = encode_frame(device, seq, body)
    assert len(frame) == HEADER_LEN + len(body)
    found = judged(udp_packet(frame))[0]
    if isinstance(found, Reason):
        assert found in (Reason.BODY_NOT_JSON, Reason.BODY_TOO_LARGE)
    else:
        assert found == (device.encode(), seq, body)


@pytest.mark.parametrize(
    ("device", "seq"), [("x" * 17, 0), ("é" * 9, 0), ("a\0b", 0), ("a", -1), ("a", 1 << 32)]
)
def test_what_does_not_fit_is_not_encoded(device: str, seq: int) -> None:
    """An id of 17 bytes or with a NUL, and a sequence number beyond 32 bits, are refused."""
    with pytest.raises(ValueError, match="want"):
        encode_frame(device, seq, b"")


def test_bytes_after_the_nul_make_no_new_device() -> None:
    """A device is its id up to the first NUL; what follows may be anything."""
    heads = [b"\xaa\x55" + b"pump\0" + rest for rest in (b"\0" * 11, b"x" * 11, b"\xff" * 11)]
    batch = packet_batch([udp_packet(head + b"\0\0\0\1") for head in heads])
    reason, frames = decode(batch, decode_headers(batch), PORT, BODY_MAX)
    assert not reason.any()
    assert len(set(zip(frames.key_hi.tolist(), frames.key_lo.tolist(), strict=True))) == 1


def test_an_empty_id_is_a_device_without_a_name() -> None:
    """Sixteen NULs are allowed, as are ids that begin with one."""
    assert judged(udp_packet(encode_frame("", 7, b"")))[0] == (b"", 7, b"")
    assert judged(udp_packet(b"\xaa\x55\0" + b"q" * 15 + b"\0\0\0\7"))[0] == (b"", 7, b"")


@pytest.mark.parametrize("size", [BODY_MAX, BODY_MAX + 1])
def test_the_largest_body(size: int) -> None:
    """A body of exactly the limit passes; one byte more is too large, JSON or not."""
    body = b'"' + b"x" * (size - 2) + b'"'
    found = judged(udp_packet(encode_frame("a", 1, body)))[0]
    assert found == ((b"a", 1, body) if size == BODY_MAX else Reason.BODY_TOO_LARGE)


GOOD = encode_frame("a", 1, b'{"v":12345678}')


def test_a_datagram_cut_by_the_snap_length_is_ignored() -> None:
    """What the capture did not keep cannot be judged; if only padding is missing, it can."""
    whole = udp_packet(GOOD)
    for snaplen in range(42, len(whole)):
        assert judged(whole, snaplen=snaplen) == [Reason.SNAPPED]
    assert judged(whole + b"\0" * 9, snaplen=len(whole)) == judged(whole)
    # Below that the headers themselves are cut, which is another matter.
    assert judged(whole, snaplen=41) == [Reason.UDP_HEADER]


def test_a_lying_udp_length_is_malformed() -> None:
    """More than the packet carries is a lie; less ends the payload early; below 8 is no header."""
    size = 8 + len(GOOD)
    assert judged(udp_packet(GOOD, udp_len=size + 1)) == [Reason.UDP_LENGTH]
    assert judged(udp_packet(GOOD, udp_len=65_535)) == [Reason.UDP_LENGTH]
    assert judged(udp_packet(GOOD, udp_len=size - 1)) == [Reason.BODY_NOT_JSON]
    assert judged(udp_packet(GOOD, udp_len=30)) == [(b"a", 1, b"")]
    assert judged(udp_packet(GOOD, udp_len=29)) == [Reason.FRAME_SHORT]
    assert judged(udp_packet(GOOD, udp_len=7)) == [Reason.UDP_HEADER]


def test_other_traffic_is_ignored() -> None:
    """Fragments, other ports and other protocols are healthy and not ours."""
    assert judged(udp_packet(GOOD, piece=0x2000)) == [Reason.FRAGMENT]
    assert judged(udp_packet(GOOD, piece=0x0010)) == [Reason.FRAGMENT]
    assert judged(udp_packet(GOOD, dport=PORT + 1)) == [Reason.OTHER_PORT]
    assert judged(udp_packet(GOOD, proto=47)) == [Reason.NOT_UDP]
    assert all(r < FIRST_MALFORMED for r in (Reason.FRAGMENT, Reason.OTHER_PORT, Reason.NOT_UDP))


@given(st.lists(st.binary(max_size=90), max_size=5))
def test_any_packet_has_exactly_one_fate(packets: list[bytes]) -> None:
    """In both modes the rows without a reason are the frames, and no byte is read outside."""
    batch = packet_batch(packets)
    headers = decode_headers(batch)
    modes: list[Any] = [decode(batch, headers, PORT, BODY_MAX), host_frames(batch, headers)]
    for reason, frames in modes:
        assert len(frames) == np.count_nonzero(reason == 0)
        assert {Reason(r) for r in reason.tolist()} <= set(Reason)
        assert frames.index.tolist() == np.flatnonzero(reason == 0).tolist()


def test_every_sound_packet_of_a_host_is_a_frame_of_its_source() -> None:
    """In host mode the key is the source, the peer the destination, the size that on the wire."""
    batch = packet_batch([udp_packet(GOOD), b"\0" * 9, udp_packet(b"", source=0x0A000002)], index=5)
    reason, frames = host_frames(batch, decode_headers(batch))
    assert reason.tolist() == [0, Reason.LINK_HEADER, 0]
    assert frames.key_lo.tolist() == [0xFFFF_0A00_0001, 0xFFFF_0A00_0002]
    assert frames.peer_lo.tolist() == [0xFFFF_0A00_00FE] * 2
    assert frames.size.tolist() == [42 + len(GOOD), 42]
    assert not frames.body_len.any()
    assert frames.index.tolist() == frames.ordinal.tolist() == [5, 7]
