"""The files sink: what lies in the folder when, after good ends, bad ends and resumes."""

from __future__ import annotations

import os
import re
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bytewax.operators as op
import numpy as np
import pyarrow.parquet as pq
import pytest
from bytewax.dataflow import Dataflow
from bytewax.inputs import AbortExecution
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSource, cluster_main, run_main

from connectors.files import FilesPart, FilesSink, FilesState
from core.errors import SettingError, SinkError
from tests.counting import Counting
from tests.disks import small_disk_at
from tests.records import record_batch as records

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connectors.formats import Format
    from core.batches import RecordBatch


def files_sink(folder: Path, **settings: Any) -> FilesSink:
    defaults: dict[str, Any] = {
        "parts": 1,
        "format": "jsonl",
        "rotate_rows": 1000,
        "durable": False,
        "on_delivered": lambda _part, _counts: None,
    }
    return FilesSink(folder=folder, **{**defaults, **settings})


def flow(items: list[Any], sink: FilesSink) -> Dataflow:
    graph = Dataflow("files")
    op.output("out", op.input("in", graph, TestingSource(items)), sink)
    return graph


def item(number: int) -> tuple[str, RecordBatch]:
    """A record that holds the number."""
    return "0000", records("t", [b"%d" % number])


def names(folder: Path) -> list[str]:
    """All files but the claims, relative to the folder."""
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return sorted(str(p) for p in found if len(p.parts) > 1)


def descriptors() -> dict[int, str]:
    """What this process holds open."""
    links = [(int(p.name), p) for p in Path("/proc/self/fd").iterdir()]
    return {fd: str(p.readlink()) for fd, p in links if p.is_symlink()}


def lines(folder: Path) -> Counter[bytes]:
    return Counter(line for p in folder.rglob("*.jsonl") for line in p.read_bytes().splitlines())


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_shards_go_to_their_own_files(tmp_path: Path, workers: int) -> None:
    """Part k holds the records of key k in order, and is the same for any number of workers."""
    items = [(f"{i % 4:04d}", records("t", [b"%d" % i, b"[\n%d]" % i])) for i in range(12)]
    sink = files_sink(tmp_path, parts=4)
    cluster_main(flow(items, sink), [], 0, worker_count_per_proc=workers)
    assert names(tmp_path) == [f"t/{k:04d}-00000001.jsonl" for k in range(4)]
    for k in range(4):
        want = b"".join(b"%d\n[ %d]\n" % (i, i) for i in range(k, 12, 4))
        assert (tmp_path / "t" / f"{k:04d}-00000001.jsonl").read_bytes() == want


def test_parquet_through_a_flow(tmp_path: Path) -> None:
    """Parquet files have the same layout and hold the same values."""
    items = [("0000", records("t", [b"%d" % i])) for i in range(3)]
    run_main(flow(items, files_sink(tmp_path, format="parquet", rotate_rows=2)))
    assert names(tmp_path) == ["t/0000-00000001.parquet", "t/0000-00000002.parquet"]
    tables = [pq.read_table(tmp_path / name) for name in names(tmp_path)]
    assert [t["value"].to_pylist() for t in tables] == [["0", "1"], ["2"]]


def test_files_appear_when_the_epoch_closes(tmp_path: Path) -> None:
    """Rotation closes a file at once, but no file has its final name before the snapshot."""
    part = FilesPart(files_sink(tmp_path, rotate_rows=2), "0000", None)
    part.write_batch([records("a", [b"1"]), records("a", [b"2", b"3"]), records("b", [b"4"])])
    part.write_batch([records("a", [b"5"]), records("a", [])])
    assert names(tmp_path) == [
        "a/.0000-00000001.jsonl.tmp",
        "a/.0000-00000002.jsonl.tmp",
        "b/.0000-00000001.jsonl.tmp",
    ]
    state = part.snapshot()
    assert names(tmp_path) == [
        "a/0000-00000001.jsonl",
        "a/0000-00000002.jsonl",
        "b/0000-00000001.jsonl",
    ]
    assert (tmp_path / "a/0000-00000001.jsonl").read_bytes() == b"1\n2\n3\n"
    assert (tmp_path / "a/0000-00000002.jsonl").read_bytes() == b"5\n"
    part.write_batch([records("a", [b"6"])])
    assert state == FilesState(following=(("a", 3), ("b", 2)), delivered=(("a", 4), ("b", 1))), (
        "a snapshot is a copy"
    )
    part.close()
    assert "a/0000-00000003.jsonl" in names(tmp_path)


def test_one_open_file_a_topic(tmp_path: Path) -> None:
    """However often files rotate within an epoch, a part holds one descriptor a topic."""
    part = FilesPart(files_sink(tmp_path, rotate_rows=1), "0000", None)
    before = len(descriptors())
    for _ in range(50):
        part.write_batch([records("a", [b"1"]), records("b", [b"2"])])
    assert len(descriptors()) <= before + 2
    part.close()


def test_a_second_run_appends(tmp_path: Path) -> None:
    """Without recovery a run leaves committed files alone and removes what a crash left."""
    run_main(flow([("0000", records("t", [b"1"]))], files_sink(tmp_path)))
    for name in (
        ".0000-00000002.jsonl.tmp",
        ".0000-00000007.parquet.tmp",
        ".0001-00000002.jsonl.tmp",
    ):
        (tmp_path / "t" / name).write_bytes(b"torn")
    (tmp_path / "t" / "notes.txt").write_bytes(b"mine")
    run_main(flow([("0000", records("t", [b"2"]))], files_sink(tmp_path)))
    assert names(tmp_path) == [
        "t/.0001-00000002.jsonl.tmp",
        "t/0000-00000001.jsonl",
        "t/0000-00000002.jsonl",
        "t/notes.txt",
    ]
    assert lines(tmp_path) == Counter([b"1", b"2"])


def test_resume_removes_what_was_not_committed(tmp_path: Path) -> None:
    """A part resumed from a snapshot removes every file written after it, and only those."""
    sink = files_sink(tmp_path, durable=True, recovery_id="store", parts=2)
    part, other = FilesPart(sink, "0000", None), FilesPart(sink, "0001", None)
    part.write_batch([records("a", [b"1"])])
    state = part.snapshot()
    part.write_batch([records("a", [b"2"]), records("late", [b"3"])])
    part.snapshot()
    part.write_batch([records("a", [b"4"])])
    other.write_batch([records("a", [b"5"])])
    other.snapshot()
    seen: dict[str, dict[str, int]] = {}
    again = FilesPart(
        files_sink(tmp_path, durable=True, recovery_id="store", on_delivered=seen.__setitem__),
        "0000",
        state,
    )
    assert names(tmp_path) == ["a/0000-00000001.jsonl", "a/0001-00000001.jsonl"]
    assert seen == {"0000": {"a": 1}}
    again.write_batch([records("a", [b"2"])])
    assert seen == {"0000": {"a": 2}}
    again.snapshot()
    again.close()
    assert lines(tmp_path) == Counter([b"1", b"2", b"5"])


@pytest.mark.parametrize("fmt", ["jsonl", "parquet"])
def test_counts_and_files_go_on_after_a_resume(tmp_path: Path, fmt: Format) -> None:
    """Over several executions of one flow every record is written once and counted once."""
    store, out = tmp_path / "store", tmp_path / "out"
    store.mkdir()
    init_db_dir(store, 1)
    seen: dict[str, dict[str, int]] = {}
    for stop, end in ((3, AbortExecution), (6, AbortExecution), (8, StopIteration)) + 2 * (
        (9, StopIteration),
    ):
        sink = files_sink(
            out, format=fmt, durable=True, recovery_id="s", on_delivered=seen.__setitem__
        )
        graph = Dataflow("files")
        op.output("out", op.input("in", graph, Counting(item, stop, end)), sink)
        run_main(graph, epoch_interval=timedelta(0), recovery_config=RecoveryConfig(store))
    assert seen == {"0000": {"t": 9}}
    assert not [n for n in names(out) if n.endswith(".tmp")]
    if fmt == "jsonl":
        assert lines(out) == Counter(b"%d" % i for i in range(9))
    else:
        values = [v for n in names(out) for v in pq.read_table(out / n)["value"].to_pylist()]
        assert values == [str(i) for i in range(9)]


def test_a_folder_written_by_another_run_is_not_resumed(tmp_path: Path) -> None:
    """Files another run wrote since are never taken for leftovers: resuming is refused."""
    part = FilesPart(files_sink(tmp_path, durable=True, recovery_id="one"), "0000", None)
    part.write_batch([records("t", [b"1"])])
    state = part.snapshot()
    part.close()
    for settings in ({}, {"durable": True}, {"durable": True, "recovery_id": "two"}):
        between = FilesPart(files_sink(tmp_path, **settings), "0000", None)
        between.write_batch([records("t", [b"2"])])
        between.snapshot()
    with pytest.raises(SinkError, match="another run wrote here"):
        FilesPart(files_sink(tmp_path, durable=True, recovery_id="one"), "0000", state)
    assert lines(tmp_path) == Counter([b"1", b"2", b"2", b"2"])


def test_starting_over_differs_from_starting_anew(tmp_path: Path) -> None:
    """Without a snapshot, only what the same recovery store wrote is removed."""
    for owner, want in (("one", [b"1"]), ("two", [b"1", b"1"]), ("two", [b"1", b"1"])):
        part = FilesPart(files_sink(tmp_path, durable=True, recovery_id=owner), "0000", None)
        part.write_batch([records("t", [b"1"])])
        part.snapshot()
        assert sorted(lines(tmp_path).elements()) == want
    run_main(flow([("0000", records("t", [b"9"]))], files_sink(tmp_path, durable=True)))
    run_main(flow([("0000", records("t", [b"9"]))], files_sink(tmp_path, durable=True)))
    assert lines(tmp_path) == Counter({b"1": 2, b"9": 2}), "unnamed runs that ended well stay"


def test_a_failed_run_commits_only_what_will_not_be_replayed(tmp_path: Path) -> None:
    """After an error elsewhere whole files are kept, unless recovery will write them again."""
    items = [("0000", records("t", [b"1"])), ("0001", records("t/x", [b"2"]))]
    for durable, want in ((False, [b"1"]), (True, [])):
        out = tmp_path / str(durable)
        with pytest.raises(SinkError, match="not a topic name"):
            run_main(flow(items, files_sink(out, parts=2, durable=durable)))
        assert sorted(lines(out).elements()) == want
        assert not [n for n in names(out) if n.endswith(".tmp")]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB."""
    with small_disk_at(tmp_path / "disk", "128k") as folder:
        yield folder


@pytest.mark.root
@pytest.mark.parametrize("fmt", ["jsonl", "parquet"])
@pytest.mark.parametrize("durable", [False, True])
def test_a_full_disk_is_one_line_and_nothing_torn(
    small_disk: Path, fmt: Format, durable: bool
) -> None:
    """A full disk stops the run; what was committed stays whole, what was not is gone."""
    noise = np.random.default_rng(3).integers(0, 10, (40, 400, 100)) + ord("0")
    items = [("0000", records("t", [row.astype(np.uint8).tobytes() for row in b])) for b in noise]
    sink = files_sink(small_disk, format=fmt, rotate_rows=500, durable=durable)
    with pytest.raises(Exception, match=r".") as caught:
        run_main(flow(items, sink), epoch_interval=timedelta(0))
    # Bytewax passes on what a write raises, and wraps what a snapshot raises.
    error = caught.value if isinstance(caught.value, SinkError) else caught.value.__cause__
    assert isinstance(error, SinkError)
    assert re.fullmatch(
        rf"{small_disk}/t/\.0000-\d{{8}}\.{fmt}\.tmp: No space left on device; "
        "free space there or choose another folder",
        str(error),
    )
    committed = names(small_disk)
    assert committed
    for name in committed:
        assert not name.endswith(".tmp")
        if fmt == "jsonl":
            assert {len(line) for line in (small_disk / name).read_bytes().splitlines()} == {100}
        else:
            pq.read_table(small_disk / name).validate(full=True)


def test_a_failing_clean_up_does_not_hide_the_error(tmp_path: Path) -> None:
    """When even removing the torn file fails, the first error is still the one reported."""
    part = FilesPart(files_sink(tmp_path), "0000", None)
    part.write_batch([records("t", [b"1"])])
    # The descriptor is gone and so is the file: writing, closing and removing all fail.
    torn = tmp_path / "t" / ".0000-00000001.jsonl.tmp"
    os.close(next(fd for fd, target in descriptors().items() if target == str(torn)))
    torn.unlink()
    with pytest.raises(SinkError, match=r"Bad file descriptor; check the disk"):
        part.write_batch([records("t", [b"2"])])
    part.close()
    assert names(tmp_path) == []


def test_unusable_folders_are_named_with_their_cure(tmp_path: Path) -> None:
    """A file in the way is told before the run by `check`, and within it by the part."""
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        sink = files_sink(folder)
        for attempt in (sink.check, lambda sink=sink: sink.build_part("out", "0000", None)):
            with pytest.raises(SinkError, match=r"/file.*: .*; remove the file") as caught:
                attempt()
            assert "\n" not in str(caught.value)
    out = tmp_path / "out"
    files_sink(out).check()
    assert list(out.iterdir()) == []
    (out / "t").write_bytes(b"")
    part = FilesPart(files_sink(out), "0000", None)
    with pytest.raises(SinkError, match=r"/out/t: File exists; remove the file"):
        part.write_batch([records("t", [b"1"])])


@pytest.mark.parametrize(
    "settings", [{"parts": 0}, {"parts": 10_001}, {"rotate_rows": 0}, {"format": "csv"}]
)
def test_settings_out_of_bounds_are_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    """The error names the setting."""
    with pytest.raises(SettingError, match=f"^{next(iter(settings))}: "):
        files_sink(tmp_path, **settings)
