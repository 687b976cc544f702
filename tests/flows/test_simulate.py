"""Simulated captures read back, with scapy and tcpdump, as what their summary says."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections import Counter
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw
from scapy.utils import rdpcap

from core.errors import PenstockError, SinkError, UsageError
from core.reasons import Reason
from core.scenario import SCENARIOS
from flows.simulate import REASON_OF, START_NS, SimulationSummary, simulate

PORT = 9999


def simulated(path: Path, scenario: str = "mixed", seed: int = 1) -> SimulationSummary:
    return simulate(
        path, scenario=scenario, devices=40, rate_hz=150.0, seconds=4.0, seed=seed, port=PORT
    )


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[SimulationSummary, list[bytes]]:
    path = tmp_path_factory.mktemp("mixed") / "mixed.pcap"
    summary = simulated(path)
    return summary, [data for _, data in packets_of(path)]


def packets_of(path: Path) -> list[tuple[int, bytes]]:
    """Return time in ns and bytes of every packet of a classic, little-endian ns pcap file.

    Scapy's own reader cuts packets at 65,535 bytes, and the largest of a scenario are longer.
    """
    data = path.read_bytes()
    assert struct.unpack_from("<IHH", data) == (0xA1B23C4D, 2, 4)
    assert struct.unpack_from("<I", data, 20) == (1,)
    at, found = 24, []
    while at < len(data):
        seconds, ns, caplen, wirelen = struct.unpack_from("<IIII", data, at)
        assert caplen == wirelen
        assert ns < 10**9
        found.append((seconds * 10**9 + ns, data[at + 16 : at + 16 + caplen]))
        at += 16 + caplen
    assert at == len(data)
    return found


def ip_of(packet: Packet) -> tuple[int, Packet | None]:
    """Return where the IP header begins, and the header if the EtherType speaks of one."""
    at = 18 if Dot1Q in packet else 14
    found = packet.getlayer(IP) or packet.getlayer(IPv6)
    return at, found


def payload_of(data: bytes) -> bytes | None:
    """Return the UDP payload to the port of a sound, whole datagram."""
    if len(data) < 14:
        return None
    packet = Ether(data)
    if UDP not in packet or packet[UDP].dport != PORT:
        return None
    at, ip = ip_of(packet)
    if ip is None or (IP in packet and (ip.flags.MF or ip.frag)):
        return None
    udp = at + (40 if IPv6 in packet else 4 * ip.ihl)
    end = udp + packet[UDP].len
    return data[udp + 8 : end] if end <= len(data) else None


def named(data: bytes) -> str:
    """Say what a packet is, as coarsely as reasons do, judged by its bytes alone."""
    if len(data) < 14:
        return "LINK_HEADER"
    packet = Ether(data)
    if packet.type == 0x0806:
        return "NOT_UDP"
    if packet.type == 0x0800:
        head = data[14:34]
        if len(head) < 20 or head[0] >> 4 != 4:
            return "IPV4_HEADER"
        words, total = head[0] & 15, struct.unpack_from(">H", head, 2)[0]
        if words < 5 or 4 * words > min(total, len(data) - 14):
            return "IPV4_HEADER"
        if struct.unpack_from(">H", head, 6)[0] & 0x3FFF:
            return "FRAGMENT"
        if head[9] == 17 and total < 28:
            return "UDP_HEADER"
        if head[9] == 17 and struct.unpack_from(">H", data, 38)[0] > total - 20:
            return "UDP_LENGTH"
    if UDP not in packet:
        return "NOT_UDP"
    if packet[UDP].dport != PORT:
        return "OTHER_PORT"
    payload = payload_of(data)
    assert payload is not None
    if len(payload) < 22:
        return "FRAME_SHORT"
    if payload[:2] != b"\xaa\x55":
        return "BAD_MAGIC"
    if payload[2] == 0xFF:
        return "BAD_DEVICE_ID"
    if len(payload) > 65_507:
        return "BODY_TOO_LARGE"
    body = payload[22:]
    try:
        assert body.count(b"[") < 65
        assert body.count(b"{") < 65
        msgspec.json.decode(body or b"null")
    except (AssertionError, msgspec.DecodeError, UnicodeDecodeError):
        return "BODY_NOT_JSON"
    return "FRAME"


def test_the_summary_is_what_is_in_the_file(
    mixed: tuple[SimulationSummary, list[bytes]],
) -> None:
    """Counted by their bytes, packets of every kind are as many as the summary says."""
    summary, packets = mixed
    found = Counter(named(data) for data in packets)
    said = Counter({"FRAME": summary.frames})
    for kinds in (summary.malformed, summary.other):
        for kind, count in kinds.items():
            said[REASON_OF[kind].name] += count
    assert found == said
    assert summary.packets == len(packets)
    assert summary.packets == said.total()
    assert summary.bytes == Path(summary.path).stat().st_size


def test_mixed_has_every_kind(mixed: tuple[SimulationSummary, list[bytes]]) -> None:
    """Each malformation and each sort of other traffic occurs at least five times."""
    summary, _ = mixed
    assert set(summary.malformed) | set(summary.other) == set(REASON_OF)
    assert min(*summary.malformed.values(), *summary.other.values()) >= 5
    healthy = {kind for kind, reason in REASON_OF.items() if reason < Reason.LINK_UNSUPPORTED}
    assert set(summary.other) == healthy


def test_device_frames_are_from_the_devices(
    mixed: tuple[SimulationSummary, list[bytes]],
) -> None:
    """Ids are as many as the summary says; one id has one sender, by MAC, address and port."""
    summary, packets = mixed
    senders: dict[bytes, set[tuple[str, str, int]]] = {}
    for data in packets:
        if named(data) == "FRAME":
            packet, payload = Ether(data), payload_of(data)
            ip = ip_of(packet)[1]
            assert payload is not None
            assert ip is not None
            sender = (packet.src, ip.src, packet[UDP].sport)
            senders.setdefault(payload[2:18], set()).add(sender)
    assert len(senders) == summary.devices
    assert all(len(found) == 1 for found in senders.values())
    assert len(set().union(*senders.values())) == len(senders)


def test_checksums_and_lengths_are_scapys(
    mixed: tuple[SimulationSummary, list[bytes]],
) -> None:
    """Scapy, asked to compute lengths and checksums again, gives the same bytes."""
    _, packets = mixed
    shapes: Counter[tuple[bool, bool]] = Counter()
    for data in packets:
        payload = payload_of(data)
        if payload is None or named(data) in ("UDP_LENGTH", "UDP_HEADER", "IPV4_HEADER"):
            continue
        packet = Ether(data)
        at, ip = ip_of(packet)
        assert ip is not None
        shapes[IPv6 in packet, Dot1Q in packet] += 1
        again = packet.copy()
        for layer, field in ((IP, "len"), (IP, "chksum"), (IPv6, "plen")):
            if layer in again:
                delattr(again[layer], field)
        del again[UDP].len, again[UDP].chksum
        again[UDP].remove_payload()
        built = bytes(again / Raw(payload))
        assert built == data[: len(built)], packet.summary()
        assert data[len(built) :] == bytes(max(0, 60 - len(built)))
        assert at == 14 + 4 * (Dot1Q in packet)
    assert len(shapes) == 4
    assert min(shapes.values()) > 10


def test_other_traffic_is_healthy(mixed: tuple[SimulationSummary, list[bytes]]) -> None:
    """TCP over IPv4 and IPv6, ARP, ICMPv6, another port, first and later fragments are there."""
    _, packets = mixed
    seen: Counter[str] = Counter()
    for data in packets:
        kind = named(data)
        if kind in ("NOT_UDP", "OTHER_PORT", "FRAGMENT"):
            packet = Ether(data)
            seen["arp"] += ARP in packet
            seen["tcp4"] += IP in packet and TCP in packet
            seen["tcp6"] += IPv6 in packet and TCP in packet
            seen["icmp6"] += IPv6 in packet and packet[IPv6].nh == 58
            seen["port"] += kind == "OTHER_PORT"
            if kind == "FRAGMENT":
                seen["later" if packet[IP].frag else "first"] += 1
    assert len(seen) == 7
    assert min(seen.values()) >= 4


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_packets_are_in_order_of_time(tmp_path: Path, scenario: str) -> None:
    """Times in ns never step back, begin at the documented instant, and end with the scenario."""
    summary = simulated(tmp_path / "a.pcap", scenario)
    times = [at_ns for at_ns, _ in packets_of(tmp_path / "a.pcap")]
    assert len(times) == summary.packets
    assert all(a <= b for a, b in pairwise(times))
    assert times[0] >= START_NS
    assert times[-1] < START_NS + 4 * 10**9
    assert any(time % 1000 for time in times)
    assert bool(summary.malformed) == (scenario in ("malformed", "mixed"))


def test_a_seed_is_a_file(tmp_path: Path) -> None:
    """The same seed gives the same bytes, another seed gives others."""
    first, same, other = (tmp_path / name for name in ("a", "b", "c"))
    summary = simulated(first)
    assert simulated(same) == msgspec.structs.replace(summary, path=str(same))
    simulated(other, seed=2)
    assert first.read_bytes() == same.read_bytes()
    assert first.read_bytes() != other.read_bytes()


def test_large_scenarios_are_written_in_pieces(tmp_path: Path) -> None:
    """More packets than a chunk and than a slice of a scenario still add up and stay in order."""
    path = tmp_path / "a.pcap"
    summary = simulate(
        path, scenario="mixed", devices=50, rate_hz=20_000, seconds=7, seed=3, port=5514
    )
    assert summary.packets > 2 * 65_536
    times = [at_ns for at_ns, _ in packets_of(path)]
    assert len(times) == summary.packets
    assert all(a <= b for a, b in pairwise(times))


def test_scapy_reads_the_same_packets(mixed: tuple[SimulationSummary, list[bytes]]) -> None:
    """Scapy's reader finds the same bytes, up to where it cuts."""
    summary, packets = mixed
    assert [bytes(p) for p in rdpcap(summary.path)] == [data[:65_535] for data in packets]


def test_tcpdump_agrees(tmp_path: Path) -> None:
    """Libpcap counts the same packets, and tcpdump finds no bad checksum among healthy frames."""
    tool = shutil.which("tcpdump")
    if tool is None:
        pytest.skip("tcpdump is not installed")
    path = tmp_path / "a.pcap"
    summary = simulated(path, "herd")

    def ask(*arguments: str) -> str:
        command = [tool, "-n", "-r", str(path), *arguments]
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout

    assert int(ask("--count").split()[0]) == summary.packets
    said = ask("-vv", "-T", "vat")
    assert "bad" not in said
    assert "incorrect" not in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scenario": "fload"}, "did you mean 'flood'"),
        ({"devices": 0}, "devices 0 is out of bounds"),
        ({"rate_hz": -1.0}, "rate_hz -1.0 is out of bounds"),
        ({"seconds": 0.0}, "seconds 0.0 is out of bounds"),
        ({"port": 0}, "port 0 is out of bounds: give 1 to 65535"),
        ({"seed": -1}, "seed -1 is out of bounds"),
        ({"start_ns": -1}, "start_ns -1 is out of bounds"),
        ({"rate_hz": 2_400_000.0, "scenario": "malformed"}, "lower rate_hz, seconds or devices"),
    ],
)
def test_impossible_arguments_are_refused(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    """One line names the argument and what it may be; nothing is written."""
    usual: dict[str, object] = {"scenario": "steady", "devices": 4, "rate_hz": 10.0}
    usual |= {"seconds": 20.0, "seed": 1, "port": PORT}
    with pytest.raises(UsageError, match=said) as caught:
        simulate(tmp_path / "a.pcap", **(usual | change))  # type: ignore[arg-type]  # on purpose
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_paths_are_named(tmp_path: Path) -> None:
    """A missing folder and a folder in the file's place end with one line and leave nothing."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "no" / "a.pcap", tmp_path, tmp_path / "file" / "a.pcap"):
        with pytest.raises(SinkError, match=r"cannot be written: .+; name a file") as caught:
            simulated(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value, PenstockError)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is not here")
def test_a_full_disk_is_named() -> None:
    """A device takes the bytes directly, and says when it has no room."""
    with pytest.raises(SinkError, match=os.strerror(28)):
        simulated(Path("/dev/full"))


def test_a_file_is_replaced_when_it_is_whole(tmp_path: Path) -> None:
    """An old file gives way to the new one, and no partial file stays behind."""
    path = tmp_path / "a.pcap"
    path.write_bytes(b"old")
    assert simulated(path).bytes == path.stat().st_size
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pcap"]
