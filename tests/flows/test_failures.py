"""What fails, fails as promised: a model leaves rows unscored, a sink ends the run in one line."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bytewax._bytewax import run_main

from connectors.scores import ScoresFile
from core.errors import SinkError
from core.topics import TELEMETRY
from flows.ingest import build
from flows.replay import replay
from flows.run import Run
from flows.simulate import SimulationSummary
from flows.summary import summarise
from models.features import RowBatch
from models.judge import Judge, Judgement
from tests.disks import mount, small_disk_at
from tests.flows.runs import (
    HOSTED,
    as_env,
    finish,
    penstock,
    records,
    replayed,
    settings,
    start,
    told,
    wait_until,
)


class OutOfDepthError(Exception):
    """What the model of this test raises."""


class FailingJudge(Judge):
    """A model that fails on every third batch of rows."""

    calls = 0

    def judge(self, rows: RowBatch) -> Judgement:
        """Score rows, or fail."""
        self.calls += 1
        if self.calls % 3 == 0:
            raise OutOfDepthError("no idea")
        return super().judge(rows)


def test_a_failing_model_leaves_rows_unscored(
    mixed: SimulationSummary, capture: Path, tmp_path: Path
) -> None:
    """Its rows are counted by reason and their packets are NaN; every frame is delivered."""
    said: list[str] = []
    given = settings(capture, anomaly={"warm_rows": 0}, capture={"batch_len": 200})
    found, reasons = {}, 0
    for kind in (Judge, FailingJudge):
        run = Run(given, said.append, judge=kind, scores=ScoresFile(tmp_path / "s.npy"))
        run_main(build(run), epoch_interval=timedelta(seconds=10))
        assert run.scores is not None
        run.scores.finish(mixed.packets)
        reasons = run.ledger.total()["unscored.OutOfDepthError"]
        found[kind] = summarise(run.ledger, "device", 1.0), np.load(tmp_path / "s.npy")
    (sound, scores), (summary, some) = found[Judge], found[FailingJudge]
    assert said == ["the model failed (OutOfDepthError: no idea); such rows are unscored"]
    assert summary.adds_up
    assert summary.passed == mixed.frames == summary.delivered[TELEMETRY]
    assert summary.rows["unscored"] > 0
    assert sum(summary.rows.values()) == sum(sound.rows.values())
    assert reasons == summary.rows["unscored"]
    assert np.isfinite(scores).sum() > np.isfinite(some).sum() > 0


@pytest.mark.parametrize("name", ["HalfSpaceTrees", "OneClassSVM"])
def test_models_of_river_can_be_named(capture: Path, name: str) -> None:
    """A detector of River scores the same rows, in the same graph."""
    said: list[str] = []
    given = settings(capture, anomaly={"detector": name, "warm_rows": 100})
    summary = replay(given, said.append)
    assert said == []
    assert summary.rows["unscored"] == 0
    assert summary.rows["scored"] > 100


def test_a_sink_that_fails_ends_the_run_with_one_line(capture: Path, tmp_path: Path) -> None:
    """The folder of records is removed under a run: exit 1, one line that names it, no summary."""
    process = start(
        ["-m", "flows.cli", "replay", capture, "--speed", "2", "--sink", "files:out", "--json"],
        tmp_path, {"PENSTOCK_RUN_EPOCH_S": "0.05", "RUST_BACKTRACE": "1"},
    )  # fmt: skip
    out = tmp_path / "out"
    wait_until(process, lambda: any(out.glob("*/[0-9]*.jsonl")))
    shutil.rmtree(out)
    done = finish(process)
    assert done.code == 1
    assert done.out == ""
    assert done.line.startswith("penstock: out")
    assert "No such file or directory" in done.line


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB, which holds a quarter of the records."""
    with small_disk_at(tmp_path / "disk", "256k") as folder:
        yield folder


@pytest.mark.root
def test_what_a_full_disk_refused_is_written_once_there_is_room(
    capture: Path, tmp_path: Path, small_disk: Path
) -> None:
    """With recovery, a run that its disk ended goes on where it was and leaves out no record."""
    rules: dict[str, dict[str, Any]] = {"dam": {"enabled": False}, "capture": {"batch_len": 100}}
    whole = replayed(capture, **rules, run={"sink": f"files:{tmp_path / 'whole'}"})
    sink, store = f"files:{small_disk / 'out'}", str(tmp_path / "store")
    done = penstock(
        "replay", capture, "--sink", sink, "--recovery", store, "--json",
        cwd=tmp_path, **as_env(**rules, run={"epoch_s": 0.01}),
    )  # fmt: skip
    assert (done.code, done.out) == (1, "")
    assert done.line.startswith(f"penstock: {small_disk}/out/")
    assert done.line.endswith("No space left on device; free space there or choose another folder")
    assert list((small_disk / "out").rglob("*.tmp")) == []
    assert mount(small_disk, "-o", "remount,size=8m").returncode == 0
    cured = replayed(capture, **rules, run={"sink": sink, "recovery": store})
    assert told(cured) == told(whole)
    assert records(small_disk / "out") == records(tmp_path / "whole")


@pytest.mark.root
@pytest.mark.parametrize("size", ["32k", "92k", "112k"])
def test_a_full_disk_under_the_snapshots_is_one_line_and_leaves_a_sound_store(
    capture: Path, tmp_path: Path, size: str
) -> None:
    """Too small for the store, its journal or the run: with room the same command goes on."""
    rules: dict[str, dict[str, Any]] = {"capture": {"batch_len": 100}}
    with small_disk_at(tmp_path / "disk", size) as disk:
        sink, store = f"files:{tmp_path / 'out'}", disk / "store"
        done = penstock(
            "replay", capture, "--sink", sink, "--recovery", store, "--json",
            cwd=tmp_path, **as_env(**rules, run={"epoch_s": 0.01}),
        )  # fmt: skip
        assert (done.code, done.out) == (1, "")
        assert "No space left on device" in done.line or "is there room" in done.line
        assert mount(disk, "-o", "remount,size=8m").returncode == 0
        whole = replayed(capture, **rules, run={"sink": f"files:{tmp_path / 'whole'}"})
        cured = replayed(capture, **rules, run={"sink": sink, "recovery": str(store)})
        assert told(cured) == told(whole)


@pytest.mark.root
@pytest.mark.parametrize("workers", ["1", "2"])
def test_under_another_host_a_failing_sink_is_one_line_of_ours(
    capture: Path, tmp_path: Path, small_disk: Path, workers: str
) -> None:
    """Under bytewax.run the engine prints its own report; ours is one line, without a traceback."""
    env = {"PENSTOCK_RUN_PATHS": str(capture), "PENSTOCK_RUN_SINK": f"files:{small_disk}"}
    done = finish(start([*HOSTED, "-w", workers], tmp_path, env))
    assert (done.code, done.out) == (1, ""), done
    ours = [line for line in done.err.splitlines() if line.startswith("penstock: ")]
    assert len(ours) == 1
    assert "No space left on device" in ours[0]
    assert "Traceback" not in done.err
    assert list(small_disk.rglob("*.tmp")) == []


@pytest.mark.parametrize("below", ["file/out", "file", "file/a/b"])
def test_a_folder_that_cannot_be_is_refused_before_reading(
    capture: Path, tmp_path: Path, below: str
) -> None:
    """A file where the folder belongs is named before the first packet is read."""
    (tmp_path / "file").touch()
    ends: list[str] = []
    given = settings(capture, run={"sink": f"files:{tmp_path / below}"})
    with pytest.raises(SinkError, match="remove the file that lies where a folder belongs"):
        replay(given, ends.append)
    assert ends == []


def test_scores_that_cannot_be_written_are_refused_before_reading(tmp_path: Path) -> None:
    """The capture need not even exist: the file of scores is made first."""
    for scores in (tmp_path / "no" / "s.npy", tmp_path):
        said: list[str] = []
        with pytest.raises(SinkError, match="give --scores a") as caught:
            replay(settings(Path("none.pcap"), run={"scores": str(scores)}), said.append)
        assert str(caught.value).startswith(str(scores))
        assert said == []
    assert list(tmp_path.iterdir()) == []


def test_no_scores_are_left_by_a_run_that_failed(capture: Path, tmp_path: Path) -> None:
    """Scores appear under their name when the run ended well, and else not at all."""
    (tmp_path / "file").touch()
    run = {"scores": str(tmp_path / "s.npy"), "sink": f"files:{tmp_path / 'file'}"}
    with pytest.raises(SinkError):
        replay(settings(capture, run=run), lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


class Brittle(Judge):
    """Fails on every seventh window."""

    def judge(self, rows: RowBatch) -> Judgement:
        if int(rows.window_ns[0]) // 1_000_000_000 % 7 == 0:
            raise ArithmeticError("the seventh window")
        return super().judge(rows)


def test_what_a_failing_model_leaves_unscored_does_not_depend_on_batches(capture: Path) -> None:
    """Only the windows on which it fails are unscored, however packets were cut into batches."""
    outcomes = []
    for batch_len in (100, 65_536):
        given = settings(capture, capture={"batch_len": batch_len}, anomaly={"warm_rows": 60})
        run = Run(given, notify=lambda _: None, judge=Brittle)
        run_main(build(run))
        outcomes.append(summarise(run.ledger, "device", 1.0).rows)
    assert outcomes[0] == outcomes[1]
    assert outcomes[0]["unscored"] > 0
    assert outcomes[0]["scored"] > 0
