"""The watch over hosts: what was planted among packets is seen, and healthy calls are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from core.finding_sections import DetectSettings
from core.sighting import Sighting
from models.host_watch import HostWatch
from tests.models.watching import SECOND_NS, batch, check_laws, host, kinds, noise, seen

SYN, ACK, RST = 0x02, 0x10, 0x04
Rows = list[dict[str, Any]]


def watch(**settings: Any) -> HostWatch:
    """Return a watch over hosts."""
    return HostWatch(DetectSettings(**settings), window_ns=SECOND_NS, keys_max=64, seed=1)


def tcp(at: float, src: int, dst: int, dport: int, flags: int = SYN, sport: int = 40_000) -> Any:
    """Return one packet of TCP."""
    return {
        "at": at, "key_lo": host(src), "peer_lo": host(dst), "proto": 6, "ethertype": 0x800,
        "dport": dport, "sport": sport, "tcp_flags": flags, "size": 60,
    }  # fmt: skip


def udp(at: float, src: int, dst: int, dport: int, sport: int = 40_000) -> Any:
    """Return one datagram."""
    return tcp(at, src, dst, dport, 0, sport) | {"proto": 17}


def arp(at: float, src: int, dst: int) -> Any:
    """Return one question of ARP."""
    return tcp(at, src, dst, 0, 0, 0) | {"proto": -1, "ethertype": 0x806}


def call(at: float, src: int, dst: int, dport: int, sport: int) -> Rows:
    """Return the client's half of a connection that comes about."""
    flags = (SYN, ACK, ACK | 0x08, ACK | 0x01)
    return [tcp(at + 0.01 * i, src, dst, dport, f, sport) for i, f in enumerate(flags)]


def healthy(seconds: float) -> Rows:
    """Return what goes on besides: five clients, many servers, names and times, all answered."""
    rows: Rows = []
    for client in range(5):
        for i, at in enumerate(noise(int(seconds), seconds, client)):
            rows += call(at, client, 100 + (7 * i + client) % 60, 443, 1024 + i)
            rows += [
                udp(at + 0.001, client, 99, 53, 2000 + i),
                udp(at + 0.002, 99, client, 2000 + i, 53),
            ]
        rows += [arp(client, client, 99), udp(client + 0.1, client, 99, 53)]
    return rows


def strongest(found: list[Sighting], rule: str) -> Sighting:
    """Return the strongest sighting of a rule."""
    return max((s for s in found if s.rule == rule), key=lambda s: s.strength)


def test_healthy_calls_are_not_seen() -> None:
    """Clients that call sixty servers for ten minutes, all of which answer."""
    assert check_laws(watch, batch(healthy(600.0))) == []


@pytest.mark.parametrize("gap", [0.001, 0.3, 5.0])
def test_calls_to_hosts_that_do_not_answer_are_a_scan(gap: float) -> None:
    """Fast or slow, of half-open connections, among healthy traffic."""
    scan = [tcp(20.0 + gap * i, 50, 1000 + i, 23) for i in range(60)]
    found = check_laws(watch, batch([*healthy(400.0), *scan, tcp(399.0, 50, 1, 23)]))
    assert set(kinds(found)) == {("scan_horizontal", "10.0.0.50")}
    told = strongest(found, "scan_horizontal")
    assert told.evidence[0].feature == "failed_calls"
    assert 20.0 <= told.evidence[0].value <= 61.0
    assert 15.0 < told.evidence[1].value < 120.0
    assert found[0].ordinal == min(s.ordinal for s in found)


def test_calls_to_many_ports_are_a_vertical_scan() -> None:
    """Refused ports are failures, too: the caller never completes a handshake."""
    scan: Rows = []
    for port in range(1, 200):
        scan += [
            tcp(20.0 + 0.01 * port, 50, 7, port),
            tcp(20.005 + 0.01 * port, 7, 50, 40_000, RST),
        ]
    found = check_laws(watch, batch([*healthy(60.0), *scan, tcp(59.0, 50, 7, 1)]))
    assert set(kinds(found)) == {("scan_vertical", "10.0.0.50")}


def test_who_is_asked_for_by_arp_and_never_spoken_to_was_scanned_for() -> None:
    """Hosts that are spoken to afterwards were only looked up."""
    sweep = [arp(20.0 + 0.05 * i, 50, 200 + i) for i in range(60)]
    found = seen(watch, batch([*healthy(60.0), *sweep, arp(59.0, 50, 1)]))
    assert set(kinds(found)) == {("scan_horizontal", "10.0.0.50")}
    spoken = [udp(20.01 + 0.05 * i, 50, 200 + i, 5000) for i in range(60) for _ in range(3)]
    assert seen(watch, batch([*sweep, *spoken, arp(59.0, 50, 1)])) == []


def test_datagrams_to_many_services_are_a_scan() -> None:
    """One each; who goes on with every one of them is spoken to."""
    scan = [udp(20.0 + 0.1 * i, 50, 7, 100 + i) for i in range(100)]
    found = seen(watch, batch([*scan, udp(59.0, 50, 7, 1)]))
    assert set(kinds(found)) == {("scan_vertical", "10.0.0.50")}
    more = [udp(20.0 + 0.1 * i + 0.01 * j, 50, 7, 100 + i) for i in range(100) for j in range(4)]
    assert seen(watch, batch([*more, udp(59.0, 50, 7, 1)])) == []


@pytest.mark.parametrize("gap", [0.05, 1.0, 4.0])
def test_connection_after_connection_to_a_login_service_is_brute_force(gap: float) -> None:
    """Each of another port, all of which come about; to a web server the same is browsing."""
    for port, want in ((22, {("brute_force", "10.0.0.50")}), (443, set())):
        tries = [row for i in range(60) for row in call(20.0 + gap * i, 50, 7, port, 5000 + i)]
        jittered = [r | {"at": r["at"] + 0.3 * gap * np.sin(i // 4)} for i, r in enumerate(tries)]
        assert set(kinds(check_laws(watch, batch([*healthy(60.0), *jittered])))) == want


def test_a_connection_now_and_then_is_no_brute_force() -> None:
    """Six a minute are forgiven as they come, and a packet sent again is the same connection."""
    tries = [row for i in range(100) for row in call(10.5 * i, 50, 7, 22, 5000 + i)]
    tries += [tcp(3.0 + 0.01 * i, 51, 7, 22) for i in range(100)]
    assert seen(lambda: watch(beacon_calls=1000), batch(tries)) == []


def test_calls_at_even_intervals_are_a_beacon() -> None:
    """A minute apart by a twentieth of a second; at intervals of chance they are not."""
    rng = np.random.default_rng(3)
    even = [
        row for i in range(40) for row in call(60.0 * i + rng.normal(0, 0.05), 50, 7, 443, 5000 + i)
    ]
    found = check_laws(watch, batch([*even, *healthy(100.0)]))
    assert set(kinds(found)) == {("beaconing", "10.0.0.50")}
    assert found[0].evidence[1].value == pytest.approx(60.0, abs=0.1)
    odd = [
        row for i, at in enumerate(noise(40, 2400.0, 4)) for row in call(at, 50, 7, 443, 5000 + i)
    ]
    assert seen(watch, batch(odd)) == []


def test_a_host_that_sends_many_times_what_it_used_to_floods() -> None:
    """Of datagrams; data of connections, which wait for who receives them, are none."""
    usual = [udp(0.2 * i, 50, 7, 9000) for i in range(150)]
    for proto, want in ((17, {("flood", "10.0.0.50")}), (6, set())):
        many = [
            udp(30.0 + i / 3000, 50, 7, 9000) | {"proto": proto, "tcp_flags": ACK}
            for i in range(9000)
        ]
        found = seen(watch, batch([*usual, *many, udp(34.0, 50, 7, 9000)]))
        assert set(kinds(found)) == want
        assert all(s.packets <= 3001 and s.evidence[0].value > 2000 for s in found)
        assert len(found) == 3 * len(want)


def test_what_was_there_from_the_beginning_is_usual() -> None:
    """A stream that is as fast as ever is none, and who comes later with one is judged at once."""
    stream = [udp(i / 1000, 50, 7, 9000) for i in range(30_000)]
    late = [udp(20.0 + i / 1000, 51, 7, 9000) for i in range(3_000)]
    assert set(kinds(seen(watch, batch([*stream, *late, udp(25.0, 51, 7, 9000)])))) == {
        ("flood", "10.0.0.51")
    }


def test_tables_are_bounded() -> None:
    """Ten times as many hosts and contacts as there is room for are watched all the same."""
    rows = [tcp(0.001 * i, i % 700, 1000 + i, 80) for i in range(3000)]
    tight = HostWatch(DetectSettings(contacts_max=16), window_ns=SECOND_NS, keys_max=16, seed=1)
    tight.update(batch(rows))
    assert all(len(table.table) == 16 for table in tight.rows().values())
