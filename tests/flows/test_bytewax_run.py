"""Signals end a run well, under our command line and under the engine's own alike."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from core.topics import TELEMETRY
from flows.simulate import SimulationSummary
from tests.flows.runs import (
    HOSTED,
    as_env,
    catches,
    counts,
    finish,
    records,
    replayed,
    start,
    timeless,
    told,
    wait_until,
)

TIGHT = {"rate_hz": 150, "burst": 20, "queue_len_max": 90}


def hosted_env(capture: Path | str, **more: str) -> dict[str, str]:
    """Return settings of a replay into files, for `bytewax.run`."""
    return as_env(run={"paths": capture, "sink": "files:out"}, dam=TIGHT) | more


def fresh_store(folder: Path) -> None:
    """Make a recovery store as Bytewax's manual says."""
    folder.mkdir()
    command = [sys.executable, "-m", "bytewax.recovery", str(folder), "2"]
    subprocess.run(command, check=True)


def test_the_engine_hosts_the_same_run(capture: Path, tmp_path: Path) -> None:
    """With -w, -r, -s and -b it gives the records and the summary of `penstock replay`."""
    ours = replayed(capture, dam=TIGHT, run={"sink": f"files:{tmp_path / 'ours'}"})
    fresh_store(tmp_path / "store")
    recovery = ("-r", "store", "-s", "1", "-b", "0")
    for arguments in (("-w", "1"), ("-w", "2", *recovery)):
        done = finish(start([*HOSTED, *arguments], tmp_path, hosted_env(capture)))
        assert (done.code, done.err) == (0, "")
        assert timeless(done.summary) == told(ours)
        assert records(tmp_path / "out") == records(tmp_path / "ours")
        for path in (tmp_path / "out").rglob("*.jsonl"):
            path.unlink()
    # The store of -r holds the state: resumed at its end, the run has nothing to add.
    done = finish(start([*HOSTED, *recovery], tmp_path, hosted_env(capture)))
    assert timeless(done.summary) == told(ours)
    assert records(tmp_path / "out") == {}


def test_killed_on_two_workers_resumed_on_one(capture: Path, tmp_path: Path) -> None:
    """The number of workers may change with a resume; the records do not."""
    env = hosted_env(capture, PENSTOCK_RUN_SHARDS="3")
    run = {"sink": f"files:{tmp_path / 'whole'}", "shards": 3}
    whole = replayed(capture, dam=TIGHT, run=run)
    fresh_store(tmp_path / "store")
    out = tmp_path / "out"
    recovery = ("-r", "store", "-s", "0", "-b", "0")
    slow = env | {"PENSTOCK_CAPTURE_SPEED": "3"}
    process = start([*HOSTED, "-w", "2", *recovery], tmp_path, slow)
    wait_until(process, lambda: len(list(out.glob("*/[0-9]*.jsonl"))) > 30)
    process.kill()
    process.communicate()
    done = finish(start([*HOSTED, *recovery], tmp_path, env))
    assert done.code == 0, done.err
    assert records(out) == records(tmp_path / "whole")
    assert timeless(done.summary) == told(whole)


@pytest.mark.parametrize(
    ("host", "number"),
    [
        ("penstock", signal.SIGTERM),
        ("penstock", signal.SIGINT),
        ("bytewax", signal.SIGTERM),
        ("bytewax -w 2", signal.SIGINT),
    ],
)
def test_one_signal_ends_the_source_and_drains(
    mixed: SimulationSummary, capture: Path, tmp_path: Path, host: str, number: signal.Signals
) -> None:
    """What was read is accounted for, queued frames leave, files are whole, and the code is 0."""
    env = hosted_env(capture, PENSTOCK_RUN_EPOCH_S="0.05", PENSTOCK_CAPTURE_SPEED="1")
    command = ["-m", "flows.cli", "replay", str(capture), "--json"]
    if host != "penstock":
        command = [*HOSTED, *host.split()[1:], "-s", "1"]
    process = start(command, tmp_path, env)
    wait_until(process, lambda: any((tmp_path / "out").glob(f"{TELEMETRY}/[0-9]*.jsonl")))
    process.send_signal(number)
    done = finish(process)
    summary = done.summary
    told = f"penstock: interrupted after {summary['packets_in']} packets; start it again for the "
    assert (done.code, done.err) == (0, f"{told}rest\n" if host == "penstock" else "")
    assert summary["interrupted"]
    assert 0 < summary["packets_in"] < mixed.packets
    frames = summary["passed"] + sum(summary["dropped"].values())
    assert summary["frames"] == frames
    assert summary["passed"] > 0
    assert summary["delivered"] == counts(tmp_path / "out")
    assert list((tmp_path / "out").rglob("*.tmp")) == []


@pytest.mark.parametrize("host", ["penstock", "bytewax -w 2"])
def test_a_signal_ends_waiting_for_a_silent_pipe(tmp_path: Path, host: str) -> None:
    """A source that has nothing to read yet ends, too: nothing was read, which is a failure."""
    os.mkfifo(tmp_path / "pipe")
    holder = os.open(tmp_path / "pipe", os.O_RDWR)
    try:
        command = ["-m", "flows.cli", "replay", "pipe", "--json"]
        if host != "penstock":
            command = [*HOSTED, *host.split()[1:]]
        process = start(command, tmp_path, hosted_env("pipe"))
        wait_until(process, lambda: catches(process, signal.SIGTERM))
        process.terminate()
        done = finish(process)
    finally:
        os.close(holder)
    assert done.code == 1
    assert "Traceback" not in done.err
    assert done.summary["packets_in"] == 0


def metrics(port: int) -> str:
    """Fetch /metrics of this machine; empty while nobody serves it."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def value(text: str, name: str) -> float:
    """Return the sum of a metric over its labels."""
    found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    assert found, name
    return sum(map(float, found))


def test_metrics_are_served_while_it_runs(capture: Path, tmp_path: Path) -> None:
    """Both on a port of ours and on the engine's, with what the run has counted so far."""
    ours, engines = free_port(), free_port()
    env = hosted_env(
        capture, PENSTOCK_CAPTURE_SPEED="1", PENSTOCK_METRICS_PORT=str(ours),
        BYTEWAX_DATAFLOW_API_ENABLED="1", BYTEWAX_DATAFLOW_API_PORT=str(engines),
    )  # fmt: skip
    process = start([*HOSTED], tmp_path, env)
    seen = ("penstock_frames_passed_total", "penstock_packets_malformed_total")

    def counted(port: int) -> bool:
        text = metrics(port)
        return all(re.search(rf"^{n}.* [1-9]", text, re.MULTILINE) for n in seen)

    for port in (ours, engines):
        wait_until(process, lambda port=port: counted(port))  # type: ignore[misc]  # bound at once
        text = metrics(port)
        assert value(text, "penstock_rate_limit") == 150
        assert value(text, "penstock_tokens_available") >= 0
        assert value(text, "penstock_received_bytes_total") > 0
        assert value(text, "penstock_stage_seconds_count") > 0
        assert "steady" not in text  # no device is named
    process.terminate()
    assert finish(process).code == 0
