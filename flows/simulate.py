"""Write a scenario as a capture file: device frames in packets, and whatever else a wire carries.

Laws:

1. The same arguments give the same bytes. Nothing depends on the machine, the clock or its routes.
2. Every packet but a deliberately broken one has correct lengths and checksums (IPv4, UDP), and is
   padded to 60 bytes, as Ethernet does.
3. `packets = frames + Σ malformed + Σ other`; a malformed packet has exactly one fault, and
   `REASON_OF` says what a decoder is to call it.
4. Memory is bounded: packets are written some thousands at a time. The file appears under its name
   when it is whole.

Scapy builds one header for each shape of packet and the few odd packets; numpy does the rest,
because scapy alone builds about a thousand packets per second.

Not here: who sends what when (`core.scenario`). No command but `penstock simulate` may import this
module, because scapy takes long to import.
Source: classic pcap with ns timestamps, draft-ietf-opsawg-pcap; checksums, RFC 1071.
"""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from core.errors import SinkError, UsageError
from core.odd import ODD, odd_each
from core.reasons import FIRST_MALFORMED, Reason
from core.scenario import FRAMES_MAX, Kind, Plan, Traffic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    I8 = NDArray[np.int64]
    Packets = NDArray[np.void]  # of _PACKET
    U1 = NDArray[np.uint8]

START_NS = 1_767_225_600_000_000_000
"""When a simulated capture begins unless told otherwise: 2026-01-01T00:00:00Z."""

REASON_OF = {
    "frame_short": Reason.FRAME_SHORT,
    "bad_magic": Reason.BAD_MAGIC,
    "bad_device_id": Reason.BAD_DEVICE_ID,
    "body_not_json": Reason.BODY_NOT_JSON,
    "body_nan": Reason.BODY_NOT_JSON,
    "body_too_deep": Reason.BODY_NOT_JSON,
    "trailing_garbage": Reason.BODY_NOT_JSON,
    "body_too_large": Reason.BODY_TOO_LARGE,
    "ethernet_short": Reason.LINK_HEADER,
    "ipv4_short": Reason.IPV4_HEADER,
    "ipv4_version": Reason.IPV4_HEADER,
    "ipv4_ihl": Reason.IPV4_HEADER,
    "udp_short": Reason.UDP_HEADER,
    "udp_length": Reason.UDP_LENGTH,
    "tcp": Reason.NOT_UDP,
    "arp": Reason.NOT_UDP,
    "ipv6": Reason.NOT_UDP,
    "other_port": Reason.OTHER_PORT,
    "fragment": Reason.FRAGMENT,
}
"""Kind of a packet, as the summary names it, → what decoding calls it."""

_ODD_VARIANTS = 16
_CHUNK_PACKETS = 8_192
_PAD_BYTES = 60
_SNAP_BYTES = 262_144
_SINK_MAC, _SINK_IP, _SINK_IP6 = "02:00:5e:00:00:01", "10.255.0.1", "2001:db8:ffff::1"


class SimulationSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What was written.

    Attributes:
        path: The capture file.
        scenario: Its scenario.
        packets: Packets in it.
        bytes: Its size.
        frames: Packets that hold a well-formed device frame.
        devices: Devices that sent at least one of those.
        malformed: Malformed packets by kind.
        other: Healthy packets that are no device frames, by kind.
        seconds: Length of the scenario.
    """

    path: str
    scenario: str
    packets: int
    bytes: int
    frames: int
    devices: int
    malformed: dict[str, int]
    other: dict[str, int]
    seconds: float


# A packet as it will lie in the file: a head, and a body that may be empty.
_PACKET = np.dtype(
    [
        ("at_ns", "i8"),
        ("head", "i8"),  # where the headers begin, or a whole packet made by scapy
        ("head_len", "i8"),
        ("body", "i8"),  # where the UDP payload begins
        ("body_len", "i8"),
        ("network", "i8"),  # where in the head the IP header begins; 0: leave the packet alone
        ("version6", "?"),
    ]
)


def simulate(
    path: Path,
    *,
    scenario: str,
    devices: int,
    rate_hz: float,
    seconds: float,
    seed: int,
    port: int,
    start_ns: int = START_NS,
) -> SimulationSummary:
    """Write a scenario as a classic pcap file with ns timestamps.

    Args:
        path: The file; replaced if it exists.
        scenario: One of `core.scenario.SCENARIOS`; `malformed` and `mixed` have odd packets, too.
        devices: Steady devices, 1 … 100,000.
        rate_hz: Frames of all steady devices together per second.
        seconds: Length of the scenario.
        seed: 0 or more; another seed gives another capture.
        port: UDP port the devices send to, 1 … 65535.
        start_ns: Time of the capture's beginning, ns since the epoch, within 32 bits of seconds.

    Returns:
        What was written.

    Raises:
        UsageError: An argument is unknown or out of bounds.
        SinkError: The file cannot be written.
    """
    if not 1 <= port <= 0xFFFF:
        raise UsageError(f"port {port} is out of bounds: give 1 to 65535")
    if seed < 0:
        raise UsageError(f"seed {seed} is out of bounds: give 0 or more")
    rng = np.random.Generator(np.random.PCG64(seed))
    traffic = Traffic(scenario, devices, rate_hz, seconds, rng, start_ns)
    if not 0 <= start_ns <= (2**32 - 1) * 10**9 - traffic.end_ns:
        raise UsageError(f"start_ns {start_ns} is out of bounds: pcap ends with the year 2105")
    sender = _Sender(traffic, port)
    written = _write(path, sender)
    names = [*(kind.name.lower() for kind in Kind), *ODD]
    counts = dict(zip(names, sender.counts.tolist(), strict=True))
    present = [(name, reason) for name, reason in REASON_OF.items() if counts[name]]
    return SimulationSummary(
        path=str(path),
        scenario=scenario,
        packets=sum(counts.values()),
        bytes=written,
        frames=counts["well_formed"],
        devices=int(sender.seen.sum()),
        malformed={name: counts[name] for name, reason in present if reason >= FIRST_MALFORMED},
        other={name: counts[name] for name, reason in present if reason < FIRST_MALFORMED},
        seconds=seconds,
    )


def _write(path: Path, sender: _Sender) -> int:
    """Write a whole capture; return its bytes."""
    # A device or a pipe takes the bytes as they come; a file appears when it is whole.
    special = path.exists() and not path.is_file()
    target = path if special else path.with_name(f".{path.name}.part")
    try:
        with target.open("wb") as file:
            size = file.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, _SNAP_BYTES, 1))
            for heads, bodies, packets in sender.chunks():
                size += file.write(_encode(heads, bodies, packets).data)
        if not special:
            target.replace(path)
    except OSError as error:
        cure = "name a file in a folder that can be written and has room"
        raise SinkError(f"{path}: cannot be written: {error.strerror or error}; {cure}") from error
    finally:
        if not special:
            with contextlib.suppress(OSError):  # what matters was raised above
                target.unlink(missing_ok=True)
    return size


class _Sender:
    """Puts headers round the payloads of a scenario, and odd packets between them."""

    def __init__(self, traffic: Traffic, port: int) -> None:
        self._traffic = traffic
        self.seen = np.zeros(traffic.population, np.bool_)
        self.counts = np.zeros(len(Kind) + len(ODD), np.int64)
        heads, self._head_len, self._network, self._version6 = _heads(traffic.population, port)
        self._width = heads.shape[1]
        each = odd_each(traffic)
        if traffic.frames_max + each * len(ODD) > FRAMES_MAX:
            much = f"rate_hz {traffic.rate_hz}: more than {FRAMES_MAX:,} packets"
            raise UsageError(f"{much}; lower rate_hz, seconds or devices")
        packets = [_odd(kind, port, j) for kind in ODD for j in range(_ODD_VARIANTS)]
        self._odd_len = np.array([len(packet) for packet in packets], np.int64)
        self._odd_at = heads.size + np.cumsum(self._odd_len) - self._odd_len
        self._all = np.concatenate([heads.reshape(-1), np.frombuffer(b"".join(packets), np.uint8)])
        # Kinds take turns, so that each has its share; times are even but for their jitter.
        self._odd = np.arange(each * len(ODD))
        gap_ns = traffic.end_ns / max(self._odd.size, 1)
        late = traffic.rng.random(self._odd.size)
        self._odd_ns = traffic.start_ns + ((self._odd + late) * gap_ns).astype(np.int64)

    def chunks(self) -> Iterator[tuple[U1, U1, Packets]]:
        """Yield the bytes of heads, those of bodies, and packets, in order of time."""
        done = 0
        for plan in self._traffic.slices():
            last = int(np.searchsorted(self._odd_ns, plan.at_ns[-1])) if len(plan) else done
            yield from self._merge(plan, self._odd[done:last])
            done = last
        yield from self._merge(plan.take(slice(0, 0)), self._odd[done:])

    def _merge(self, plan: Plan, odd: I8) -> Iterator[tuple[U1, U1, Packets]]:
        self.counts[: len(Kind)] += np.bincount(plan.kind, minlength=len(Kind))
        self.counts[len(Kind) :] += np.bincount(odd % len(ODD), minlength=len(ODD))
        self.seen[plan.device[plan.kind == Kind.WELL_FORMED]] = True
        # What is too large for IPv4 comes from one more sender, who is on IPv6.
        who = np.where(plan.kind == Kind.BODY_TOO_LARGE, self.seen.size, plan.device)
        which = odd % len(ODD) * _ODD_VARIANTS + odd // len(ODD) % _ODD_VARIANTS
        packets = np.zeros(len(plan) + odd.size, _PACKET)
        ours, others = packets[: len(plan)], packets[len(plan) :]
        ours["at_ns"], ours["body"], ours["body_len"] = plan.at_ns, plan.start, plan.length
        ours["head"], ours["head_len"] = who * self._width, self._head_len[who]
        ours["network"], ours["version6"] = self._network[who], self._version6[who]
        others["at_ns"] = self._odd_ns[odd]
        others["head"], others["head_len"] = self._odd_at[which], self._odd_len[which]
        packets = packets[np.argsort(packets["at_ns"], kind="stable")]
        for first in range(0, packets.size, _CHUNK_PACKETS):
            yield self._all, plan.arena, packets[first : first + _CHUNK_PACKETS]


def _heads(population: int, port: int) -> tuple[U1, I8, I8, NDArray[np.bool_]]:
    """Make the headers of every device, and of one more sender on IPv6.

    Returns:
        Headers as rows, their lengths, where in them IP begins, and whether it is IPv6.
    """
    who = np.arange(population + 1)
    rows = np.zeros((who.size, 66), np.uint8)
    length, network = np.zeros(who.size, np.int64), np.full(who.size, 14, np.int64)
    version6 = (who % 8 == 3) | (who % 16 == 7)
    version6[-1] = True
    tagged = (who % 8 == 5) | (who % 16 == 7)
    network[tagged] = 18
    for six in (False, True):
        for tag in (False, True):
            ether = Ether(src="02:00:00:00:00:00", dst=_SINK_MAC)
            if tag:
                ether /= Dot1Q(vlan=42)
            udp = UDP(sport=0, dport=port, len=0, chksum=0)
            ip4 = IP(src="10.0.0.0", dst=_SINK_IP, flags="DF", chksum=0)
            ip6 = IPv6(src="2001:db8::", dst=_SINK_IP6, hlim=64)
            head = bytes(ether / ip6 / udp if six else ether / ip4 / udp)
            chosen = np.flatnonzero((version6 == six) & (tagged == tag))
            rows[chosen, : len(head)] = np.frombuffer(head, np.uint8)
            length[chosen] = len(head)
            at = 14 + 4 * tag
            number = (1 + chosen).astype(">u4").view(np.uint8).reshape(-1, 4)
            rows[chosen, 8:12] = number
            source = at + (20 if six else 12)  # the last 32 bits of the source address
            rows[chosen, source + 1 : source + 4] = number[:, 1:]
            sport = len(head) - 8
            rows[chosen, sport : sport + 2] = _be16(49_152 + chosen % 16_384)
    return rows, length, network, version6


def _be16(values: I8) -> U1:
    return values.astype(">u2").view(np.uint8).reshape(-1, 2)


def _encode(heads: U1, bodies: U1, packets: Packets) -> U1:
    """Lay packets out as records of a pcap file, with their lengths and checksums."""
    head_len, body_len = packets["head_len"], packets["body_len"]
    ours = packets["network"] > 0
    length = np.maximum(head_len + body_len, np.where(ours, _PAD_BYTES, 0))
    at = np.cumsum(length + 16) - length  # where each packet begins, behind its record header
    out = np.zeros(int((length + 16).sum()), np.uint8)
    seconds, ns = np.divmod(packets["at_ns"], 10**9)
    record = np.stack([seconds, ns, length, length], axis=1).astype("<u4").view(np.uint8)
    out[at[:, None] + np.arange(-16, 0)] = record
    _copy(out, at, heads, packets["head"], head_len)
    _copy(out, at + head_len, bodies, packets["body"], body_len)

    pair = np.arange(2)
    udp = (at + head_len - 8)[ours]
    udp_len = body_len[ours] + 8
    ip, six = (at + packets["network"])[ours], packets["version6"][ours]
    four = ip[~six]
    out[(udp + 4)[:, None] + pair] = _be16(udp_len)
    out[(ip + np.where(six, 4, 2))[:, None] + pair] = _be16(np.where(six, udp_len, udp_len + 20))
    sums = _Sums(out)
    out[(four + 10)[:, None] + pair] = _be16(0xFFFF - sums.of(four, four + 20))
    addresses = sums.of(ip + np.where(six, 8, 12), ip + np.where(six, 40, 20))
    total = _fold(addresses + 17 + udp_len + sums.of(udp, udp + udp_len))
    # A sum of zero is sent as its other form, because zero says that there is none (RFC 768).
    out[(udp + 6)[:, None] + pair] = _be16(np.where(total == 0xFFFF, 0xFFFF, 0xFFFF - total))
    return out


def _copy(out: U1, to: I8, source: U1, start: I8, length: I8) -> None:
    """Copy slices of `source` into `out`, each to its own place."""
    first = np.cumsum(length) - length
    within = np.arange(int(length.sum())) - np.repeat(first, length)
    out[within + np.repeat(to, length)] = source[within + np.repeat(start, length)]


class _Sums:
    """Ones' complement sums of any ranges of an array, after one pass over it (RFC 1071)."""

    def __init__(self, data: U1) -> None:
        words = data.astype(np.int64)
        words[::2] <<= 8
        self._upto = np.concatenate([np.zeros(1, np.int64), np.cumsum(words)])

    def of(self, start: I8, end: I8) -> I8:
        """Return the 16-bit sums of `data[start:end]`, row by row."""
        total = _fold(self._upto[end] - self._upto[start])
        # A range that begins at an odd place was summed with its bytes swapped, and so is its sum.
        return np.where(start % 2 == 1, (total >> 8) | ((total & 0xFF) << 8), total)


def _fold(total: I8) -> I8:
    for _ in range(3):
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _odd(kind: str, port: int, j: int) -> bytes:
    """Build variant `j` of an odd packet, wholly by scapy but for its fault."""
    mac, address, sport = f"02:00:00:ff:00:{j:02x}", f"10.254.0.{1 + j}", 50_000 + j
    ether = Ether(src=mac, dst=_SINK_MAC)
    ip = ether / IP(src=address, dst=_SINK_IP)
    text = Raw(bytes(range(64, 96 + j)))
    tcp = TCP(sport=sport, dport=443, flags=("S", "SA", "A", "PA", "FA", "R")[j % 6], seq=1000 * j)
    if kind in ("ethernet_short", "ipv4_short", "ipv4_version", "ipv4_ihl"):
        # More header than the packet has, by an IHL of 15, needs a packet of less than 60 bytes.
        bare = kind == "ipv4_ihl" and j % 2 == 1
        data = bytearray(bytes(ip / UDP(sport=sport, dport=port) / (Raw() if bare else text)))
        if kind == "ipv4_version":
            data[14] = (5, 0, 15, 7)[j % 4] << 4 | 5
        elif kind == "ipv4_ihl":
            data[14] = 0x4F if bare else 0x40 | j // 2 % 5
        cut = {"ethernet_short": 1 + j % 13, "ipv4_short": 14 + j}.get(kind, len(data))
        return bytes(data[:cut])
    if kind == "fragment":
        whole = bytes(UDP(sport=sport, dport=port, len=2056, chksum=0) / Raw(bytes(2048)))
        flags, first = ("MF", 0) if j % 2 == 0 else (0, 1024)
        piece = IP(src=address, dst=_SINK_IP, proto=17, id=j // 2, flags=flags, frag=first // 8)
        return bytes(ether / piece / Raw(whole[first:][: 1024 if first == 0 else None]))
    ip6 = ether / IPv6(src=f"2001:db8:1::{1 + j:x}", dst=_SINK_IP6)
    made = {
        "udp_short": ether / IP(src=address, dst=_SINK_IP, proto=17) / Raw(text.load[: j % 8]),
        "udp_length": ip / UDP(sport=sport, dport=port, len=200 + j) / text,
        "tcp": ip / tcp / text,
        "arp": ether / ARP(op=1 + j % 2, hwsrc=mac, psrc=address, hwdst=_SINK_MAC, pdst=_SINK_IP),
        "ipv6": ip6 / (ICMPv6ND_NS(tgt=_SINK_IP6) if j % 2 else tcp),
        "other_port": ip / UDP(sport=sport, dport=53 if port != 53 else 123) / text,
    }
    return bytes(made[kind])
