"""What receiving costs: datagrams per CPU-second of the receiving process, and the idle ring.

    python -m tests.bench.bench_udp

A sender in another process sends to loopback as fast as it can: one datagram a message
(`sendmmsg`), or messages of 64 segments (UDP_SEGMENT), which arrive as they were sent where UDP_GRO
is on. Batches are taken and let go of at once. Every case is a line of JSON, medians of the
repeats; the baseline, in the same run, is `socket.recvfrom_into` in a loop. Two more lines: the
share of a core that a ring without traffic takes, and how long stopping under load takes.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading

from connectors.clock import monotonic_ns
from connectors.ring import RingOptions
from connectors.udp_ring import UdpRing
from connectors.udp_socket import UdpOptions, UdpSocket, open_sockets
from core.kernels import load_kernels
from tests.bench.figures import MACHINE, ROOT, SMOKE, Row, median
from tests.bench.rings import emptied, idle, looped, stopped_after

SECONDS = 0.3 if SMOKE else 2.0
REPEATS = 1 if SMOKE else 5
BYTES = 128
CASES = {
    "each": UdpOptions(gro=True),
    "gso": UdpOptions(gro=True),
    "gso_split": UdpOptions(gro=False),
}


def sender(port: int, how: str, seconds: float) -> subprocess.Popen[str]:
    """Start the other process."""
    arguments = [str(port), str(seconds), str(BYTES), how]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.senders", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def ring_of(options: UdpOptions) -> tuple[UdpSocket, UdpRing, threading.Event]:
    """Open a ring on loopback."""
    stopping = threading.Event()
    sockets = open_sockets(["127.0.0.1:0"], options)
    return sockets[0], UdpRing(sockets, RingOptions(), stopping), stopping


def received(how: str, options: UdpOptions) -> Row:
    """Receive by the ring what one sender sends."""
    where, ring, stopping = ring_of(options)
    ring.start()
    printed = stopped_after(sender(where.port, how.partition("_")[0], SECONDS), stopping)
    row, counts = emptied(ring, SECONDS)
    sent = int(printed[0])
    return row | {
        "received_share": counts.received / sent,
        "unaccounted": sent - counts.received - counts.kernel_dropped - counts.ring_dropped,
    }


def baseline() -> Row:
    """Receive one by one, as Python's own calls do."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiving:
        receiving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        receiving.bind(("127.0.0.1", 0))
        receiving.settimeout(0.2)
        return looped(receiving.recvfrom_into, sender(receiving.getsockname()[1], "each", SECONDS))


def at_rest() -> Row:
    """Let a ring wait for nothing."""
    _, ring, stopping = ring_of(UdpOptions())
    return idle(ring, stopping, SECONDS)


def stop() -> Row:
    """Stop a ring under load, its batches taken; return how long that takes."""
    where, ring, stopping = ring_of(UdpOptions())
    ring.start()
    other = sender(where.port, "each", SECONDS)
    until = monotonic_ns() + int(SECONDS * 5e8)
    while monotonic_ns() < until or ring.counts().received == 0:
        ring.get(0.05)
    stopping.set()
    begun = monotonic_ns()
    while not ring.ended:
        ring.get(0.05)
    seconds = (monotonic_ns() - begun) * 1e-9
    other.communicate()
    return {"stop_s": seconds}


def main() -> None:
    """Measure and print JSON."""
    load_kernels()
    about = {"machine": MACHINE, "repeats": REPEATS, "seconds": SECONDS, "bytes": BYTES}
    base = median([baseline() for _ in range(REPEATS)])
    print(json.dumps({"case": "recvfrom_into", **about, **base}))
    for how, options in CASES.items():
        row = median([received(how, options) for _ in range(REPEATS)])
        ratio = round(row["received_per_cpu_s"] / base["received_per_cpu_s"], 2)
        print(json.dumps({"case": how, "gro": options.gro, **row, "ratio_to_baseline": ratio}))
    for name, measure in {"idle": at_rest, "stop": stop}.items():
        print(json.dumps({"case": name, **median([measure() for _ in range(REPEATS)])}))


if __name__ == "__main__":
    main()
