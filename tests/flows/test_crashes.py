"""Crashes at any point of a snapshot, with thousands of keys, leave what no crash leaves.

What is kept of an epoch is written in this order: rows to segments, marks of them and the rest to
Bytewax's store, then that the epoch is committed. A crash is whatever lies between; it is made here
by putting back the files of the moment before.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from bytewax._bytewax import cli_main

from connectors.capture import PAGE
from connectors.engine_store import claim_store
from connectors.epoch_budget import EpochBudget
from connectors.ledger import Ledger
from flows.ingest import build
from flows.replay import _recovery_store
from flows.run import Run
from flows.simulate import SimulationSummary, simulate
from flows.summary import Summary, summarise
from tests.flows.runs import Ordered, as_env, records, replayed, settings, start, told, wait_until

# More keys than tables hold, a queue that never empties, and windows of which many close.
RULES: dict[str, dict[str, Any]] = {
    "capture": {"batch_len": 512},
    "dam": {"enabled": True, "rate_hz": 2500, "burst": 500, "queue_len_max": 2000,
            "device_rate_hz": 5, "device_burst": 3, "devices_max": 1024},
    "features": {"keys_max": 1500, "window_ns": 100_000_000, "key_idle_s": 1},
    "flows": {"flows_max": 1024, "idle_s": 1, "active_s": 1},
    "anomaly": {"warm_rows": 500, "threshold": 0.02},
}  # fmt: skip
STORE = "part-0.sqlite3"


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> SimulationSummary:
    """Return what is in a capture of 2,000 devices: 20,000 packets in two seconds."""
    path = tmp_path_factory.mktemp("captures") / "crowd.pcap"
    return simulate(
        path, scenario="mixed", devices=2000, rate_hz=4000.0, seconds=2.0, seed=11, port=9999
    )


def rules(by: str) -> dict[str, dict[str, Any]]:
    """Return the settings by device or by host."""
    return RULES | {"capture": RULES["capture"] | {"by": by}}


CRASHES_MAX = 5
"""Crashes of one run within a snapshot."""


@pytest.fixture(params=["device", "host"])
def whole(
    request: pytest.FixtureRequest, crowd: SimulationSummary, tmp_path: Path
) -> tuple[str, Summary, Ordered]:
    """Return how an uninterrupted run analyses the capture, and what it leaves."""
    by: str = request.param
    folder = tmp_path / "whole"
    summary = replayed(Path(crowd.path), **rules(by), run={"sink": f"files:{folder}"})
    assert summary.dropped
    assert summary.findings
    return by, summary, records(folder)


class Until(Ledger):
    """A ledger that stops the run when so many packets were read."""

    def __init__(self, packets: int) -> None:
        super().__init__()
        self.packets = packets
        self.run: Run | None = None

    def write(self, page: str, totals: Mapping[str, int]) -> None:
        super().write(page, totals)
        if page == PAGE and totals["packets_in"] >= self.packets and self.run is not None:
            self.run.stopping.set()


def until(
    packets: int, path: str, folder: Path, by: str, bytes_max: int = 0,
    notify: Callable[[str], None] = lambda _: None,
) -> Run:  # fmt: skip
    """Replay until so many packets were read, and resume there the next time."""
    files = {"sink": f"files:{folder / 'out'}", "recovery": str(folder / "store")}
    given = settings(Path(path), **rules(by), run=files | {"epoch_s": 3600.0})
    ledger = Until(packets)
    run = ledger.run = Run(given, lambda _: None, ledger)
    if bytes_max:
        run.budget = EpochBudget(ledger, 512, notify, bytes_max)
        run.pressure.also(run.budget.holds)
    release = claim_store(Path(given.run.recovery)) if Path(given.run.recovery).exists() else None
    store = _recovery_store(given.run.recovery)
    epoch_s = 0.1 if bytes_max else given.run.epoch_s
    cli_main(build(run), epoch_interval=timedelta(seconds=epoch_s), recovery_config=store)
    if release is not None:
        release()
    return run


def half_committed(before: Path, after: Path) -> None:
    """Put into a store the snapshots of the epoch it had not committed, as a crash leaves them."""
    with closing(sqlite3.connect(before)) as old, old:
        old.execute("ATTACH ? AS after", (str(after),))
        old.execute("INSERT OR REPLACE INTO exs SELECT * FROM after.exs")
        old.execute(
            "INSERT OR REPLACE INTO snaps SELECT * FROM after.snaps WHERE snap_epoch >= "
            "(SELECT max(worker_frontier) FROM fronts)"
        )


@pytest.mark.parametrize("seed", range(3))
def test_crashes_within_a_snapshot(
    whole: tuple[str, Summary, Ordered], crowd: SimulationSummary, tmp_path: Path, seed: int
) -> None:
    """Before, between and amid the writes of a snapshot: the epoch is replayed, and exact."""
    by, summary, wanted = whole
    rng = Random(seed)
    store, read, crashed = tmp_path / "store", 0, Counter[str]()
    while read < crowd.packets:
        kept = tmp_path / "kept.sqlite3"
        if read:
            shutil.copy(store / STORE, kept)
        read += rng.choice([200, 2500, 6000])
        until(read, crowd.path, tmp_path, by)
        crash = rng.choice(["none", "segments", "half a segment", "snapshots"])
        # A crash costs more packets than a step gains, so that they have to end.
        if crash == "none" or not kept.exists() or crashed.total() == CRASHES_MAX:
            continue
        crashed[crash] += 1
        shutil.copy(store / STORE, tmp_path / "after.sqlite3")
        shutil.copy(kept, store / STORE)
        if crash == "snapshots":
            half_committed(store / STORE, tmp_path / "after.sqlite3")
            # The next run has next to nothing to do in that epoch, and is stopped in turn.
            read = until(1, crowd.path, tmp_path, by).ledger.total()["packets_in"]
        elif crash == "half a segment":
            segments = (store / "segments").glob("*.log")
            newest = max(segments, key=lambda path: path.stat().st_mtime_ns)
            os.truncate(newest, newest.stat().st_size // 2)
    last = until(1 << 40, crowd.path, tmp_path, by)
    assert crashed
    assert records(tmp_path / "out") == wanted
    assert told(summarise(last.ledger, by, 1.0)) == told(summary)


@pytest.mark.slow
def test_killed_anywhere(
    whole: tuple[str, Summary, Ordered], crowd: SimulationSummary, tmp_path: Path
) -> None:
    """Killed at three random moments and resumed, a run leaves what it would have left."""
    by, summary, wanted = whole
    rng = Random(by)
    out = tmp_path / "out"
    files = {"sink": f"files:{out}", "recovery": str(tmp_path / "store"), "epoch_s": 0.02}
    slow = rules(by) | {"capture": RULES["capture"] | {"by": by, "speed": 0.7}, "run": files}
    for _ in range(3):
        there = len(list(out.glob("*/[0-9]*.jsonl"))) + rng.randrange(2, 15)
        process = start(["-m", "flows.cli", "replay", crowd.path], tmp_path, as_env(**slow))
        wait_until(process, partial(_committed, out, there))
        # Anywhere within an epoch, which takes 20 ms and a snapshot.
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=rng.uniform(0.0, 0.05))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        process.communicate()
    assert records(out) != wanted
    again = replayed(Path(crowd.path), **rules(by), run=files | {"epoch_s": 1.0})
    assert records(out) == wanted
    assert told(again) == told(summary)


def _committed(out: Path, files: int) -> bool:
    return len(list(out.glob("*/[0-9]*.jsonl"))) >= files


def test_a_tight_budget_takes_time_and_nothing_else(
    whole: tuple[str, Summary, Ordered], crowd: SimulationSummary, tmp_path: Path
) -> None:
    """Sources wait for snapshots, none of which is above the bound, and every record is there."""
    by, summary, wanted = whole
    run = until(1 << 40, crowd.path, tmp_path, by, bytes_max=96_000)
    assert records(tmp_path / "out") == wanted
    assert told(summarise(run.ledger, by, 1.0)) == told(summary)
    total = run.ledger.total()
    assert total["snapshot_holds"] > 0
    assert total["snapshots_over_bound"] == 0
    assert 0 < total["snapshot_bytes_max"] <= 96_000


def test_more_than_the_budget_is_written_all_the_same(
    whole: tuple[str, Summary, Ordered], crowd: SimulationSummary, tmp_path: Path
) -> None:
    """One batch an epoch, each above the bound: counted, said once, and whole after a crash."""
    by, summary, wanted = whole
    store, kept, said = tmp_path / "store", tmp_path / "kept.sqlite3", list[str]()
    total = until(9_000, crowd.path, tmp_path, by, 500, said.append).ledger.total()
    assert len(said) == 1
    assert "more than the 500 meant for an epoch" in said[0]
    assert total["snapshots_over_bound"] > 1
    assert total["snapshot_held_ns"] > 0
    shutil.copy(store / STORE, kept)
    # One more batch, the snapshot of which is written, and not committed.
    crashed = until(1, crowd.path, tmp_path, by, 500).ledger.total()
    assert crashed["snapshots_over_bound"] > 0
    shutil.copy(kept, store / STORE)
    last = until(1 << 40, crowd.path, tmp_path, by)
    assert records(tmp_path / "out") == wanted
    assert told(summarise(last.ledger, by, 1.0)) == told(summary)
