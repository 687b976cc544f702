"""What the benchmarks of rings measure alike: taking batches, waiting for nothing, one by one."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from typing import Any

from connectors.clock import cpu_ns, monotonic_ns
from connectors.ring import Ring, RingCounts
from tests.bench.figures import Row


def stopped_after(other: subprocess.Popen[str], stopping: threading.Event) -> list[str]:
    """Set `stopping` when another process has ended; return a list that gets what it printed."""
    printed: list[str] = []

    def wait() -> None:
        printed.append(other.communicate()[0])
        stopping.set()

    threading.Thread(target=wait, daemon=True).start()
    return printed


def emptied(ring: Ring[Any, Any], seconds: float) -> tuple[Row, RingCounts]:
    """Take all batches of a ring, and let go of them at once; return the cost, and its counts."""
    cpu, batches = cpu_ns(), 0
    while not ring.ended:
        batches += ring.get(0.1) is not None
    cpu_s, counts = (cpu_ns() - cpu) * 1e-9, ring.counts()
    return {
        "received_per_cpu_s": counts.received / cpu_s,
        "cores": cpu_s / seconds,
        "batch_len": counts.received / max(batches, 1),
    }, counts


def looped(receive: Callable[[bytearray], object], other: subprocess.Popen[str]) -> Row:
    """Receive one by one what another process sends, by a call that raises `TimeoutError`."""
    buffer, count, cpu = bytearray(65_536), 0, cpu_ns()
    while other.poll() is None:
        try:
            while True:
                receive(buffer)
                count += 1
        except TimeoutError:
            continue
    cpu_s = (cpu_ns() - cpu) * 1e-9
    other.communicate()
    return {"received_per_cpu_s": count / cpu_s}


def idle(ring: Ring[Any, Any], stopping: threading.Event, seconds: float) -> Row:
    """Let a ring wait for nothing, its taker in waits of 50 ms."""
    ring.start()
    cpu, until = cpu_ns(), monotonic_ns() + int(seconds * 1e9)
    while monotonic_ns() < until:
        ring.get(0.05)
    share = (cpu_ns() - cpu) * 1e-9 / seconds
    stopping.set()
    ring.join()
    return {"cores": share}
