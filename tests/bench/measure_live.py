"""One live run in a process of its own, with what it cost: run by the benchmarks.

    python -m tests.bench.measure_live SECTIONS

receives on a port of 127.0.0.1 until SIGINT, and prints two JSON objects: the port, once it
receives, and at the end the summary, CPU seconds between two lines on standard input, and
percentiles of the time from receipt to hand-over. SECTIONS is a JSON object of settings.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from connectors.clock import cpu_ns, monotonic_ns, wall_ns
from connectors.discard import DiscardPart
from connectors.settings import load
from core.topics import TELEMETRY
from flows.replay import replay

if TYPE_CHECKING:
    from core.batches import RecordBatch

PERCENTILES = (50, 90, 99, 99.9, 100)


Times = np.ndarray[tuple[int], np.dtype[np.float32]]


def look_on() -> list[Times]:
    """Return a list that gets the times from receipt to hand-over, ms, of all readings to come."""
    seen: list[Times] = []
    take = DiscardPart.write_batch

    def timed(self: DiscardPart, values: list[RecordBatch]) -> None:
        now_ns = wall_ns()
        readings = [each for each in values if each.topic == TELEMETRY]
        seen.extend(((now_ns - each.at_ns) * 1e-6).astype(np.float32) for each in readings)
        take(self, values)

    DiscardPart.write_batch = timed  # type: ignore[method-assign]  # to look over its shoulder
    return seen


def percentiles(seen: list[Times]) -> dict[str, float]:
    """Return them by their number."""
    whole = np.concatenate(seen) if seen else np.full(1, np.nan, np.float32)
    found = np.percentile(whole, PERCENTILES)
    return {f"p{p:g}_ms": round(float(v), 3) for p, v in zip(PERCENTILES, found, strict=True)}


def main() -> None:
    """Run until a signal, and print what it cost."""
    sections = json.loads(sys.argv[1])
    sections.setdefault("udp", {})["addresses"] = ("127.0.0.1:0",)
    settings = load(flags=[("benchmark", sections)], env={}).settings
    seen = look_on()
    marks: list[tuple[int, int]] = []

    def mark() -> None:
        marks.extend((cpu_ns(), monotonic_ns()) for _ in sys.stdin)

    def notify(line: str) -> None:
        if line.endswith(": receiving"):
            threading.Thread(target=mark, daemon=True).start()
            print(json.dumps({"port": int(line.rpartition(":")[0].rpartition(":")[2])}), flush=True)
        else:
            print(line, file=sys.stderr)

    summary = replay(settings, notify, reread=lambda: settings)
    (cpu, wall), (cpu_end, wall_end) = marks[:2]
    cost = {"cpu_s": (cpu_end - cpu) * 1e-9, "wall_s": (wall_end - wall) * 1e-9}
    print(json.dumps({"summary": msgspec.to_builtins(summary), **cost, **percentiles(seen)}))


if __name__ == "__main__":
    main()
