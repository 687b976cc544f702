"""Live runs with recovery: state goes on, packets are not read again, nothing counts twice."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from core.topics import TELEMETRY
from tests.flows.lives import frames, live
from tests.flows.runs import PATIENCE_S, records, wait_until

KEPT = ("--udp", "127.0.0.1:0", "--sink", "files:out", "--recovery", "state")


def seqs(folder: Path) -> list[int]:
    return [json.loads(line)["seq"] for line in records(folder)[TELEMETRY, "0000"]]


def test_what_waits_is_kept_over_a_restart(tmp_path: Path) -> None:
    """A stop keeps the queue of the dam; the next run releases it, and counts all packets once."""
    with live(*KEPT, "--rate", "1", "--burst", "5", cwd=tmp_path) as run:
        run.send(*frames(20))
        first = run.stop(signal.SIGTERM).summary
    assert (first["packets_in"], first["frames"]) == (20, 20)
    assert first["passed"] + first["held"] == 20
    assert first["held"] > 5
    with live(*KEPT, "--rate", "1", "--burst", "5", cwd=tmp_path) as run:
        run.send(*frames(3, first=20))
        second = run.stop().summary
    assert (second["packets_in"], second["frames"]) == (23, 23)
    assert second["passed"] + second["held"] == 23
    assert seqs(tmp_path / "out") == list(range(second["passed"]))


def test_a_killed_run_goes_on_with_its_state(tmp_path: Path) -> None:
    """What was saved before a crash counts, what came after it is lost, nothing is there twice."""
    with live(*KEPT, cwd=tmp_path, env={"PENSTOCK_RUN_EPOCH_S": "0.05"}) as run:
        run.send(*frames(10))
        wait_until(run.process, lambda: len(records(tmp_path / "out")) > 0)
        run.process.kill()
        run.process.wait(timeout=PATIENCE_S)
    with live(*KEPT, cwd=tmp_path, env={"PENSTOCK_RUN_EPOCH_S": "0.05"}) as run:
        run.send(*frames(5, first=10))
        done = run.stop()
    assert done.code == 0, done.err
    told, found = done.summary, seqs(tmp_path / "out")
    assert told["packets_in"] == told["frames"] == told["delivered"][TELEMETRY] == len(found)
    assert found[-5:] == list(range(10, 15))
    assert found == sorted(set(found))


def test_the_store_of_a_replay_is_refused(tmp_path: Path) -> None:
    """State saved under other settings is not gone on with."""
    with live(*KEPT, cwd=tmp_path) as run:
        run.send(*frames(10))
        run.stop()
    with live(*KEPT, "--rate", "77", cwd=tmp_path, sockets=0) as run:
        done = run.end()
    assert done.code == 1
    assert "other settings" in done.err
