"""What all benchmarks have in common: how long they take, on which machine, and medians."""

from __future__ import annotations

import os
import platform
import statistics
from pathlib import Path

SMOKE = os.environ.get("PENSTOCK_TEST_SMOKE") == "1"
"""Whether this is a short run, whose figures mean nothing."""
ROOT = Path(__file__).resolve().parents[2]
MACHINE = {
    "cpu": platform.processor() or platform.machine(),
    "cores": os.cpu_count(),
    "kernel": platform.release(),
}

Row = dict[str, float]


def median(rows: list[Row]) -> Row:
    """Return the median of each number."""
    return {name: round(statistics.median(row[name] for row in rows), 4) for name in rows[0]}
