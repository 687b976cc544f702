"""Runs of the flow for tests: in this process, on several workers, and as a command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
from bytewax._bytewax import cluster_main

from core.config import decode
from core.sections import Settings
from core.topics import FINDINGS
from flows.ingest import build
from flows.replay import replay
from flows.run import Run
from flows.summary import Summary, summarise

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0
"""A run that does not come to its point in this time has hung."""

Sections = dict[str, dict[str, Any]]
Ordered = dict[tuple[str, str], list[bytes]]
"""Records by topic and shard, in order."""


def settings(*captures: Path, **sections: dict[str, Any]) -> Settings:
    """Return settings of a replay of captures."""
    run = {"paths": tuple(map(str, captures))} | sections.pop("run", {})
    return decode([("test", sections | {"run": run})])


def replayed(*captures: Path, **sections: dict[str, Any]) -> Summary:
    """Replay in this process; nothing may be said."""
    said: list[str] = []
    summary = replay(settings(*captures, **sections), said.append)
    assert said == []
    return summary


def on_workers(given: Settings, workers: int) -> Summary:
    """Replay on several workers of this process."""
    run = Run(given, notify=lambda _: None)
    cluster_main(
        build(run), [], 0,
        epoch_interval=timedelta(seconds=given.run.epoch_s), worker_count_per_proc=workers,
    )  # fmt: skip
    return summarise(run.ledger, given.capture.by, 1.0)


def records(folder: Path) -> Ordered:
    """Read the committed JSONL files of a files sink."""
    found: Ordered = {}
    for path in sorted(folder.glob("*/[0-9]*.jsonl")):
        shard = path.name.partition("-")[0]
        found.setdefault((path.parent.name, shard), []).extend(path.read_bytes().splitlines())
    return found


def counts(folder: Path) -> dict[str, int]:
    """Count the committed records of each topic."""
    found: dict[str, int] = {}
    for (topic, _), lines in records(folder).items():
        found[topic] = found.get(topic, 0) + len(lines)
    return found


def as_env(**sections: dict[str, Any]) -> dict[str, str]:
    """Return settings as environment variables."""
    return {
        f"PENSTOCK_{section}_{key}".upper(): str(value)
        for section, table in sections.items()
        for key, value in table.items()
    }


def told(summary: Summary) -> dict[str, Any]:
    """Return a summary as `--json` prints it, but for what depends on the machine."""
    return timeless(msgspec.to_builtins(summary))


def timeless(summary: dict[str, Any]) -> dict[str, Any]:
    """Leave out what depends on how fast the machine is."""
    machine = ("snapshots", "seconds", "packets_per_s")
    return {k: v for k, v in summary.items() if k not in machine}


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        """Return the one object on standard output."""
        assert self.out.count("\n") == 1, self.out
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def line(self) -> str:
        """Return the one line on standard error."""
        assert self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        return self.err.strip()


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without settings of ours, plus some."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PENSTOCK_", "BYTEWAX_"))}
    return kept | {"PYTHONPATH": str(ROOT), "RUST_BACKTRACE": "0"} | more


def start(
    arguments: Sequence[str | Path], cwd: Path, env: dict[str, str] | None = None,
    prefix: Sequence[str] = (), **options: Any,
) -> subprocess.Popen[str]:  # fmt: skip
    """Start Python with arguments, its outputs in pipes; behind a command that becomes it."""
    return subprocess.Popen(
        [*prefix, sys.executable, *map(str, arguments)],
        cwd=cwd, env=environment(**(env or {})), text=True,
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        | options,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> Done:
    """Wait for the end of a process."""
    try:
        out, err = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Done(process.returncode, out, err)


def penstock(*arguments: str | Path, cwd: Path, **env: str) -> Done:
    """Run the command line to its end."""
    return finish(start(["-m", "flows.cli", *arguments], cwd, env))


HOSTED = ("-m", "bytewax.run", "flows.ingest:flow")
"""What runs the flow without our command line."""


def wait_until(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    """Wait until something is seen to have happened while a process lives."""
    for _ in range(int(PATIENCE_S * 100)):
        if reached():
            return
        try:
            process.wait(timeout=0.01)
        except subprocess.TimeoutExpired:
            continue
        if reached():
            return
        out, err = process.communicate()
        raise AssertionError(f"ended too early with {process.returncode}: {out}{err}")
    process.kill()
    raise AssertionError("never came to its point")


def catches(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Tell whether a process has a handler for a signal."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def findings(folder: Path) -> list[dict[str, Any]]:
    """Return the findings of a run."""
    return [json.loads(line) for (t, _), all_ in records(folder).items() if t == FINDINGS
            for line in all_]  # fmt: skip
