"""Headers: laws that hold for any bytes, sound, damaged or made of chance."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP
from scapy.layers.inet6 import IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting
from scapy.layers.l2 import ARP, LLC, SNAP, CookedLinux, CookedLinuxV2, Dot1Q, Dot3
from scapy.layers.sctp import SCTP

from core.batches import HeaderBatch, PacketBatch
from core.headers import decode_headers
from core.link import LINK_TYPES
from core.reasons import Reason
from tests.packets import (
    BODY,
    DATAGRAM,
    ETHER,
    FOUR,
    MAC_A,
    MAC_B,
    SEGMENT,
    SIX,
    V4_A,
    V4_B,
    V6_A,
    batch,
    wire,
)

ROOT = Path(__file__).resolve().parents[2]
IPV4, IPV6 = bytes(FOUR / DATAGRAM / BODY), bytes(SIX / DATAGRAM / BODY)


@functools.cache
def samples() -> list[tuple[int, bytes]]:
    """Return sound packets of every link type and layer, as seeds for damage."""
    cooked = CookedLinux(lladdrlen=6, src=bytes(8), proto=0x0800)
    later = CookedLinuxV2(lladdrlen=6, src=bytes(8), proto=0x86DD)
    chain = IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting(addresses=[V6_A]) / IPv6ExtHdrFragment(m=1)
    inner: list[Any] = [DATAGRAM / BODY, SEGMENT / BODY, ICMP() / BODY, SCTP(sport=1, dport=2)]
    seeds = [(1, wire(ETHER / FOUR / part)) for part in inner]
    seeds += [(1, wire(ETHER / Dot1Q(vlan=9) / SIX / chain / part)) for part in inner]
    seeds += [(113, wire(cooked / FOUR / part)) for part in inner]
    seeds += [(276, wire(later / SIX / part)) for part in inner]
    seeds += [(1, wire(ETHER / ARP(hwsrc=MAC_A, psrc=V4_A, pdst=V4_B)))]
    seeds += [(1, wire(Dot3(src=MAC_A, dst=MAC_B) / LLC() / SNAP(code=0x0800) / FOUR / DATAGRAM))]
    seeds += [(link, IPV4) for link in (12, 14, 101, 228)] + [(229, IPV6), (101, IPV6)]
    return [*seeds, (0, b"\x02\0\0\0" + IPV4), (108, b"\0\0\0\x1e" + IPV6)]


@st.composite
def damaged(draw: st.DrawFn) -> tuple[int, bytes]:
    """Draw a packet: any bytes, or a sound one with some bytes changed and its end cut or grown."""
    if draw(st.booleans()):
        links = st.sampled_from([*sorted(LINK_TYPES), 105])
        return draw(links), draw(st.binary(max_size=120))
    link, data = draw(st.sampled_from(samples()))
    changed = bytearray(data)
    for _ in range(draw(st.integers(0, 4))):
        changed[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    end = draw(st.integers(0, len(data)) | st.just(len(data)))
    return link, bytes(changed[:end]) + draw(st.binary(max_size=8))


@given(st.lists(damaged(), min_size=1, max_size=8))
def test_any_bytes_stay_inside_their_bounds(packets: list[tuple[int, bytes]]) -> None:
    """Any bytes give a named rejection and nothing else, or columns that point inside them."""
    laid = batch(packets)
    headers = decode_headers(laid)
    end = laid.start + laid.caplen
    assert np.all(laid.start <= headers.payload)
    assert np.all(headers.payload + headers.payload_len <= end)
    assert np.all(headers.payload_len >= 0)
    assert np.all(headers.claimed_len >= headers.payload_len)
    bad = headers.take(headers.reason != 0)
    assert {Reason(code) for code in bad.reason.tolist()} <= set(Reason)
    assert np.all(bad.proto == -1)
    assert np.array_equal(bad.payload, laid.start[headers.reason != 0])
    zero = set(HeaderBatch.COLUMNS) - {"reason", "proto", "payload"}
    assert not any(getattr(bad, name).any() for name in zero)


@given(st.lists(damaged(), min_size=1, max_size=8))
def test_bytes_outside_a_packet_do_not_matter(packets: list[tuple[int, bytes]]) -> None:
    """A row depends on the captured bytes of its packet alone, not on what lies round it."""
    one, other = (decode_headers(batch(packets, gap)) for gap in (b"\x00" * 64, b"\xff" * 64))
    for name in HeaderBatch.COLUMNS:
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("which", range(len(samples())))
def test_a_cut_packet_never_says_something_else(which: int) -> None:
    """Every prefix of a packet is rejected, or says what the whole one says, with less payload."""
    link, data = samples()[which]
    cuts = [(link, data[:size]) for size in range(len(data) + 1)]
    headers = decode_headers(batch(cuts))
    sound = headers.take(headers.reason == 0)
    assert 0 < len(sound) < len(headers)
    for name in ("ethertype", "src_lo", "dst_hi", "proto", "tcp_flags", "fragment"):
        assert np.unique(getattr(sound, name)).size == 1, name
    assert np.all(np.diff(sound.payload_len) >= 0)


def test_packets_outside_the_arena_are_not_read() -> None:
    """Offsets that lead out of the arena are rejected rather than followed."""
    packets = batch([(1, wire(ETHER / FOUR / DATAGRAM / BODY))] * 4)
    packets.start[0] = -3
    packets.caplen[1] = 2**31 - 1
    packets.caplen[2] = -1
    got = decode_headers(packets).reason.tolist()
    assert got == [Reason.LINK_HEADER] * 3 + [0]


PLAIN = """
import sys, numpy as np
from core.batches import HeaderBatch, PacketBatch
from core.headers import decode_headers
with np.load(sys.argv[1]) as kept:
    columns = {name: kept[name] for name in kept.files}
headers = decode_headers(PacketBatch(**columns, index=0, source=0))
np.savez(sys.argv[2], **{name: getattr(headers, name) for name in HeaderBatch.COLUMNS})
"""


def test_plain_python_gives_the_same_answer(tmp_path: Path) -> None:
    """With `NUMBA_DISABLE_JIT=1` every column of every packet, sound or damaged, is the same."""
    rng = np.random.default_rng(7)
    packets = samples()
    for link, data in samples() * 20:
        changed = bytearray(data)
        for at in rng.integers(0, len(data), 3).tolist():
            changed[at] = int(rng.integers(0, 256))
        packets.append((link, bytes(changed[: int(rng.integers(0, 2 * len(data)))])))
    laid = batch(packets)
    given_path, got_path = tmp_path / "given.npz", tmp_path / "got.npz"
    columns = {name: getattr(laid, name) for name in ("arena", *PacketBatch.COLUMNS)}
    np.savez(given_path, **columns)
    environ = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", PLAIN, str(given_path), str(got_path)]
    subprocess.run(command, env=environ, check=True, cwd=ROOT)
    compiled = decode_headers(laid)
    assert len(set(compiled.reason.tolist())) > 6
    with np.load(got_path) as plain:
        for name in HeaderBatch.COLUMNS:
            assert np.array_equal(plain[name], getattr(compiled, name)), name
