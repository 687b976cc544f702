"""Logs of segments: what is written is read back, and nothing else is."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import connectors.segments
from connectors.segments import LAG, Mark, SegmentLog
from core.errors import SinkError, SourceError
from tests.disks import small_disk_at


def log(store: Path, mark: Mark | None = None) -> SegmentLog:
    """Open the log of one shard."""
    return SegmentLog(store, "0003", "features", mark)


def files(store: Path) -> list[str]:
    """Name the files there are."""
    return sorted(path.name for path in (store / "segments").glob("*"))


def written(store: Path, count: int, size: int = 10) -> SegmentLog:
    """Write records of a size, each with its version in it."""
    found = log(store)
    for version in range(1, count + 1):
        found.append(version, b"%06d" % version * size)
    return found


@given(st.lists(st.one_of(st.binary(max_size=90), st.just("stop"), st.integers(0, 9)), max_size=40))
@example([b"", 0, 0, "stop", 1, b""])
def test_a_log_goes_on_from_any_mark(
    tmp_path_factory: pytest.TempPathFactory, steps: list[bytes | str | int]
) -> None:
    """Through stops, restarts from an older mark, and records that are not needed any more."""
    store = tmp_path_factory.mktemp("store")
    live, records = log(store), dict[int, bytes]()
    marks = [(Mark(), dict[int, bytes](), 1)]
    keep_from, version = 1, 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connectors.segments, "FILE_RECORDS_MAX", 3)
        for step in steps:
            if isinstance(step, bytes):
                version += 1
                live.append(version, step)
                records[version] = step
            elif step == "stop":
                # What Bytewax committed last is the mark before the one it may have been given.
                mark, records, keep_from = marks[-2] if len(marks) > 1 else marks[-1]
                records, version = dict(records), mark.version
                live = log(store, mark)
                marks = [(mark, dict(records), keep_from)]
            else:
                keep_from = min(keep_from + int(step), version + 1)
                marks.append((live.snapshot(keep_from), dict(records), keep_from))
            for mark, held, first in marks[-2:]:
                found = list(log(store, mark).replay())
                assert [each for each in found if each[0] >= first] == [
                    each for each in held.items() if each[0] >= first
                ]


def test_files_are_few_and_go_when_they_are_not_needed(tmp_path: Path) -> None:
    """A file is followed by another after so many records, and removed some snapshots later."""
    live = log(tmp_path)
    for version in range(1, 1001):
        live.append(version, b"x")
        live.snapshot(version - 10)
        assert len(files(tmp_path)) <= 3
    assert len(live.mark.files) <= 2
    before = files(tmp_path)
    assert live.snapshot(1001).files == ()
    assert list(live.replay()) == []
    for _ in range(LAG - 1):
        live.snapshot(1001)
    assert files(tmp_path) == before[-1:]
    live.snapshot(1001)
    assert files(tmp_path) == []
    live.append(1001, b"again")
    assert list(log(tmp_path, live.snapshot(1001)).replay()) == [(1001, b"again")]
    assert not set(files(tmp_path)) & set(before)


def test_large_records_fill_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file ends with the record that makes it too large."""
    monkeypatch.setattr(connectors.segments, "FILE_BYTES_MAX", 1000)
    live = written(tmp_path, 6, size=100)
    assert [extent.first for extent in live.mark.files] == [1, 3, 5]
    assert [version for version, _ in live.replay()] == [1, 2, 3, 4, 5, 6]


def test_what_the_mark_does_not_name_goes_when_somebody_writes(tmp_path: Path) -> None:
    """A resume that only reads changes nothing; one that goes on removes what is replayed."""
    first = log(tmp_path)
    first.append(1, b"committed")
    mark = first.snapshot(1)
    first.append(2, b"not committed")
    (tmp_path / "segments" / "0003-features-00000009.log").write_bytes(b"left over")
    (tmp_path / "segments" / "0003-features-state-00000001.log").write_bytes(b"another log")
    there = files(tmp_path)
    second = log(tmp_path, mark)
    assert list(second.replay()) == [(1, b"committed")]
    assert files(tmp_path) == there
    second.append(2, b"the second time")
    assert list(second.replay()) == [(1, b"committed"), (2, b"the second time")]
    assert files(tmp_path) == [
        "0003-features-00000001.log", "0003-features-00000002.log",
        "0003-features-state-00000001.log",
    ]  # fmt: skip
    # Begun anew, without any mark, it has nothing to do with what was there.
    third = log(tmp_path)
    third.append(1, b"anew")
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize("at", range(0, 900, 7))
def test_any_changed_byte_is_seen(tmp_path: Path, at: int) -> None:
    """A file with one other byte in what counts is refused with one line and a cure."""
    mark = written(tmp_path, 12).mark
    path = tmp_path / "segments" / "0003-features-00000001.log"
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(SourceError) as caught:
        list(log(tmp_path, mark).replay())
    told = str(caught.value)
    assert told.startswith(f"{tmp_path}: not a sound recovery folder (0003-features")
    assert told.endswith("or remove this one to start over")
    assert "\n" not in told


@pytest.mark.parametrize("damage", ["cut", "missing", "exchanged", "empty", "older"])
def test_what_is_not_the_same_history_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """Files cut short, gone, exchanged, or of another run of the same length are seen."""
    monkeypatch.setattr(connectors.segments, "FILE_RECORDS_MAX", 4)
    mark = written(tmp_path, 12).mark
    one, two, three = (tmp_path / "segments" / name for name in files(tmp_path))
    if damage == "cut":
        os.truncate(three, three.stat().st_size - 1)
    elif damage == "missing":
        two.unlink()
    elif damage == "exchanged":
        content = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(content)
    elif damage == "empty":
        two.write_bytes(b"")
    else:
        for path in (one, two, three):
            path.unlink()
        other = log(tmp_path)
        for version in range(1, 13):
            other.append(version, b"%06d" % (version + (version == 12)) * 10)
    with pytest.raises(SourceError, match="not a sound recovery folder"):
        list(log(tmp_path, mark).replay())


def test_bytes_after_the_mark_do_not_count(tmp_path: Path) -> None:
    """A record that was being written when the machine stopped is not looked at."""
    mark = written(tmp_path, 3).mark
    with (tmp_path / "segments" / files(tmp_path)[0]).open("ab") as file:
        file.write(b"half of a record")
    assert len(list(log(tmp_path, mark).replay())) == 3


def test_somebody_else_who_writes_is_noticed(tmp_path: Path) -> None:
    """A file that grew without us is not written to."""
    live = written(tmp_path, 3)
    with (tmp_path / "segments" / files(tmp_path)[0]).open("ab") as file:
        file.write(b"from elsewhere")
    with pytest.raises(SinkError, match="somebody else writes here"):
        live.append(4, b"ours")


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """The error names the folder and the cure; what was written before can be read."""
    with small_disk_at(tmp_path / "small", "64k") as store:
        live = log(store)
        live.append(1, b"fits")
        mark = live.snapshot(1)
        with pytest.raises(SinkError, match="free space there") as caught:
            live.append(2, bytes(100_000))
        assert str(caught.value).startswith(str(store))
        assert list(log(store, mark).replay()) == [(1, b"fits")]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """A file in the place of the folder, and a store that is gone, are named."""
    (tmp_path / "segments").write_bytes(b"")
    with pytest.raises(SinkError, match=r"segments.*: .*; .*choose another folder"):
        log(tmp_path).append(1, b"x")
    with pytest.raises(SinkError, match=os.strerror(errno.ENOENT)):
        log(tmp_path / "gone").append(1, b"x")
