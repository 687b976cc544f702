"""A replay that is killed goes on where it was, and leaves what an uninterrupted one leaves."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import signal
import sqlite3
import subprocess
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from core.errors import PenstockError, SinkError, SourceError, UsageError
from core.topics import FLOWS, FLOWS_DLQ, TELEMETRY, TELEMETRY_DLQ
from flows.replay import NOTHING_LEFT, replay
from tests.connectors.test_engine_store import HOLD
from tests.disks import small_disk_at
from tests.flows.runs import (
    as_env,
    finish,
    records,
    replayed,
    settings,
    start,
    told,
    wait_until,
)

# A dam that queues and drops, and a model that finds: all of it has to be in the snapshots.
RULES: dict[str, dict[str, Any]] = {
    "capture": {"batch_len": 64},
    "dam": {"enabled": True, "rate_hz": 200, "burst": 50, "queue_len_max": 300,
            "device_rate_hz": 30},
    "anomaly": {"warm_rows": 60, "threshold": 0.02},
}  # fmt: skip


def committed(folder: Path) -> int:
    """Count the files that an epoch has closed on."""
    return len(list(folder.glob("*/[0-9]*.jsonl")))


def reached(cwd: Path, target: int) -> bool:
    """Tell whether so many files are committed; for none, whether the store was made."""
    return (cwd / "store" / "part-0.sqlite3").exists() and committed(cwd / "out") >= target


def halt(command: list[str], cwd: Path, files: int, number: signal.Signals) -> None:
    """Start a run, and send it a signal once it has committed so many more files."""
    target = committed(cwd / "out") + files
    pace = {"speed": 3}
    rules = RULES | {"capture": RULES["capture"] | pace, "run": {"epoch_s": 0.02}}
    process = start(command, cwd, as_env(**rules))
    wait_until(process, partial(reached, cwd, target))
    process.send_signal(number)
    out, err = process.communicate()
    if number == signal.SIGKILL:
        assert process.returncode == -number
        return
    assert process.returncode == 0, err
    assert json.loads(out)["interrupted"]
    assert "the same command goes on there" in err


@pytest.mark.parametrize(
    ("by", "after", "number"),
    [
        ("device", [0, 1, 25], signal.SIGKILL),
        ("host", [4], signal.SIGKILL),
        ("device", [1, 20], signal.SIGTERM),
        ("host", [4], signal.SIGINT),
    ],
)
def test_stop_and_resume(
    capture: Path, tmp_path: Path, by: str, after: list[int], number: signal.Signals
) -> None:
    """Killed or told to stop, and resumed, a run leaves what an uninterrupted one leaves."""
    rules = RULES | {"capture": RULES["capture"] | {"by": by}}
    summary = replayed(capture, **rules, run={"sink": f"files:{tmp_path / 'whole'}"})
    whole = records(tmp_path / "whole")
    assert {topic for topic, _ in whole} >= ({TELEMETRY, TELEMETRY_DLQ} if by == "device" else
                                             {FLOWS, FLOWS_DLQ})  # fmt: skip
    assert summary.dropped
    assert summary.findings

    path = tmp_path / "mixed.pcap.gz"
    path.write_bytes(gzip.compress(capture.read_bytes(), 1))
    sink, store = f"files:{tmp_path / 'out'}", str(tmp_path / "store")
    for files in after:
        halt(["-m", "flows.cli", "replay", str(path), "--by", by, "--sink", sink,
              "--recovery", store, "--json"], tmp_path, files, number)  # fmt: skip
    before = records(tmp_path / "out")
    assert before != whole
    for part, lines in before.items():
        assert whole[part][: len(lines)] == lines
    # Resumed to its end, and once more at its end, where it says the same and writes nothing.
    for packets_left in (True, False):
        said: list[str] = []
        given = settings(path, **rules, run={"sink": sink, "recovery": store})
        again = replay(given, said.append)
        assert said == [NOTHING_LEFT] * (not packets_left)
        assert told(again) == told(summary)
        assert records(tmp_path / "out") == whole
        assert bool(again.packets_per_s) == packets_left


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
    before = records(stored / "out")
    resumed(stored, capture={"batch_len": 10, "speed": 1e6}, run={"epoch_s": 5.0})
    assert records(stored / "out") == before


def test_records_that_are_gone_are_not_counted_as_delivered(stored: Path) -> None:
    """A resume into a folder that lost a topic is refused, and names the topic."""
    shutil.rmtree(stored / "out" / TELEMETRY)
    assert f"the records of {TELEMETRY} written before are gone" in refused(stored, SinkError)


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


@pytest.mark.parametrize("snapshot", [b"", b"\x80\x04\x95", b"cno.such\nmodule\n.", b"0."])
def test_a_damaged_snapshot_is_named(stored: Path, snapshot: bytes) -> None:
    """A sound database with unreadable snapshots in it is one line with a cure, too."""
    with closing(sqlite3.connect(stored / "store" / "part-0.sqlite3")) as store, store:
        store.execute("UPDATE snaps SET ser_change = ? WHERE ser_change NOT NULL", (snapshot,))
    assert refused(stored).startswith(f"{stored / 'store'}: not a sound recovery folder")


@pytest.mark.parametrize("change", [{"scores": "x.npy"}, {"paths": ("-",)}])
def test_what_cannot_be_resumed_is_refused(stored: Path, change: dict[str, Any]) -> None:
    """Scores and standard input exclude recovery, before anything is touched."""
    assert "exclude one another" in refused(stored, UsageError, run=change)
    assert not (stored / "x.npy").exists()


def test_the_state_of_another_version_is_refused(stored: Path) -> None:
    """A store whose steps were saved whole, as they once were, is named, with the cure."""
    old = pickle.dumps(pickle.dumps({"keys": [1, 2, 3], "late": 0}))
    with closing(sqlite3.connect(stored / "store" / "part-0.sqlite3")) as store, store:
        store.execute("UPDATE snaps SET ser_change = ? WHERE step_id LIKE '%.features'", (old,))
    line = refused(stored)
    assert line.startswith(f"{stored / 'store'}: written by another version of Penstock; give")


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_damaged_segments_are_named(stored: Path, damage: str) -> None:
    """Rows that are not as they were written are one line with a cure, never other results."""
    segments = stored / "store" / "segments"
    path = next(segments.glob("0000-features-*.log"))
    if damage == "changed":
        content = bytearray(path.read_bytes())
        content[-9] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        os.truncate(path, path.stat().st_size - 1)
    else:
        shutil.rmtree(segments)
    line = refused(stored)
    assert line.startswith(f"{stored / 'store'}: not a sound recovery folder (0000-features-")
    assert line.endswith("or remove this one to start over")


def test_a_store_on_a_full_disk_is_one_line(capture: Path, tmp_path: Path) -> None:
    """State that cannot be written ends the run, names the folder, and says what to do."""
    (tmp_path / "a.pcap").write_bytes(capture.read_bytes())
    (tmp_path / "store").mkdir()
    dam = {"device_rate_hz": 1000}
    with small_disk_at(tmp_path / "store" / "segments", "4k"):
        line = refused(tmp_path, SinkError, dam=dam)
        assert line.startswith(str(tmp_path / "store" / "segments"))
        assert "free space there" in line
    resumed(tmp_path, dam=dam)
    assert records(tmp_path / "out")


def test_one_run_at_a_time(stored: Path) -> None:
    """A second run on the same recovery folder is refused while the first goes on."""
    process = start(["-c", HOLD, stored / "store"], stored, stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    assert "another process uses this recovery folder" in refused(stored)
    process.kill()
    finish(process)
    resumed(stored)
