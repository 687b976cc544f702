"""Time is data: how a capture is cut into batches and spread over workers changes nothing."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from core.topics import FINDINGS, FLOWS, TELEMETRY, TELEMETRY_DLQ
from flows.simulate import START_NS, SimulationSummary, simulate
from tests.flows.runs import (
    Ordered,
    finish,
    on_workers,
    records,
    replayed,
    settings,
    start,
    told,
)

# Rules that leave nothing idle: frames queue and are dropped, rows are scored and found.
RULES: dict[str, dict[str, Any]] = {
    "dam": {"enabled": True, "rate_hz": 150, "burst": 30, "queue_len_max": 60,
            "device_rate_hz": 20, "device_burst": 20},
    "anomaly": {"warm_rows": 60, "threshold": 0.02},
    "flows": {"active_s": 2, "idle_s": 1},
}  # fmt: skip
WINDOW_NS = 1_000_000_000


@dataclass(frozen=True)
class Outcome:
    """What a run left."""

    records: Ordered
    scores: NDArray[np.float32]
    summary: dict[str, Any]


def outcome(
    capture: Path, folder: Path, by: str, shards: int, *, batch_len: int, workers: int
) -> Outcome:
    """Replay one way."""
    rules = RULES | {
        "capture": {"by": by, "batch_len": batch_len},
        "run": {"sink": f"files:{folder / 'out'}", "shards": shards},
    }
    scores = np.empty(0, np.float32)
    if workers == 1:
        rules["run"]["scores"] = str(folder / "scores.npy")
        summary = replayed(capture, **rules)
        scores = np.load(folder / "scores.npy")
    else:
        summary = on_workers(settings(capture, **rules), workers)
    assert summary.adds_up
    kept = told(summary)
    return Outcome(records(folder / "out"), scores, kept)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("by", ["device", "host"])
def test_batches_and_workers_change_nothing(
    capture: Path, tmp_path: Path, by: str, shards: int
) -> None:
    """Batches of 1, 100 and 8,192 packets and 2 workers give the same records in the same order."""
    ways = {"whole": (8192, 1), "hundreds": (100, 1), "singles": (1, 1), "workers": (100, 2)}
    found = {}
    for name, (batch_len, workers) in ways.items():
        (tmp_path / name).mkdir()
        found[name] = outcome(
            capture, tmp_path / name, by, shards, batch_len=batch_len, workers=workers
        )
    whole = found.pop("whole")
    topics = {topic for topic, _ in whole.records}
    assert topics > {TELEMETRY if by == "device" else FLOWS, FINDINGS}
    assert len({shard for _, shard in whole.records}) == shards
    assert {"queue_full", "device_rate"} == set(whole.summary["dropped"])
    assert np.isfinite(whole.scores).any()
    for name, other in found.items():
        assert other.summary == whole.summary, name
        # One shard's order of a topic is stronger than the order of each key.
        assert other.records == whole.records, name
        if name != "workers":
            assert np.array_equal(other.scores, whole.scores, equal_nan=True), name


def cut(capture: Path, packets: int, into: Path) -> NDArray[np.int64]:
    """Copy the head of a classic pcap file of ns times; return the times of its packets."""
    data = capture.read_bytes()
    at, times = 24, []
    for _ in range(packets):
        seconds, ns, length = struct.unpack_from("<III", data, at)
        times.append(seconds * 10**9 + ns)
        at += 16 + length
    into.write_bytes(data[:at])
    return np.array(times)


@pytest.mark.parametrize("by", ["device", "host"])
def test_a_prefix_scores_the_same(
    mixed: SimulationSummary, capture: Path, tmp_path: Path, by: str
) -> None:
    """A score uses nothing after its window: heads of a capture agree where windows closed."""

    def scores(path: Path) -> NDArray[np.float32]:
        out = path.with_suffix(".npy")
        replayed(path, capture={"by": by}, anomaly=RULES["anomaly"], run={"scores": str(out)})
        found: NDArray[np.float32] = np.load(out)
        return found

    (tmp_path / "whole.pcap").symlink_to(capture)
    whole = scores(tmp_path / "whole.pcap")
    assert whole.shape == (mixed.packets,)
    assert whole.dtype == np.float32
    compared = 0
    for packets in (1, 700, 3_001, mixed.packets - 1):
        head = tmp_path / f"{packets}.pcap"
        window = np.maximum.accumulate(cut(capture, packets, head)) // WINDOW_NS
        closed = window < window[-1]
        part = scores(head)
        assert part.shape == (packets,)
        assert np.array_equal(part[closed], whole[:packets][closed], equal_nan=True)
        compared += int(np.isfinite(part[closed]).sum())
    assert compared > 1_000


def test_scores_are_nan_where_nothing_was_scored(
    mixed: SimulationSummary, capture: Path, tmp_path: Path
) -> None:
    """One float32 a packet in replay order; NaN while warming and for what is no frame."""
    npy = tmp_path / "scores.npy"
    run = {"scores": str(npy)}
    later = tmp_path / "later.pcap"
    simulate(
        later, scenario="mixed", devices=60, rate_hz=500.0, seconds=8.0, seed=5, port=9999,
        start_ns=START_NS + 3600 * 10**9,
    )  # fmt: skip
    replayed(capture, later, anomaly={"warm_rows": 0}, run=run)
    every = np.load(npy)
    assert every.shape == (2 * mixed.packets,)
    assert every.dtype == np.float32
    # The first window has nothing to be compared with; the second copy lies wholly after it.
    assert np.isfinite(every[mixed.packets :]).sum() == mixed.frames
    replayed(capture, anomaly={"warm_rows": 1_000_000}, run=run)
    assert np.isnan(np.load(npy)).all()
    replayed(capture, capture={"filter": "arp", "by": "host"}, run=run)
    assert np.load(npy).shape == (mixed.other["arp"],)


def test_shards_share_the_keys(capture: Path, tmp_path: Path) -> None:
    """Without a limit, any number of shards delivers the same records, each device's in order."""
    found = []
    for shards in (1, 4):
        run = {"sink": f"files:{tmp_path / str(shards)}", "shards": shards}
        replayed(capture, run=run)
        by_key: dict[tuple[str, bytes], list[bytes]] = {}
        for (topic, _), lines in records(tmp_path / str(shards)).items():
            for line in lines:
                key = line.partition(b'"seq"')[0] if topic == TELEMETRY else b""
                by_key.setdefault((topic, key), []).append(line)
        found.append({k: v for k, v in by_key.items() if k[0] in (TELEMETRY, TELEMETRY_DLQ)})
    assert found[0] == found[1]
    assert len(found[0]) > 60


def test_kernels_and_plain_python_agree(tmp_path: Path) -> None:
    """With NUMBA_DISABLE_JIT=1 every record of a capture is the same, byte for byte."""
    path = tmp_path / "few.pcap"
    simulate(path, scenario="mixed", devices=12, rate_hz=60.0, seconds=5.0, seed=7, port=9999)
    program = (
        "import sys; from pathlib import Path; from tests.flows.runs import replayed\n"
        "from tests.flows.test_invariance import RULES\n"
        "RULES['anomaly'] = {'warm_rows': 10, 'threshold': 0.5}\n"
        "for by in ('device', 'host'):\n"
        "    run = {'sink': f'files:{sys.argv[2]}/{by}', 'scores': f'{sys.argv[2]}/{by}.npy'}\n"
        "    replayed(Path(sys.argv[1]), **RULES, capture={'by': by}, run=run)\n"
    )
    found, scores = [], []
    for off in ("0", "1"):
        out = tmp_path / off
        out.mkdir()
        done = finish(start(["-c", program, path, out], tmp_path, {"NUMBA_DISABLE_JIT": off}))
        assert done.code == 0, done.err
        found.append({by: records(out / by) for by in ("device", "host")})
        scores.append([np.load(out / f"{by}.npy") for by in ("device", "host")])
    assert found[0] == found[1]
    kinds = Counter(topic for each in found[0].values() for topic, _ in each)
    assert kinds[FINDINGS] == 2
    for jit, plain in zip(*scores, strict=True):
        assert np.isfinite(jit).any()
        assert np.array_equal(jit, plain, equal_nan=True)
