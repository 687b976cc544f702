"""The same traffic as datagrams of each format, for the tests of what becomes of them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from core.scenario import Traffic
from tests.captures import NANO, Packet, pcap
from tests.frames import SECOND_NS, traffic_frames, udp_packet

FORMATS = ("json", "syslog", "raw")
START_NS = 1_767_225_600 * SECOND_NS
SENDER = 0x0A010000


class Sent(NamedTuple):
    """What a device sends: its number, its time, and what it says, which is JSON or nothing."""

    device: int
    at_ns: int
    body: str


def host(device: int) -> str:
    """Return a name that is longer than a device id can be."""
    return f"device-{device:04}.plant-7.example.org"


def payload(kind: str, sent: Sent) -> bytes:
    """Return what a device says as a datagram."""
    if kind == "json":
        text = f'{{"v":{sent.body or "null"},"from":{{"host":"{host(sent.device)}"}}}}'
    elif kind == "syslog":
        text = f"<13>1 2026-01-01T00:00:00Z {host(sent.device)} app - - - {sent.body}"
    else:
        text = sent.body
    return text.encode()


BAD = {"json": [b"{", b"{}", b'{"from":{"host":[]}}'],
       "syslog": [b"", b"<1>1 - h", b"<1>1 - h a - - [x"], "raw": []}  # fmt: skip
WHY = {"json": ["body_not_json", "key_missing", "key_invalid"],
       "syslog": ["syslog_priority", "syslog_header", "syslog_data"], "raw": []}  # fmt: skip


def traffic() -> list[Sent]:
    """Return what devices say in eight seconds in which one floods and others come as a herd."""
    plan = Traffic("mixed", 60, 500.0, 8.0, np.random.default_rng(5), START_NS)
    sent = []
    numbers: dict[tuple[int, int], int] = {}
    for frames in traffic_frames(plan):
        arena = frames.arena.tobytes()
        columns = (frames.key_hi, frames.key_lo, frames.at_ns, frames.body, frames.body_len)
        for hi, lo, at_ns, begin, size in zip(*(c.tolist() for c in columns), strict=True):
            number = numbers.setdefault((hi, lo), len(numbers))
            sent.append(Sent(number, at_ns, arena[begin : begin + size].decode()))
    return sent


def written(kind: str, said: list[Sent], path: Path) -> Path:
    """Write a capture of a format, the malformed at its end."""
    packets = [
        Packet(sent.at_ns, data, len(data))
        for sent in said
        for data in [udp_packet(payload(kind, sent), source=SENDER + sent.device)]
    ]
    last = packets[-1].at_ns
    packets += [Packet(last, data, len(data)) for data in map(udp_packet, BAD[kind])]
    path.write_bytes(pcap(packets, magic=NANO))
    return path
