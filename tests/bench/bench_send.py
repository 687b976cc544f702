"""How steadily `penstock send` sends, and what a datagram costs.

    python -m tests.bench.bench_send

The receiver is a plain bound socket that nobody reads: what the kernel does to deliver up to there
is part of sending on loopback. CPU is that of the whole process: making payloads, pace, sending.
The baseline is a loop of `socket.send` over payloads made before.
"""

from __future__ import annotations

import json
import socket
import statistics
import sys
import threading

import numpy as np

from connectors.clock import cpu_ns
from core.endpoint import Endpoint
from core.scenario import Traffic
from flows.send import SendSummary, send
from tests.bench.figures import MACHINE, SMOKE

RATES_HZ = (10_000,) if SMOKE else (10_000, 100_000, 300_000)
SECONDS = 1 if SMOKE else 3
REPEATS = 1 if SMOKE else 3
DEVICES = 1_000


def sent(to: Endpoint, rate_hz: int, *, gso: bool) -> tuple[SendSummary, float]:
    """Send for some seconds; return what was sent, and the CPU seconds it took."""
    begun = cpu_ns()
    done = send(
        to, scenario="steady", devices=DEVICES, rate_hz=rate_hz, seconds=SECONDS, seed=1, sources=1,
        gso=gso, stopping=threading.Event(), notify=lambda line: print(line, file=sys.stderr),
    )  # fmt: skip
    return done, (cpu_ns() - begun) * 1e-9


def baseline_us(to: Endpoint) -> float:
    """Return the CPU µs of one datagram sent by `socket.send` in a loop."""
    plan = next(Traffic("steady", DEVICES, 65_536.0, 1.0, np.random.default_rng(1), 0).slices())
    whole = plan.arena.tobytes()
    rows = zip(plan.start.tolist(), plan.length.tolist(), strict=True)
    payloads = [whole[begin : begin + size] for begin, size in rows][: 2_000 if SMOKE else None]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.connect(to)
        begun = cpu_ns()
        for payload in payloads:
            out.send(payload)
        return (cpu_ns() - begun) * 1e-3 / len(payloads)


def main() -> None:
    """Measure and print a JSON line for each rate, with and without `--gso`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", 0))
        to = Endpoint(*held.getsockname())
        loop_us = statistics.median(baseline_us(to) for _ in range(REPEATS))
        for rate_hz in RATES_HZ:
            for gso in (False, True):
                report(rate_hz, gso, [sent(to, rate_hz, gso=gso) for _ in range(REPEATS)], loop_us)


def report(rate_hz: int, gso: bool, runs: list[tuple[SendSummary, float]], loop_us: float) -> None:
    """Print the line of one rate; of deviations it has the worst."""
    rates = [done.rate for done, _ in runs]
    cost_us = statistics.median(cpu_s * 1e6 / done.sent for done, cpu_s in runs)
    line = {
        "machine": MACHINE,
        "repeats": REPEATS,
        "seconds": SECONDS,
        "devices": DEVICES,
        "gso": gso,
        "rate_asked": rate_hz,
        "rate": round(statistics.median(rates)),
        "deviation_percent_max": round(max(abs(r / rate_hz - 1) for r in rates) * 100, 2),
        "late_ms_max": max(done.late_ms_max for done, _ in runs),
        "payload_bytes_mean": round(runs[0][0].bytes / runs[0][0].sent, 1),
        "cpu_us_per_datagram": round(cost_us, 2),
        "baseline_loop_us_per_datagram": round(loop_us, 2),
        "ratio_to_baseline": round(cost_us / loop_us, 2),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
