"""How good the burst prediction is: on scenarios, one after another, and on a real capture.

    python -m tests.bench.bench_burst

prints one JSON object for each case: the Brier score, that of three baselines on the same seconds,
the skill against each, and how often what was predicted came, by tenths of probability.

* Climatology: always the share of bursts, known in hindsight.
* Persistence: what happened in the last second happens again.
* Transition: how often bursts followed a burst, or none, likewise known in hindsight.
"""

from __future__ import annotations

import json
import math
import os
import platform
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectors.capture_files import list_captures
from connectors.capture_reader import Mark, Reader
from connectors.clock import cpu_ns
from core.scenario import SCENARIOS, Kind, Traffic
from core.sections import CaptureSettings
from core.timeline import START, settle
from models.burst import SECOND_NS, WARM_S, BurstPredictor

SMOKE = bool(os.environ.get("PENSTOCK_TEST_SMOKE"))
EPISODES, EPISODE_S = (2, 40) if SMOKE else (30, 120)
DEVICES, RATE_HZ = 300, 1500.0
CASES = [(name, 1.2) for name in SCENARIOS] + [("steady", 1.0), ("mixed", 1.0)]
"""Scenario, and the dam's rate over that of the steady devices."""


def episodes(scenario: str) -> Iterator[NDArray[np.int64]]:
    """Yield the arrival times of frames, slice by slice, of one episode after another."""
    for i in range(EPISODES):
        rng = np.random.default_rng(100 + i)
        start = 1_767_225_600 * SECOND_NS + i * EPISODE_S * SECOND_NS
        traffic = Traffic(scenario, DEVICES, RATE_HZ, EPISODE_S, rng, start)
        for part in traffic.slices():
            yield part.at_ns[part.kind == Kind.WELL_FORMED]


def captured(path: Path) -> Iterator[NDArray[np.int64]]:
    """Yield the times of all packets of a capture."""
    listing = list_captures((str(path),), 262_144, threading.Event())
    reader = Reader(listing.files, CaptureSettings(), Mark(), 8192, threading.Event())
    clock = START
    while True:
        item = reader.get(1.0)
        if item is None:
            continue
        if item.batch is not None:
            at_ns, clock = settle(item.batch.at_ns, clock)
            yield at_ns
        if item.last:
            return


def one(parts: list[NDArray[np.int64]], rate_hz: int) -> dict[str, Any]:
    """Predict every second of some arrivals, and count."""
    predictor, predicted, came = BurstPredictor(), [], []
    at = np.concatenate(parts)
    ends = np.flatnonzero(np.diff(at // SECOND_NS)) + 1
    seconds = np.split(at, ends)
    begun = cpu_ns()
    for part in seconds:
        predictor.arrive(part[:1], rate_hz)
        predicted.append(predictor.probability)
        predictor.arrive(part[1:], rate_hz)
        came.append(part.size > rate_hz)
    cost_ns = cpu_ns() - begun
    p, y = np.array(predicted), np.array(came, np.float64)
    last = np.concatenate([[0.0], y[:-1]])
    known = ~np.isnan(p)
    p, y, last = p[known], y[known], last[known]
    brier = float(np.mean((p - y) ** 2))
    climatology = float(np.mean((y.mean() - y) ** 2))
    persistence = float(np.mean((last - y) ** 2))
    after = [y[last == was].mean() if (last == was).any() else 0.0 for was in (0, 1)]
    transition = float(np.mean((np.where(last == 1, after[1], after[0]) - y) ** 2))
    tenth = np.minimum((p * 10).astype(int), 9)
    return {
        "seconds": int(y.size),
        "bursts": int(y.sum()),
        "onsets": int(np.count_nonzero((y == 1) & (last == 0))),
        "brier": round(brier, 5),
        "brier_climatology": round(climatology, 5),
        "brier_persistence": round(persistence, 5),
        "brier_transition": round(transition, 5),
        "skill_over_climatology": _skill(brier, climatology),
        "skill_over_persistence": _skill(brier, persistence),
        "skill_over_transition": _skill(brier, transition),
        "reliability": [
            {"predicted": round(float(p[tenth == i].mean()), 3),
             "came": round(float(y[tenth == i].mean()), 3), "seconds": int((tenth == i).sum())}
            for i in np.unique(tenth).tolist()
        ],
        "cpu_us_per_second_of_packets": round(cost_ns / len(seconds) * 1e-3, 1),
    }  # fmt: skip


def _skill(brier: float, baseline: float) -> float | None:
    return round(1.0 - brier / baseline, 3) if baseline else None


def main() -> None:
    """Measure each case, print a line of JSON for it."""
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    about = {"machine": machine, "warm_s": WARM_S, "episodes": EPISODES, "episode_s": EPISODE_S}
    for scenario, factor in CASES:
        rate = math.ceil(RATE_HZ * factor)
        known = {"case": scenario, "rate_hz": rate, **about}
        print(json.dumps(known | one(list(episodes(scenario)), rate)), flush=True)
    corpus = os.environ.get("PENSTOCK_CORPUS", "")
    path = Path(corpus) / "captures/kitsune-mirai/composite-dev.pcap.gz"
    if corpus and path.exists():
        for rate in (30, 100):
            known = {"case": path.name, "rate_hz": rate, "machine": machine, "warm_s": WARM_S}
            print(json.dumps(known | one(list(captured(path)), rate)), flush=True)


if __name__ == "__main__":
    main()
