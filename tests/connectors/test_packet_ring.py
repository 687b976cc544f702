"""The ring of packet sockets on real interfaces: what was sent is received or counted, once."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from connectors.bpf import compile_filter
from connectors.packet_ring import PacketRing
from connectors.packet_socket import PacketOptions, PacketSocket, open_sockets
from connectors.ring import RingOptions
from core.batches import PacketBatch
from core.bpf import select
from core.errors import SourceError
from tests.captures import decode
from tests.netns import FrameSender, Namespace, namespace, tun

pytestmark = pytest.mark.root

WAIT_S = 10.0
MACS = bytes.fromhex("020000000002 020000000001")
UDP_9999 = MACS + bytes.fromhex(
    "0800 4500001d 00000000 40110000 c0000201 c0000202 9c40 270f 0009 0000 78"
)


@dataclass
class Live:
    """A ring with its sockets."""

    sockets: list[PacketSocket]
    ring: PacketRing
    stopping: threading.Event
    got: list[PacketBatch] = field(default_factory=list)

    def take(self, count: int) -> None:
        """Take batches until so many packets are here."""
        while sum(map(len, self.got)) < count:
            assert self._took(), "nothing came"

    def _took(self) -> bool:
        """Take a batch if one comes, and let go of its arena."""
        batch = self.ring.get(WAIT_S)
        if batch is not None:
            columns = {name: getattr(batch, name).copy() for name in batch.COLUMNS}
            self.got.append(replace(batch, arena=batch.arena.copy(), **columns))
        return batch is not None

    def end(self) -> list[tuple[bytes, int]]:
        """Stop, and take what is left; return all packets, each with its length on the wire."""
        self.stopping.set()
        while not self.ring.ended:
            self._took()
        return [
            (batch.arena[a : a + n].tobytes(), wire)
            for batch in self.got
            for a, n, wire in zip(
                batch.start.tolist(), batch.caplen.tolist(), batch.wirelen.tolist(), strict=True
            )
        ]


Opener = Callable[..., Live]


@pytest.fixture
def live(net: Namespace) -> Iterator[Opener]:
    """Yield what opens rings, which are stopped after the test."""
    with ExitStack() as stack:

        def begin(
            *names: str,
            options: PacketOptions | None = None,
            ring: RingOptions | None = None,
            where: Namespace = net,
        ) -> Live:
            with where.entered():
                sockets = open_sockets(names or ["right"], options or PacketOptions())
            stopping = threading.Event()
            made = PacketRing(sockets, ring or RingOptions(), stopping)
            made.start()
            stack.callback(made.join)
            stack.callback(stopping.set)
            return Live(sockets, made, stopping)

        yield begin


def alone(frames: list[bytes]) -> list[tuple[bytes, int]]:
    """Return what is to be received of frames that are not cut."""
    return [(each, len(each)) for each in frames]


def real_frames(corpus: Path, folders: list[str]) -> list[bytes]:
    """Return what can be sent of the real captures in some folders."""
    found = []
    for path in sorted(p for folder in folders for p in (corpus / "captures" / folder).iterdir()):
        if path.suffix == ".pcap":
            found += [p.data for p in decode(path.read_bytes())[0] if p.linktype == 1]
    # Linux drops a frame whose tags are cut short before anybody sees it.
    return [data for data in found if 22 <= len(data) < 65_000]


@pytest.mark.corpus
def test_real_traffic_is_received_once_byte_by_byte(
    net: Namespace, live: Opener, corpus: Path
) -> None:
    """Every frame of real captures, VLAN tags included, is there once, in order, with its time."""
    frames = real_frames(corpus, ["vlan", "iot-benign", "arp", "ipv6"])
    got = live()
    with FrameSender(net, "left") as sender:
        for begin in range(0, len(frames), 500):
            sender.send(frames[begin : begin + 500])
            got.take(min(begin + 500, len(frames)))
    assert len(frames) > 5000
    assert any(data[12:14] == b"\x81\x00" for data in frames)
    assert got.end() == alone(frames)
    counts = got.ring.counts()
    assert (counts.received, counts.matched) == (len(frames), len(frames))
    assert counts.received_bytes == sum(map(len, frames))
    at_ns = np.concatenate([batch.at_ns for batch in got.got])
    assert (np.diff(at_ns) >= 0).all()
    assert at_ns[0] > 1_600_000_000_000_000_000
    ordinal = np.concatenate([batch.ordinal for batch in got.got])
    assert ordinal.tolist() == list(range(len(frames)))


def test_tags_are_put_back_and_then_cut(net: Namespace, live: Opener) -> None:
    """Any tag is where it was, the inner of two stays, and the snap length counts it."""
    frames = [
        MACS + bytes.fromhex(tag) + bytes(range(60))
        for tag in ("81000005 0800", "8100f123 0800", "88a80007 8100 0005 0800", "81000000 0800")
    ]
    got = live(options=PacketOptions(snaplen=64))
    with FrameSender(net, "left") as sender:
        sender.send([*frames, UDP_9999])
    want = [(each[:64], len(each)) for each in frames]
    assert got.end() == [*want, (UDP_9999, len(UDP_9999))]
    assert got.ring.counts().truncated == len(frames)


MADE = [
    MACS + bytes.fromhex(head) + UDP_9999[14:] + bytes(60)
    for head in ("81000005 0800", "88a80005 0800", "8100f123 0800", "0800", "0806", "86dd")
]
FILTERS = [
    "vlan", "vlan 5", "not vlan", "udp port 9999", "vlan and udp", "arp", "vlan and ip",
    "tcp or arp", "ether[16:2] = 0x800",
    "len > 100", "ether[12:4] = 0x81000005", "ether[14] & 0x0f = 0", "ether[15] = 5", "ip6",
    "vlan and tcp port 80", "ether host 02:00:00:00:00:01", "tcp[13] & 2 != 0",
]  # fmt: skip


@pytest.mark.corpus
@pytest.mark.parametrize("expression", FILTERS)
def test_a_filter_keeps_live_what_it_keeps_of_a_file(
    net: Namespace, live: Opener, corpus: Path, expression: str
) -> None:
    """Tags, which the kernel takes off before it filters, make no difference."""
    frames = [*MADE, *real_frames(corpus, ["vlan", "arp"])][:1500]
    arena = np.frombuffer(bytearray(b"".join(frames)), np.uint8)
    size = np.array([len(each) for each in frames], np.int32)
    keep = np.zeros(size.size, np.uint8)
    start = np.cumsum(size, dtype=np.int64) - size
    select(compile_filter(expression, 1), arena, start, size, size, keep)
    kept = [each for each, is_kept in zip(frames, keep, strict=True) if is_kept]

    got = live(options=PacketOptions(filter=expression))
    with FrameSender(net, "left") as sender:
        for begin in range(0, len(frames), 500):
            sender.send(frames[begin : begin + 500])
    assert got.end() == alone(kept)
    counts = got.ring.counts()
    assert counts.received + counts.filtered == counts.matched
    assert 0 < len(kept) < len(frames)


def test_a_reader_that_is_too_slow_is_accounted_for(net: Namespace, live: Opener) -> None:
    """Tiny ring, nobody takes: what passed the filter is received or dropped, to the packet."""
    got = live(
        options=PacketOptions(ring_bytes=1 << 19, filter="ip"),
        ring=RingOptions(arenas=2, rows_max=64, arena_bytes=1),
    )
    before = net.passed("left")
    with FrameSender(net, "left") as sender:
        sender.flood(MACS + b"\x08\x00" + bytes(86), 200)
        sent = net.passed("left") - before
        sender.flood(MACS + b"\x08\x06" + bytes(86), 20)
    while not got.ring.counts().frozen:  # seen while it lasts, too
        got.stopping.wait(0.01)
    assert got.ring.occupancy().kernel_bytes > 0
    packets = got.end()
    counts = got.ring.counts()
    assert counts.kernel_dropped > 0
    assert counts.frozen > 0
    assert counts.matched == sent
    assert sent == counts.received + counts.kernel_dropped + counts.ring_dropped
    assert counts.received == len(packets) > 0
    assert [b.index for b in got.got] == np.cumsum([0, *map(len, got.got[:-1])]).tolist()


def test_what_finds_no_arena_at_the_end_is_counted(net: Namespace, live: Opener) -> None:
    """Batches that nobody lets go of leave no room at the end: the rest is dropped by the ring."""
    got = live(ring=RingOptions(arenas=2, rows_max=10, arena_bytes=1))
    with FrameSender(net, "left") as sender:
        sender.send([UDP_9999] * 200)
    got.stopping.set()
    got.ring.join()
    counts, occupancy = got.ring.counts(), got.ring.occupancy()
    assert (counts.received + counts.ring_dropped, counts.matched) == (200, 200)
    assert (occupancy.busy_arenas, occupancy.arenas) == (2, 2)
    # The first of them may have been handed over before it was full.
    assert len(got.end()) == occupancy.queued_rows == counts.received <= 20
    assert got.ring.get(WAIT_S) is None
    assert got.ring.occupancy().busy_arenas == 0


def test_largest_packets_and_small_arenas(net: Namespace, live: Opener) -> None:
    """A packet of 60,000 bytes is whole; a batch ends where rows or bytes do."""
    got = live(ring=RingOptions(arenas=8, rows_max=3, arena_bytes=1))
    big = MACS + b"\x08\x00" + bytes(range(250)) * 240
    frames = [big, big, big, *(MACS + b"\x08\x00" + bytes([i]) * 50 for i in range(5))]
    with FrameSender(net, "left") as sender:
        sender.send(frames)
    assert got.end() == alone(frames)
    assert max(map(len, got.got)) == 3


def test_both_directions_are_seen_and_on_loopback_once(net: Namespace, live: Opener) -> None:
    """What leaves an interface is seen as what enters it; loopback shows every packet once."""
    got, lo = live("left", "right", "left"), live("lo")
    assert [each.name for each in got.sockets] == ["left", "right"]
    with FrameSender(net, "left") as sender, FrameSender(net, "lo") as inner:
        sender.send([UDP_9999])
        inner.send([UDP_9999] * 3)
    assert got.end() == alone([UDP_9999] * 2)
    assert lo.end() == alone([UDP_9999] * 3)


def test_rings_that_share_an_interface_get_each_flow_whole(net: Namespace, live: Opener) -> None:
    """Rings of a group see every packet once together, and a flow in one of them only."""
    shared = PacketOptions(group=77)
    rings, other = [live("right", "left", options=shared) for _ in range(2)], live()
    frames = [UDP_9999[:34] + struct.pack(">H", i) + UDP_9999[36:] for i in range(64)] * 5
    with FrameSender(net, "left") as sender:
        sender.send(frames)
    shares = [[data for data, _ in each.end()] for each in rings]
    assert sorted(shares[0] + shares[1]) == sorted(frames * 2)
    assert all(shares)
    for share in shares:
        assert {share.count(each) for each in set(share)} <= {5, 10}
    assert len(other.end()) == len(frames)


@pytest.mark.parametrize("on", [True, False])
def test_promiscuous_while_open(net: Namespace, live: Opener, on: bool) -> None:
    """An interface lets in what is meant for others as long as the ring is there, and if asked."""
    name = "promiscuity 1"
    got = live(options=PacketOptions(promiscuous=on))
    assert (name in net.ip("-d", "link", "show", "right")) == on
    got.end()
    assert name not in net.ip("-d", "link", "show", "right")


@pytest.mark.parametrize("command", [("link", "del", "left"), ("link", "set", "right", "down")])
def test_an_interface_that_goes_ends_the_ring(live: Opener, command: tuple[str, ...]) -> None:
    """What came before is handed over, all of it, and then one line says what happened."""
    with namespace() as own:
        got = live("lo", "right", where=own)
        with FrameSender(own, "left") as sender, FrameSender(own, "lo") as inner:
            sender.send([UDP_9999] * 300)
            inner.send([UDP_9999] * 10)
            own.ip(*command)
        got.take(310)
        with pytest.raises(
            SourceError, match=r"^packet right: the interface went down or was removed; "
        ):
            got.ring.get(WAIT_S)
        assert got.ring.ended
        counts = got.ring.counts()
        assert (counts.received, counts.matched) == (310, 310)


def test_an_idle_ring_ends_when_told(live: Opener) -> None:
    """Without a packet there is no batch, and nothing to count."""
    got = live()
    assert got.ring.get(0.05) is None
    assert got.end() == []
    assert got.ring.counts().matched == 0


def test_tun_devices_carry_ip(net: Namespace, live: Opener) -> None:
    """Packets without a link layer are raw IP, and filtered as such."""
    with tun(net, "tunnel") as handle:
        got = live("tunnel", options=PacketOptions(filter="udp"))
        os.write(handle, UDP_9999[14:])
        os.write(handle, UDP_9999[14:23] + b"\x06" + UDP_9999[24:])
        assert got.end() == alone([UDP_9999[14:]])
        assert got.got[0].linktype.tolist() == [101]
