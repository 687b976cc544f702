"""How fast one worker replays captures: by host, by device, and with a new source every packet.

    python -m tests.bench.bench_replay

The baseline, measured in the same run on the same packets, is the same job in plain Python without
its checks: what one would write with `struct`, `json` and dictionaries. Every figure is a median;
the page cache is warm; the sink is null.
"""

from __future__ import annotations

import json
import statistics
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from connectors.clock import monotonic_ns
from tests.bench import traffic
from tests.bench.figures import MACHINE, SMOKE

PACKETS = 200_000 if SMOKE else 2_000_000
MEMORY_PACKETS = 400_000 if SMOKE else 5_000_000
BASELINE_PACKETS = 100_000
REPEATS = 1 if SMOKE else 5


def measure(path: Path, by: str, rate: str) -> dict[str, Any]:
    """Replay once in a fresh process; return what it cost."""
    command = [sys.executable, "-m", "tests.bench.measure", str(path), by, rate]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    cost: dict[str, Any] = json.loads(done.stdout)
    return cost


def baseline(path: Path, by: str) -> float:
    """Return packets/s of the same job in plain Python over the head of a capture.

    Headers by `struct`, a dictionary of windows by key, then a JSON record for each device frame or
    a dictionary of flows; no rate limit, no model, no check of lengths.
    """
    with path.open("rb") as stream:
        data = stream.read(BASELINE_PACKETS * 200)
    windows: dict[bytes, list[int]] = {}
    flows: dict[tuple[bytes, bytes, int, int, int], list[int]] = {}
    at, count = 24, 0
    nano = data[:4] == b"\x4d\x3c\xb2\xa1"
    begun = monotonic_ns()
    while at + 16 <= len(data) and count < BASELINE_PACKETS:
        seconds, fraction, captured, wire = struct.unpack_from("<IIII", data, at)
        at_ns = seconds * 1_000_000_000 + fraction * (1 if nano else 1000)
        packet = data[at + 16 : at + 16 + captured]
        at += 16 + captured
        count += 1
        if packet[12:14] != b"\x08\x00":
            continue
        source, target, proto = packet[26:30], packet[30:34], packet[23]
        transport = 14 + (packet[14] & 15) * 4
        sport, dport = struct.unpack(">HH", packet[transport : transport + 4].ljust(4, b"\0"))
        key = source
        if by == "device":
            payload = packet[transport + 8 :]
            _, raw, seq = struct.unpack_from(">H16sI", payload)
            key = raw.rstrip(b"\0")
            body = json.loads(payload[22:]) if len(payload) > 22 else None
            record = {"id": key.decode(), "seq": seq, "data": body, "ts": at_ns}
            json.dumps(record).encode()
        else:
            flow = flows.setdefault((source, target, proto, sport, dport), [0, 0, at_ns])
            flow[0] += 1
            flow[1] += wire
        window = windows.setdefault(key, [0, 0, 0, at_ns])
        window[0] += 1
        window[1] += wire
        window[2] += wire * wire
        window[3] = at_ns
    return count / ((monotonic_ns() - begun) * 1e-9)


def case(path: Path, packets: int, by: str, rate: str) -> dict[str, Any]:
    """Measure one capture; return medians and the ratio to the baseline."""
    costs = [measure(path, by, rate) for _ in range(REPEATS)]
    speeds = [c["summary"]["packets_per_s"] for c in costs]
    plain = statistics.median(baseline(path, by) for _ in range(REPEATS))
    speed = statistics.median(speeds)
    middle = min(costs, key=lambda c: abs(c["summary"]["packets_per_s"] - speed))
    return {
        "by": by,
        "packets": packets,
        "bytes": path.stat().st_size,
        "packets_per_s": round(speed),
        "packets_per_s_min": round(min(speeds)),
        "packets_per_s_max": round(max(speeds)),
        "packets_per_cpu_s": round(statistics.median(packets / c["cpu_s"] for c in costs)),
        "baseline_packets_per_s": round(plain),
        "ratio_to_baseline": round(speed / plain, 1),
        "dropped": sum(middle["summary"]["dropped"].values()),
        "resident_above_start_mib": middle["resident_above_start_mib"],
        "stage_s": middle["stage_s"],
    }


def main() -> None:
    """Write the captures, measure, print JSON."""
    cases: list[tuple[str, Callable[[Path], int], str, str]] = [
        ("device", lambda p: traffic.device_frames(PACKETS, p), "device", "1000000"),
        ("new_source_each", lambda p: traffic.unique_sources(PACKETS, p), "host", "off"),
        ("memory", lambda p: traffic.device_frames(MEMORY_PACKETS, p), "device", "1000000"),
    ]
    corpus = traffic.corpus()
    if corpus is None:
        print("PENSTOCK_CORPUS is not set: the host case is left out", file=sys.stderr)
    else:
        cases.insert(
            0, ("host", lambda p: traffic.composite(corpus, PACKETS, p), "host", "1000000")
        )
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, write, by, rate in cases:
            path = Path(folder) / f"{name}.pcap"
            packets = write(path)
            measure(path, by, rate)
            results[name] = case(path, packets, by, rate)
            path.unlink()
    print(json.dumps({"machine": MACHINE, "batch_len": 8192, "repeats": REPEATS, **results}))


if __name__ == "__main__":
    main()
