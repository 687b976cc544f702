"""One replay in a process of its own, with what it cost: run by the benchmarks.

    python -m tests.bench.measure CAPTURE device|host RATE

prints one JSON object: the summary, CPU seconds, resident memory above start, seconds by stage.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import msgspec

from connectors.clock import cpu_ns, monotonic_ns
from connectors.metrics import STAGE_SECONDS
from connectors.settings import load
from flows.replay import replay


def resident_kib() -> int:
    """Return the resident memory of this process now, in KiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


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
    path, by, rate = sys.argv[1:]
    dam = {"enabled": rate != "off"} | ({"rate_hz": int(rate)} if rate != "off" else {})
    flags = [("benchmark", {"run": {"paths": (path,)}, "capture": {"by": by}, "dam": dam})]
    settings = load(flags=flags, env={}).settings
    before_kib, cpu, wall = resident_kib(), cpu_ns(), monotonic_ns()
    summary = replay(settings, notify=lambda line: print(line, file=sys.stderr))
    seconds = (monotonic_ns() - wall) * 1e-9
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
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
