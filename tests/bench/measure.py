"""One replay in a process of its own, with what it cost: run by the benchmarks.

    python -m tests.bench.measure CAPTURE device|host RATE [SINK KAFKA]

prints one JSON object: the summary, CPU seconds, resident memory above start, seconds by stage.
KAFKA is a JSON object of settings of the section `kafka`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from connectors.clock import cpu_ns, monotonic_ns
from connectors.metrics import STAGE_SECONDS
from connectors.settings import load
from core.kernels import load_kernels
from flows.replay import replay


def resident_kib(field: str) -> int:
    """Return resident memory of this process in KiB: `VmRSS` now, or `VmHWM` at its highest.

    Not `ru_maxrss`, which begins with what the process that started this one had.
    """
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])


def stages() -> dict[str, float]:
    """Return the seconds each stage took, all batches together."""
    return {
        sample.labels["stage"]: round(sample.value, 3)
        for metric in STAGE_SECONDS.collect()
        for sample in metric.samples
        if sample.name.endswith("_sum")
    }


def main() -> None:
    """Replay the capture named on the command line and print what it cost."""
    path, by, rate, *more = sys.argv[1:]
    dam = {"enabled": rate != "off"} | ({"rate_hz": int(rate)} if rate != "off" else {})
    sections: dict[str, Any] = {"run": {"paths": (path,)}, "capture": {"by": by}, "dam": dam}
    if more:
        sections["run"]["sink"] = more[0]
        sections["kafka"] = json.loads(more[1])
    flags = [("benchmark", sections)]
    settings = load(flags=flags, env={}).settings
    load_kernels()  # what starting costs is measured by `bench_startup`
    before_kib, cpu, wall = resident_kib("VmRSS"), cpu_ns(), monotonic_ns()
    summary = replay(settings, notify=lambda line: print(line, file=sys.stderr))
    seconds = (monotonic_ns() - wall) * 1e-9
    peak_kib = resident_kib("VmHWM")
    cost = {
        "summary": msgspec.to_builtins(summary),
        "wall_s": round(seconds, 3),
        "cpu_s": round((cpu_ns() - cpu) * 1e-9, 3),
        "resident_above_start_mib": round((peak_kib - before_kib) / 1024, 1),
        "stage_s": stages(),
    }
    print(json.dumps(cost))


if __name__ == "__main__":
    main()
