"""A replay that is killed goes on where it was, and leaves what an uninterrupted one leaves."""

from __future__ import annotations

import gzip
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from core.errors import PenstockError, SourceError, UsageError
from core.topics import FINDINGS, TELEMETRY, TELEMETRY_DLQ
from flows.replay import replay
from flows.simulate import SimulationSummary
from tests.flows.runs import (
    Ordered,
    finish,
    penstock,
    records,
    settings,
    start,
    timeless,
    wait_until,
)

# A dam that queues and drops, and a model that finds: all of it has to be in the snapshots.
ENV = {
    "PENSTOCK_RUN_EPOCH_S": "0.02",
    "PENSTOCK_CAPTURE_BATCH_LEN": "64",
    "PENSTOCK_DAM_RATE_HZ": "200",
    "PENSTOCK_DAM_BURST": "50",
    "PENSTOCK_DAM_QUEUE_LEN_MAX": "300",
    "PENSTOCK_DAM_DEVICE_RATE_HZ": "30",
    "PENSTOCK_ANOMALY_WARM_ROWS": "60",
    "PENSTOCK_ANOMALY_THRESHOLD": "0.02",
}


def committed(folder: Path) -> int:
    """Count the files that an epoch has closed on."""
    return len(list(folder.glob("*/[0-9]*.jsonl")))


def reached(cwd: Path, target: int) -> bool:
    """Tell whether so many files are committed; for none, whether the store was made."""
    return (cwd / "store" / "part-0.sqlite3").exists() and committed(cwd / "out") >= target


def killed_then_resumed(
    command: list[str], cwd: Path, env: dict[str, str], after: list[int]
) -> int:
    """Kill a run each time so many more files are committed; return how often it was killed."""
    out, kills = cwd / "out", 0
    for files in after:
        target = committed(out) + files
        process = start([*command, "--speed", "10"], cwd, env)
        wait_until(process, partial(reached, cwd, target))
        process.kill()
        process.communicate()
        assert process.returncode == -9
        kills += 1
    return kills


@pytest.fixture(scope="module")
def uninterrupted(
    capture: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Ordered, dict[str, object]]]:
    """Return records and summary of whole runs, device and host."""
    found = {}
    for by in ("device", "host"):
        folder = tmp_path_factory.mktemp(by)
        arguments = (
            "replay",
            capture,
            "--by",
            by,
            "--rate",
            "200",
            "--sink",
            "files:out",
            "--json",
        )
        done = penstock(*arguments, cwd=folder, **ENV)
        assert done.code == 0
        found[by] = records(folder / "out"), timeless(done.summary)
    assert {TELEMETRY, TELEMETRY_DLQ, FINDINGS} == {topic for topic, _ in found["device"][0]}
    return found


@pytest.mark.parametrize(("by", "after"), [("device", [0, 1, 25]), ("host", [4])])
def test_kill_and_resume(
    mixed: SimulationSummary, capture: Path, tmp_path: Path,
    uninterrupted: dict[str, tuple[Ordered, dict[str, object]]], by: str, after: list[int],
) -> None:  # fmt: skip
    """Killed at several points and resumed, files and summary are those of an uninterrupted run."""
    path = tmp_path / "mixed.pcap.gz"
    path.write_bytes(gzip.compress(capture.read_bytes(), 1))
    command = ["-m", "flows.cli", "replay", str(path), "--by", by, "--rate", "200",
               "--sink", "files:out", "--recovery", "store", "--json"]  # fmt: skip
    assert killed_then_resumed(command, tmp_path, ENV, after) == len(after)
    before = records(tmp_path / "out")
    done = finish(start(command, tmp_path, ENV))
    assert done.code == 0, done.err
    whole, summary = uninterrupted[by]
    assert records(tmp_path / "out") == whole
    assert timeless(done.summary) == summary
    assert before != whole
    for part, lines in before.items():
        assert whole[part][: len(lines)] == lines
    # Resumed once more at its end, it says the same and writes nothing.
    again = finish(start(command, tmp_path, ENV))
    assert timeless(again.summary) == summary
    assert records(tmp_path / "out") == whole
    assert again.summary["packets_per_s"] == 0


@pytest.fixture
def stored(capture: Path, tmp_path: Path) -> Path:
    """Return a folder with a copy of the capture, its records, and the store of their replay."""
    (tmp_path / "a.pcap").write_bytes(capture.read_bytes())
    resumed(tmp_path)
    return tmp_path


def resumed(folder: Path, **sections: dict[str, Any]) -> None:
    run: dict[str, Any] = {"sink": f"files:{folder / 'out'}", "recovery": str(folder / "store")}
    run |= {"paths": (str(folder / "a.pcap"),)} | sections.pop("run", {})
    replay(settings(run=run, **sections), lambda _: None)


def refused(
    folder: Path, kind: type[PenstockError] = SourceError, **sections: dict[str, Any]
) -> str:
    """Return the one line with which a resume is refused; nothing may be written."""
    before = records(folder / "out")
    with pytest.raises(kind) as caught:
        resumed(folder, **sections)
    assert "\n" not in str(caught.value)
    assert records(folder / "out") == before
    return str(caught.value)


def test_a_changed_capture_is_refused(stored: Path) -> None:
    """Other content, another time of change, and a capture that is gone are each named."""
    path = stored / "a.pcap"
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert refused(stored).startswith(f"{path}: has changed since")
    path.write_bytes(path.read_bytes()[:-1])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "has changed" in refused(stored)
    path.unlink()
    assert "is missing or unreadable" in refused(stored)


def test_other_captures_are_refused(stored: Path) -> None:
    """One capture more is another replay."""
    (stored / "b.pcap").write_bytes((stored / "a.pcap").read_bytes())
    paths = tuple(str(stored / name) for name in ("a.pcap", "b.pcap"))
    assert refused(stored, run={"paths": paths}).startswith(f"{stored / 'b.pcap'}: is not part of")


@pytest.mark.parametrize(
    "change",
    [
        {"dam": {"burst": 7}},
        {"capture": {"by": "host"}},
        {"run": {"shards": 2}},
        {"run": {"sink": "null"}},
        {"files": {"format": "parquet"}},
    ],
)
def test_other_settings_are_refused(stored: Path, change: dict[str, Any]) -> None:
    """What would give other records, or put them elsewhere, is refused with the cure."""
    line = refused(stored, SourceError, **change)
    assert "written with other settings; give another --recovery folder" in line


def test_settings_that_change_no_record_are_taken(stored: Path) -> None:
    """Batches, epochs and speed may differ in a resumed run."""
    resumed(stored, capture={"batch_len": 10, "speed": 1e6}, run={"epoch_s": 5.0})


def test_a_damaged_store_is_named(stored: Path) -> None:
    """An empty or overwritten store, or a file in its place, is one line with a cure."""
    part = stored / "store" / "part-0.sqlite3"
    for content in (b"", b"no database" * 1000):
        part.write_bytes(content)
        line = refused(stored)
        assert line.startswith(f"{stored / 'store'}: not a sound recovery folder")
        assert line.endswith("or remove this one to start over")
    in_the_way = {"recovery": str(stored / "a.pcap")}
    assert "give --recovery a folder" in refused(stored, run=in_the_way)


@pytest.mark.parametrize("change", [{"scores": "x.npy"}, {"paths": ("-",)}])
def test_what_cannot_be_resumed_is_refused(stored: Path, change: dict[str, Any]) -> None:
    """Scores and standard input exclude recovery, before anything is touched."""
    assert "exclude one another" in refused(stored, UsageError, run=change)
    assert not (stored / "x.npy").exists()
