"""How long a user waits: for `--help`, and for the first packet with kernels cached and not.

    python -m tests.bench.bench_startup

The baseline, measured in the same run, is `python -c pass`. Where others are at work, the processor
time says more than the time that passed.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from connectors.clock import monotonic_ns
from tests.bench import traffic
from tests.bench.figures import MACHINE, SMOKE

REPEATS = 1 if SMOKE else 5


def used_s() -> float:
    """Return the processor time of all commands so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def seconds(*arguments: str, cache: str) -> tuple[float, float]:
    """Return how long a command takes from start to end, and how much of a processor."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
    begun, used = monotonic_ns(), used_s()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=environment)
    return (monotonic_ns() - begun) * 1e-9, used_s() - used


def main() -> None:
    """Measure and print JSON; a replay of one packet ends right after its first packet."""
    with tempfile.TemporaryDirectory() as folder:
        capture = Path(folder) / "one.pcap"
        traffic.unique_sources(1, capture)
        one = ("-m", "flows.cli", "replay", str(capture), "--by", "host", "--json")
        cold = [seconds(*one, cache=f"{folder}/cold{i}") for i in range(min(REPEATS, 3))]
        warm = [seconds(*one, cache=f"{folder}/cold0") for _ in range(REPEATS)]
        usage = [seconds("-m", "flows.cli", "--help", cache=folder) for _ in range(REPEATS)]
        plain = [seconds("-c", "pass", cache=folder) for _ in range(REPEATS)]
    measured = {
        "baseline_python": plain,
        "help": usage,
        "replay_one_packet_warm": warm,
        "replay_one_packet_cold": cold,
    }
    result = {}
    for name, pairs in measured.items():
        for unit, values in zip(("s", "cpu_s"), zip(*pairs, strict=True), strict=True):
            result[f"{name}_{unit}"] = round(statistics.median(values), 3)
    result["help_ratio_to_baseline"] = round(result["help_s"] / result["baseline_python_s"], 1)
    print(json.dumps({"machine": MACHINE, "repeats": REPEATS, **result}))


if __name__ == "__main__":
    main()
