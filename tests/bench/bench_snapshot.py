"""What snapshots cost: bytes, standstill and resume, and the pace of a replay that can be resumed.

    python -m tests.bench.bench_snapshot

Each case is a capture of so many devices, each of which sends once a round, in another order every
time; ids and addresses are random, so that they do not compress. What an epoch touches is what the
replay gets through in it: all of them, or as many as fit into a snapshot. It is replayed at full
speed without recovery and with it, in processes of their own, and resumed at its end. Each case is
a line of JSON: medians of the repeats, and maxima where names end in `_max`. The baseline of bytes
and of standstill, measured in the same process on the same state, is what was done before: all rows
of all tables, pickled.
"""

from __future__ import annotations

import json
import pickle
import statistics
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from bytewax._bytewax import cli_main, init_db_dir
from bytewax.recovery import RecoveryConfig

from connectors.clock import monotonic_ns
from connectors.settings import load
from core.kernels import load_kernels
from flows import steps
from flows.dam_step import DamStep
from flows.ingest import build
from flows.run import Run
from tests.bench import traffic
from tests.bench.figures import MACHINE, SMOKE

PACKETS = 60_000 if SMOKE else 1_000_000
REPEATS = 1 if SMOKE else 3
EPOCH_S = 1.0
SPREAD = 2_654_435_761
"""Odd, so that a product modulo 2^32 is an address of its own for each number."""
START_NS = 1_767_225_600_000_000_000
CASES: dict[str, tuple[int, str, dict[str, int]]] = {
    "device_10k": (10_000, "device", {}),
    "device_65k": (65_536, "device", {}),
    "device_65k_limited": (65_536, "device", {"device_rate_hz": 1_000}),
    "host_65k": (65_536, "host", {}),
    "device_1m": (1_000_000, "device", {}),
    "device_1m_remembered": (1_000_000, "device", {"keys_max": 1_048_576}),
}
if SMOKE:
    CASES = {name: CASES[name] for name in ("device_10k", "host_65k")}


def capture(path: Path, devices: int) -> None:
    """Write frames of devices, round by round in random order, 200,000 a second."""
    rng = np.random.default_rng(1)
    names = np.frombuffer(b"0123456789abcdef", np.uint8)[rng.integers(0, 16, (devices, 16))]
    with path.open("wb") as out:
        out.write(traffic.HEADER)
        for begin in range(0, PACKETS, devices):
            who = rng.permutation(devices)[: PACKETS - begin]
            payload = np.zeros((who.size, 40), np.uint8)
            payload[:, :2] = 0xAA, 0x55
            payload[:, 2:18] = names[who]
            payload[:, 18:22] = np.full(who.size, begin, ">u4").view(np.uint8).reshape(-1, 4)
            payload[:, 22:] = np.frombuffer(b'{"celsius": 21.50}', np.uint8)
            payload[:, 37] = ord("0") + rng.integers(0, 10, who.size)
            at_ns = START_NS + (begin + np.arange(who.size)) * 5_000
            out.write(traffic._records(payload, at_ns, who.astype(np.uint32) * np.uint32(SPREAD)))


def whole(step: steps.Step[Any, Any]) -> Any:
    """Return all a step has to remember, as snapshots once held it."""
    state: list[Any] = [step.state()]
    for journal in step.journals().values():
        if hasattr(journal, "_rows"):
            slots = journal._rows.table.slots()
            state += [journal._rows.touched_columns(slots), journal._rows.whole_columns(slots)]
    return state


def settings(path: Path, by: str, extra: dict[str, int], store: str) -> Any:
    """Return the settings of one replay."""
    dam = {"enabled": True, "rate_hz": 1_000_000}
    dam |= {k: v for k, v in extra.items() if k == "device_rate_hz"}
    features = {k: v for k, v in extra.items() if k == "keys_max"}
    run = {"paths": (str(path),), "recovery": store, "epoch_s": EPOCH_S}
    layer = {"run": run, "capture": {"by": by}, "dam": dam, "features": features}
    return load(flags=[("benchmark", layer)], env={}).settings


def one(path: Path, by: str, extra: dict[str, int], store: str) -> dict[str, Any]:
    """Replay once in this process; return what it cost."""
    built: list[steps.Step[Any, Any]] = []
    loading: list[float] = []
    before: list[tuple[int, float]] = []
    made, saved = steps.Step.__init__, steps.Step.snapshot

    def init(self: Any, run: Run, state: bytes | None) -> None:
        begun = monotonic_ns()
        made(self, run, state)
        loading.append((monotonic_ns() - begun) * 1e-6 if state is not None else 0.0)
        built.append(self)

    def snapshot(self: Any) -> bytes | None:
        # The baseline, on the same state, once for each round of snapshots.
        if store and self is built[0]:
            begun = monotonic_ns()
            size = len(pickle.dumps([whole(step) for step in built], 5))
            before.append((size, (monotonic_ns() - begun) * 1e-6))
        return saved(self)

    steps.Step.__init__, steps.Step.snapshot = init, snapshot  # type: ignore[assignment, method-assign]  # measured from outside
    assert DamStep.__init__ is init
    run = Run(settings(path, by, extra, store), notify=lambda line: print(line, file=sys.stderr))
    config = RecoveryConfig(Path(store)) if store else None
    load_kernels()
    begun = monotonic_ns()
    cli_main(build(run), epoch_interval=timedelta(seconds=EPOCH_S), recovery_config=config)
    seconds = (monotonic_ns() - begun) * 1e-9 - sum(ms for _, ms in before) * 1e-3
    total = run.ledger.total()
    return {
        "packets_per_s": round((total["packets_in"] - total["packets_resumed"]) / seconds),
        "snapshots": len(before),
        "bytes_mean": round(total["snapshot_bytes_all"] / max(1, len(before))),
        "bytes_max": total["snapshot_bytes_max"],
        "over_bound_max": total["snapshots_over_bound"],
        "stall_ms_max": round(total["snapshot_stall_ns_max"] * 1e-6, 1),
        "stall_ms_mean": round(total["snapshot_stall_ns"] * 1e-6 / max(1, len(before)), 1),
        "held_s": round(total["snapshot_held_ns"] * 1e-9, 2),
        "pickled_bytes_max": max((size for size, _ in before), default=0),
        "pickled_ms_max": round(max((ms for _, ms in before), default=0.0), 1),
        "restore_ms": round(sum(loading), 1),
    }


def apart(*arguments: str) -> dict[str, Any]:
    """Do `one` in a fresh process."""
    command = [sys.executable, "-m", "tests.bench.bench_snapshot", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    cost: dict[str, Any] = json.loads(done.stdout)
    return cost


def case(path: Path, by: str, extra: dict[str, int]) -> dict[str, Any]:
    """Replay a capture without recovery and with it; resume it at its end."""
    more = json.dumps(extra)
    plain, kept, resumed = [], [], []
    for _ in range(REPEATS):
        plain.append(apart(str(path), by, more, ""))
        with tempfile.TemporaryDirectory(dir=path.parent) as store:
            init_db_dir(Path(store), 1)
            kept.append(apart(str(path), by, more, store))
            folder = Path(store) / "segments"
            size = sum(file.stat().st_size for file in folder.glob("*.log"))
            resumed.append(apart(str(path), by, more, store) | {"stored_bytes": size})
    cost = {
        name: (max if name.endswith("_max") else statistics.median)(c[name] for c in kept)
        for name in kept[0]
    }
    bare = statistics.median(c["packets_per_s"] for c in plain)
    return cost | {
        "packets_per_s_without_recovery": bare,
        "ratio_to_without_recovery": round(cost["packets_per_s"] / bare, 2),
        "restore_ms": statistics.median(c["restore_ms"] for c in resumed),
        "stored_bytes": max(c["stored_bytes"] for c in resumed),
    }


def main() -> None:
    """Write the captures, measure, print a line of JSON for each."""
    if len(sys.argv) > 1:
        file, mode, more, store = sys.argv[1:]
        print(json.dumps(one(Path(file), mode, json.loads(more), store)))
        return
    about = {"machine": MACHINE, "batch_len": 8192, "epoch_s": EPOCH_S, "repeats": REPEATS}
    with tempfile.TemporaryDirectory() as folder:
        for name, (devices, by, extra) in CASES.items():
            path = Path(folder) / f"{devices}.pcap"
            if not path.exists():
                capture(path, devices)
            known = {"case": name, **about, "packets": PACKETS, "keys": devices, "by": by}
            print(json.dumps(known | case(path, by, extra)), flush=True)


if __name__ == "__main__":
    main()
