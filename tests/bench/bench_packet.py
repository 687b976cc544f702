"""What capturing costs: packets per CPU-second of the receiving process, and the idle ring.

    python -m tests.bench.bench_packet

A sender in another process sends frames over a pair of interfaces as fast as it can. Three receive,
each in turn: the ring, its batches taken and let go of at once; `recv_into` in a loop, as Python's
own calls do, which is the baseline; and tcpdump, if it is there, writing to /dev/null. What the
kernel does to bring a packet into a socket's buffer or ring is done in the sender's time, and is in
none of the figures. Every case is a line of JSON, medians of the repeats. Root is needed; without
it there is one line that says so.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable

from connectors.packet_ring import PacketRing
from connectors.packet_socket import PacketOptions, open_sockets
from connectors.ring import RingOptions
from core.kernels import load_kernels
from tests.bench.figures import MACHINE, ROOT, SMOKE, Row, median
from tests.bench.rings import emptied, idle, looped, stopped_after
from tests.netns import Namespace, namespace

SECONDS = 0.3 if SMOKE else 2.0
REPEATS = 1 if SMOKE else 5
BYTES = 170


def sender(where: Namespace) -> subprocess.Popen[str]:
    """Start the other process."""
    arguments = [where.name, where.left, str(SECONDS), str(BYTES)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.netns", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def ring_of(where: Namespace, expression: str) -> tuple[PacketRing, threading.Event]:
    """Open a ring on the other end."""
    stopping = threading.Event()
    with where.entered():
        sockets = open_sockets([where.right], PacketOptions(filter=expression))
    return PacketRing(sockets, RingOptions(), stopping), stopping


def ringed(where: Namespace, expression: str) -> Row:
    """Capture by the ring what one sender sends."""
    ring, stopping = ring_of(where, expression)
    ring.start()
    before = where.passed(where.left)
    stopped_after(sender(where), stopping)
    row, counts = emptied(ring, SECONDS)
    sent = where.passed(where.left) - before
    return row | {
        "sent_per_s": sent / SECONDS,
        "received_share": counts.received / sent,
        "unaccounted": sent - counts.received - counts.kernel_dropped - counts.ring_dropped,
    }


def one_by_one(where: Namespace) -> Row:
    """Receive by Python's own calls."""
    with where.entered():
        receiving = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    with receiving:
        receiving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        receiving.bind((where.right, 3))
        receiving.settimeout(0.2)
        return looped(receiving.recv_into, sender(where))


def dumped(where: Namespace) -> Row:
    """Let tcpdump capture."""
    command = ["tcpdump", "-i", where.right, "-w", "/dev/null", "-B", "32768", "-Z", "root", "-n"]
    process = subprocess.Popen(where.execute(command), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "listening on" not in (line := process.stderr.readline()):
        assert line, "tcpdump ended"
    sender(where).communicate()
    process.send_signal(signal.SIGINT)
    before = _children_s()
    told = process.communicate()[1]
    found = re.search(r"(\d+) packets? captured", told)
    assert found, told
    return {"received_per_cpu_s": int(found[1]) / (_children_s() - before)}


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure and print JSON."""
    if os.getuid() != 0 or shutil.which("ip") is None:
        print(json.dumps({"case": "packet", "skipped": "needs root and iproute2"}))
        return
    load_kernels()
    about = {"machine": MACHINE, "repeats": REPEATS, "seconds": SECONDS, "bytes": BYTES}
    with namespace() as where:
        base = median([one_by_one(where) for _ in range(REPEATS)])
        print(json.dumps({"case": "recv_into", **about, **base}))
        cases: dict[str, Callable[[], Row]] = {
            "ring": lambda: ringed(where, ""),
            "ring_filtered": lambda: ringed(where, "ip or arp"),
        }
        if shutil.which("tcpdump"):
            cases["tcpdump"] = lambda: dumped(where)
        for name, measure in cases.items():
            row = median([measure() for _ in range(REPEATS)])
            ratio = round(row["received_per_cpu_s"] / base["received_per_cpu_s"], 2)
            print(json.dumps({"case": name, **row, "ratio_to_baseline": ratio}))
        print(
            json.dumps(
                {
                    "case": "idle",
                    **median([idle(*ring_of(where, ""), SECONDS) for _ in range(REPEATS)]),
                }
            )
        )


if __name__ == "__main__":
    main()
