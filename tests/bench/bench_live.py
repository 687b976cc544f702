"""A live run: how long from receipt to hand-over, what it costs, what is lost, and what idling is.

    python -m tests.bench.bench_live

A sender in another process sends steady traffic of 1,000 devices to loopback, and the run delivers
to the null sink. The time of receipt is the kernel's, that of hand-over when the sink gets the
record. Every case is a line of JSON, medians of the repeats, of `lost` and `behind_percent` the
worst; the ratio is the CPU of a packet to that of the same packets replayed from a recording.
"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from tests.bench.figures import MACHINE, ROOT, SMOKE, Row

SECONDS = 1.0 if SMOKE else 10.0
REPEATS = 1 if SMOKE else 5
DEVICES = 1000
OFF = {"dam": {"enabled": False}}
CASES: dict[str, tuple[int, dict[str, Any]]] = {  # name → packets/s, settings
    "latency": (5_000 if SMOKE else 50_000, OFF),
    "latency_recovery": (5_000 if SMOKE else 50_000, OFF | {"run": {"recovery": ""}}),
    "load": (10_000 if SMOKE else 100_000, OFF),
    "idle": (0, {}),
    "idle_16_shards": (0, {"run": {"shards": 16}}),
}
WORST = {"lost": max, "behind_percent": max}


def measured(rate_hz: int, sections: dict[str, Any]) -> Row:
    """Run once; send at a rate, or nothing."""
    with tempfile.TemporaryDirectory() as folder:
        if "recovery" in sections.get("run", {}):
            sections = sections | {"run": {"recovery": folder}}
        run = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.measure_live", json.dumps(sections)],
            cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert run.stdin is not None
        assert run.stdout is not None
        port = json.loads(run.stdout.readline())["port"]
        run.stdin.write("begin\n")
        run.stdin.flush()
        sent = _send(port, rate_hz) if rate_hz else _rest()
        run.stdin.write("end\n")
        run.stdin.flush()
        threading.Event().wait(0.2)
        run.send_signal(signal.SIGINT)
        found = json.loads(run.communicate()[0])
    return _row(found, sent)


def _send(port: int, rate_hz: int) -> dict[str, Any]:
    arguments = [f"127.0.0.1:{port}", "--scenario", "steady", "--devices", str(DEVICES)]
    arguments += ["--rate", str(rate_hz), "--seconds", str(SECONDS), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "send", *arguments],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    sent: dict[str, Any] = json.loads(done.stdout)
    return sent


def _rest() -> dict[str, Any]:
    threading.Event().wait(SECONDS)
    return {"sent": 0, "seconds": SECONDS}


def _row(found: dict[str, Any], sent: dict[str, Any]) -> Row:
    summary = found.pop("summary")
    cores = found["cpu_s"] / found["wall_s"]
    if not sent["sent"]:
        return {"cores": cores}
    lost = sent["sent"] - summary["packets_in"]
    assert lost == summary["kernel_dropped"] + summary["ring_dropped"], (sent, summary)
    return {
        "rate": sent["rate"],
        "behind_percent": (sent["seconds"] / SECONDS - 1) * 100,
        "lost": lost,
        "cpu_us_per_packet": found["cpu_s"] * 1e6 / max(summary["packets_in"], 1),
        "cores": cores,
        **{name: value for name, value in found.items() if name.endswith("_ms")},
    }


def replayed_us() -> float:
    """Return the CPU µs of a packet of the same traffic when it is replayed."""
    with tempfile.TemporaryDirectory() as folder:
        capture = Path(folder) / "same.pcap"
        options = ["--scenario", "steady", "--devices", str(DEVICES), "--rate", "50000"]
        subprocess.run(
            [sys.executable, "-m", "flows.cli", "simulate", str(capture), *options,
             "--seconds", str(SECONDS)],
            cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.measure", str(capture), "device", "off"],
            cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    found = json.loads(done.stdout)
    return float(found["cpu_s"] * 1e6 / found["summary"]["packets_in"])


def main() -> None:
    """Measure and print JSON."""
    base_us = statistics.median(replayed_us() for _ in range(REPEATS))
    for case, (rate_hz, sections) in CASES.items():
        rows = [measured(rate_hz, sections) for _ in range(REPEATS)]
        line: dict[str, Any] = {"case": case, "machine": MACHINE, "repeats": REPEATS}
        line |= {"seconds": SECONDS, "rate_asked": rate_hz, "devices": DEVICES}
        for name in rows[0]:
            pick = WORST.get(name, statistics.median)
            line[name] = round(pick([row[name] for row in rows]), 3)
        if rate_hz:
            line["replay_cpu_us_per_packet"] = round(base_us, 3)
            line["ratio_to_baseline"] = round(line["cpu_us_per_packet"] / base_us, 2)
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
