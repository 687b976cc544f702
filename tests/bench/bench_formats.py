"""What a datagram costs by its format: framed and keyed, and written as a record.

    python -m tests.bench.bench_formats

Kernels and the numpy round them, on one core, in this process: no source, no dam, no sink. The
baseline of each ratio is device frames of the same number in the same run.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable

from connectors.clock import cpu_ns
from core import records
from core.batches import FrameBatch, HeaderBatch, PacketBatch
from core.frame import device_frames, encode_frame
from core.headers import decode_headers
from core.kernels import load_kernels
from core.payloads import Payloads
from tests.bench.figures import MACHINE, SMOKE
from tests.frames import PORT, packet_batch, udp_packet

BATCH = 500 if SMOKE else 8_192
ROUNDS = 1 if SMOKE else 25
REPEATS = 1 if SMOKE else 5
DEVICES = 1_000
BYTES_MAX = 65_485

Taken = tuple[FrameBatch, Callable[[FrameBatch], object]]


def body(i: int) -> bytes:
    """Return what a device says, as JSON."""
    said = {"temperature": 18.5 + i % 70 / 10, "humidity": 31.7, "battery": 50 + i % 50}
    return json.dumps({"id": f"dev-{i % DEVICES:06}", **said}, separators=(",", ":")).encode()


def syslog(i: int) -> bytes:
    """Return a message of RFC 5424 with structured data."""
    return (
        f"<165>1 2026-01-01T22:14:15.{i % 1000:03}Z host-{i % DEVICES:06}.example.org sensord "
        f'{i % 9999} ID47 [reading@32473 temperature="18.5" battery="{50 + i % 50}"] '
        "measured, and nothing strange about it"
    ).encode()


def bsd(i: int) -> bytes:
    """Return a message of RFC 3164."""
    return (
        f"<38>Oct 11 22:14:{i % 60:02} host-{i % DEVICES:06} sshd[{i % 9999}]: Accepted publickey "
        f"for user{i % 97} from 192.0.2.{i % 250} port 50022 ssh2"
    ).encode()


def frame(i: int) -> bytes:
    """Return a device frame with the same body as that of JSON."""
    return encode_frame(f"dev-{i % DEVICES:06}", i, body(i))


PAYLOADS: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "frame": ("frame", frame),
    "json": ("json", body),
    "syslog 5424": ("syslog", syslog),
    "syslog 3164": ("syslog", bsd),
    "raw": ("raw", body),
}


def taken(packets: PacketBatch, headers: HeaderBatch, kind: str) -> Taken:
    """Frame a batch; return what came of it, and what writes its records."""
    if kind == "frame":
        return device_frames(packets, headers, PORT, BYTES_MAX)[1], records.telemetry
    how = Payloads.of(kind, "id")
    frames = how.frames(packets, headers, PORT, BYTES_MAX)[1]
    return frames, lambda frames: records.payloads(frames, how)


def cost_ns(name: str) -> tuple[float, float]:
    """Return the CPU ns a datagram takes to be framed, and to be written."""
    kind, make = PAYLOADS[name]
    packets = packet_batch([udp_packet(make(i)) for i in range(BATCH)])
    headers = decode_headers(packets)
    begun = cpu_ns()
    frames, write = taken(packets, headers, kind)
    for _ in range(ROUNDS - 1):
        taken(packets, headers, kind)
    framed = cpu_ns()
    for _ in range(ROUNDS):
        write(frames)
    assert len(frames) == BATCH
    count = BATCH * ROUNDS
    return (framed - begun) / count, (cpu_ns() - framed) / count


def main() -> None:
    """Measure and print a JSON line for each format; medians."""
    load_kernels()
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in PAYLOADS}
    for _ in range(REPEATS):
        for name, found in costs.items():
            found.append(cost_ns(name))
    whole = {name: statistics.median(map(sum, found)) for name, found in costs.items()}
    for name, found in costs.items():
        line = {
            "machine": MACHINE,
            "batch": BATCH,
            "repeats": REPEATS,
            "format": name,
            "payload_bytes": len(PAYLOADS[name][1](7)),
            "frame_ns": round(statistics.median(ns for ns, _ in found)),
            "record_ns": round(statistics.median(ns for _, ns in found)),
            "datagrams_per_cpu_s": round(1e9 / whole[name]),
            "ratio_to_device_frames": round(whole["frame"] / whole[name], 3),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
