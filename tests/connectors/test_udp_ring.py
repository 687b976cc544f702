"""The ring of UDP on real loopback sockets: what was sent is received or counted, to the packet."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np
import pytest

from connectors.ring import BUSY_HZ, GATHER_BUSY_S, GATHER_S, ROW_BYTES, RingOptions
from connectors.udp_ring import UdpRing
from connectors.udp_socket import UdpOptions, UdpSocket, open_sockets
from core.datagrams import Datagrams
from core.errors import SourceError
from core.host import key_text
from tests.senders import Sender, one

WAIT_S = 10.0


@dataclass
class Live:
    """A ring with its sockets."""

    sockets: list[UdpSocket]
    ring: UdpRing
    stopping: threading.Event
    got: list[Datagrams] = field(default_factory=list)

    def take(self, count: int) -> None:
        """Take batches until so many datagrams are here."""
        while sum(map(len, self.got)) < count:
            batch = self.ring.get(WAIT_S)
            assert batch is not None
            self.got.append(batch)

    def end(self) -> None:
        """Stop, and take what is left."""
        self.stopping.set()
        while not self.ring.ended:
            batch = self.ring.get(WAIT_S)
            if batch is not None:
                self.got.append(batch)

    def payloads(self) -> list[bytes]:
        return [
            batch.arena[a : a + n].tobytes()
            for batch in self.got
            for a, n in zip(batch.start.tolist(), batch.length.tolist(), strict=True)
        ]


Opener = Callable[..., Live]


@pytest.fixture
def live() -> Iterator[Opener]:
    """Yield what opens rings, which are stopped after the test."""
    with ExitStack() as stack:

        def begin(
            *addresses: str,
            udp: UdpOptions | None = None,
            ring: RingOptions | None = None,
            start: bool = True,
        ) -> Live:
            sockets = open_sockets(addresses or ["127.0.0.1:0"], udp or UdpOptions())
            stopping = threading.Event()
            made = Live(
                sockets, UdpRing(sockets, ring or RingOptions(arenas=4), stopping), stopping
            )
            if start:
                made.ring.start()
                stack.callback(made.ring.join)
                stack.callback(stopping.set)
            else:
                for each in sockets:
                    stack.callback(each.close)
            return made

        yield begin


def test_both_families_and_their_senders(live: Opener) -> None:
    """Datagrams of IPv4 and IPv6 come with sender, ports, a time that rises, and their number."""
    got = live("127.0.0.1:0", "[::1]:0")
    v4, v6 = got.sockets
    with Sender(v4.port, b"four", gso=False) as a, Sender(v6.port, b"", gso=False, host="::1") as b:
        ports = [each.socket.getsockname()[1] for each in (a, b)]
        a.send(1)
        got.take(1)
        b.send(1)
        got.take(2)
    got.end()
    assert got.payloads() == [b"four", b""]
    first, second = got.got
    assert [first.index, second.index] == [0, 1]
    assert [first.sport[0], second.sport[0]] == ports
    assert [first.dport[0], second.dport[0]] == [v4.port, v6.port]
    hosts = [(int(each.sender_hi[0]), int(each.sender_lo[0])) for each in got.got]
    assert [key_text(*h, is_device=False) for h in hosts] == ["127.0.0.1", "::1"]
    assert 1_600_000_000_000_000_000 < first.at_ns[0] < second.at_ns[0]


@pytest.mark.parametrize("gro", [True, False])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_segments_of_one_message_are_datagrams(live: Opener, host: str, gro: bool) -> None:
    """What a sender gave as one message of segments is received as datagrams, the last shorter."""
    got = live(f"[{host}]:0" if ":" in host else f"{host}:0", udp=UdpOptions(gro=gro))
    payload = np.arange(2050, dtype=np.uint16).astype(np.uint8).tobytes()
    one(got.sockets[0].port, payload, segment=100, host=host)
    got.take(21)
    got.end()
    assert got.payloads() == [payload[i : i + 100] for i in range(0, 2050, 100)]
    joined = gro and got.sockets[0].gro
    assert got.ring.counts().joined == (21 if joined else 0)
    if joined:
        assert np.unique(np.concatenate([batch.at_ns for batch in got.got])).size == 1


def test_largest_datagrams_and_small_arenas(live: Opener) -> None:
    """A datagram of 65,507 bytes is whole; a batch ends where rows or bytes do."""
    got = live(ring=RingOptions(arenas=4, rows_max=3, arena_bytes=1), start=False)
    port = got.sockets[0].port
    big = bytes(range(256)) * 255 + bytes(227)
    one(port, big)
    one(port, big)
    for i in range(5):
        one(port, bytes([i]))
    got.ring.start()
    got.take(7)
    got.end()
    assert got.payloads() == [big, big, *(bytes([i]) for i in range(5))]
    assert [len(batch) for batch in got.got] == [1, 3, 3]
    assert [batch.index for batch in got.got] == [0, 1, 4]


def test_what_is_longer_than_allowed_is_cut(live: Opener) -> None:
    """Only so many bytes of a datagram are kept, its length is known, and it is counted."""
    got = live(ring=RingOptions(arenas=2, bytes_max=10))
    one(got.sockets[0].port, b"0123456789abc")
    one(got.sockets[0].port, b"0123456789")
    got.take(2)
    got.end()
    assert got.payloads() == [b"0123456789"] * 2
    assert np.concatenate([batch.claimed_len for batch in got.got]).tolist() == [13, 10]
    counts = got.ring.counts()
    assert (counts.truncated, counts.received_bytes) == (1, 23)


def test_a_sender_that_is_faster_is_accounted_for(live: Opener) -> None:
    """With a tiny buffer and a slow reader: sent = received + dropped by the kernel, exactly."""
    got = live(
        udp=UdpOptions(buffer_bytes=20_000),
        ring=RingOptions(arenas=2, rows_max=64, arena_bytes=1 << 16),
    )
    sent = 0
    with Sender(got.sockets[0].port, bytes(64), gso=False) as sender:
        for _ in range(200):
            sent += sender.send()
    got.end()
    counts = got.ring.counts()
    assert counts.kernel_dropped > 0
    assert sent == counts.received + counts.kernel_dropped + counts.ring_dropped
    assert counts.received == sum(map(len, got.got))
    assert [b.index for b in got.got] == np.cumsum([0, *map(len, got.got[:-1])]).tolist()


@pytest.mark.parametrize("gro", [True, False])
def test_joined_datagrams_that_are_dropped_make_the_count_a_lower_bound(
    live: Opener, gro: bool
) -> None:
    """The kernel counts a message of segments as one, unless it has to split it."""
    got = live(udp=UdpOptions(buffer_bytes=20_000, gro=gro), ring=RingOptions(arenas=2))
    with Sender(got.sockets[0].port, bytes(64), gso=True) as sender:
        sent = sum(sender.send() for _ in range(10))
    got.end()
    counts = got.ring.counts()
    assert counts.kernel_dropped > 0
    if counts.joined:
        assert sent > counts.received + counts.kernel_dropped + counts.ring_dropped
    else:
        assert sent == counts.received + counts.kernel_dropped + counts.ring_dropped
    assert bool(counts.joined) == (gro and got.sockets[0].gro)


def test_a_full_ring_leaves_the_rest_to_the_kernel_and_counts_what_it_drops_itself(
    live: Opener,
) -> None:
    """Nobody takes batches: arenas fill, the kernel's buffer fills, and all of it is counted."""
    got = live(
        udp=UdpOptions(buffer_bytes=20_000),
        ring=RingOptions(arenas=2, rows_max=10, arena_bytes=4096),
    )
    with Sender(got.sockets[0].port, bytes(64), gso=False) as sender:
        sent = sum(sender.send() for _ in range(20))
        got.stopping.set()
        got.ring.join()
    occupancy = got.ring.occupancy()
    counts = got.ring.counts()
    assert (occupancy.busy_arenas, occupancy.arenas) == (2, 2)
    assert occupancy.queued_rows == counts.received <= 20
    assert counts.ring_dropped > 0
    assert counts.kernel_dropped > 0
    assert sent == counts.received + counts.kernel_dropped + counts.ring_dropped
    got.end()
    assert sum(map(len, got.got)) == counts.received
    got.got.clear()
    assert got.ring.occupancy().busy_arenas == 0


@pytest.mark.parametrize("buffer_bytes", [64 << 10, 1 << 20, 32 << 20])
def test_gathering_leaves_the_kernel_most_of_its_room(live: Opener, buffer_bytes: int) -> None:
    """The faster datagrams come, the larger are batches, within a quarter of the buffer."""
    made = live(udp=UdpOptions(buffer_bytes=buffer_bytes), start=False)
    granted = made.sockets[0].granted_bytes
    pauses = {rate_hz: made.ring.gather_s(rate_hz) for rate_hz in (1.0, 5e4, 1e5, 1e6, 1e7)}
    for rate_hz, pause_s in pauses.items():
        assert 0.0 < pause_s * rate_hz * ROW_BYTES <= granted / 4 * 1.001
        assert pause_s <= (GATHER_BUSY_S if rate_hz > BUSY_HZ else GATHER_S)
    assert pauses[1.0] == GATHER_S
    if granted > 16 << 20:
        assert (pauses[5e4], pauses[1e5]) == (GATHER_S, GATHER_BUSY_S)


def test_what_came_before_stopping_is_handed_over(live: Opener) -> None:
    """Stopping empties the sockets: what the kernel accepted is received, and the ring ends."""
    got = live(start=False)
    for i in range(300):
        one(got.sockets[0].port, bytes([i % 256]))
    got.stopping.set()
    got.ring.start()
    got.end()
    assert got.payloads() == [bytes([i % 256]) for i in range(300)]
    assert got.ring.get(WAIT_S) is None
    assert got.ring.counts().kernel_dropped == 0


def test_batches_are_never_written_again(live: Opener) -> None:
    """With two arenas, and batches kept as slices, later datagrams change none of them."""
    got = live(ring=RingOptions(arenas=2, rows_max=4, arena_bytes=64))
    kept: SimpleQueue[tuple[bytes, np.ndarray]] = SimpleQueue()
    for i in range(40):
        one(got.sockets[0].port, bytes([i]) * 8)
        got.take(1)
        batch = got.got.pop()
        kept.put((bytes([i]) * 8, batch.arena[:8]))
        del batch
        if kept.qsize() == 2:
            want, bytes_ = kept.get()
            assert bytes_.tobytes() == want
            del bytes_


def test_a_socket_that_fails_is_an_error(live: Opener) -> None:
    """A descriptor that is no socket any more ends the ring with one line that names it."""
    got = live(start=False)
    reading, writing = os.pipe()
    os.dup2(reading, got.sockets[0].fileno())
    os.write(writing, b"x")
    got.ring.start()
    with pytest.raises(SourceError, match=r"^udp 127.0.0.1:\d+: receiving failed: "):
        got.ring.get(WAIT_S)
    assert got.ring.ended
    os.close(reading)
    os.close(writing)
