"""Bytewax's store before a run: claimed by one process, without what was never committed."""

from __future__ import annotations

import errno
import fcntl
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from bytewax._bytewax import init_db_dir

from connectors.engine_store import claim_store, forget_uncommitted
from core.errors import SourceError
from tests.flows.runs import ROOT, finish, start

Rows = list[tuple[int, ...]]


def store(folder: Path, parts: int) -> Path:
    """Make an empty store."""
    folder.mkdir()
    init_db_dir(folder, parts)
    return folder


def put(folder: Path, part: int, table: str, rows: Rows) -> None:
    """Write rows as the engine does; of snapshots only their epoch matters."""
    columns = {
        "exs": "ex_num, worker_count, resume_epoch",
        "fronts": "ex_num, worker_index, worker_frontier",
        "snaps": "step_id, state_key, snap_epoch",
    }[table]
    with closing(sqlite3.connect(folder / f"part-{part}.sqlite3")) as db, db:
        for row in rows:
            values = row if table != "snaps" else ("step", f"key{row[0]}", row[-1])
            db.execute(f"INSERT INTO {table} ({columns}) VALUES (?, ?, ?)", values)


def epochs(folder: Path) -> list[int]:
    """Return the epochs of all snapshots."""
    found = []
    for path in folder.glob("part-*.sqlite3"):
        with closing(sqlite3.connect(path)) as db:
            found += [epoch for (epoch,) in db.execute("SELECT snap_epoch FROM snaps")]
    return sorted(found)


@pytest.mark.parametrize(
    ("exs", "fronts", "kept"),
    [
        ([(0, 1, 1)], [], []),  # stopped in its first epoch
        ([(0, 1, 1)], [(0, 0, 5)], [3, 4]),
        ([(0, 1, 1), (1, 1, 5)], [(0, 0, 5)], [3, 4]),  # the second did not get anywhere
        ([(0, 1, 1), (1, 1, 5)], [(0, 0, 5), (1, 0, 6)], [3, 4, 5]),
        ([(0, 2, 1)], [(0, 0, 6), (0, 1, 5)], [3, 4]),  # the slowest worker counts
        ([(0, 2, 4)], [(0, 0, 6)], [3]),  # one that wrote nothing is where it began
    ],
)
@pytest.mark.parametrize("parts", [1, 3])
def test_snapshots_that_were_not_committed_go(
    tmp_path: Path, parts: int, exs: Rows, fronts: Rows, kept: list[int]
) -> None:
    """Those of the epoch the engine begins with, and of later ones, in whatever part they lie."""
    folder = store(tmp_path / "store", parts)
    for i, row in enumerate(exs):
        put(folder, (i + 1) % parts, "exs", [row])
    for i, row in enumerate(fronts):
        put(folder, (i + 2) % parts, "fronts", [row])
    for epoch in (3, 4, 5, 6):
        put(folder, epoch % parts, "snaps", [(epoch, epoch)])
    assert forget_uncommitted(folder) == 4 - len(kept)
    assert epochs(folder) == kept
    assert forget_uncommitted(folder) == 0


def test_a_store_with_parts_elsewhere_is_left_alone(tmp_path: Path) -> None:
    """Who does not see all of it does not know where it was."""
    folder = store(tmp_path / "store", 2)
    put(folder, 0, "exs", [(0, 1, 1)])
    put(folder, 0, "snaps", [(1, 9)])
    (folder / "part-1.sqlite3").unlink()
    assert forget_uncommitted(folder) == 0
    assert epochs(folder) == [9]
    (tmp_path / "empty").mkdir()
    assert forget_uncommitted(tmp_path / "empty") == 0


def test_a_store_that_cannot_be_read_is_the_engines_to_refuse(tmp_path: Path) -> None:
    """Claiming it says nothing and changes nothing."""
    for content in (b"", b"no database" * 1000):
        (tmp_path / "part-0.sqlite3").write_bytes(content)
        claim_store(tmp_path)()
        assert (tmp_path / "part-0.sqlite3").read_bytes() == content


HOLD = """
import sys
from pathlib import Path
from connectors.engine_store import claim_store
claim_store(Path(sys.argv[1]))
print("mine", flush=True)
sys.stdin.read()
"""


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """A second one is refused with one line, until the first has ended, however it does."""
    process = start(["-c", HOLD, tmp_path], ROOT, stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    with pytest.raises(SourceError) as caught:
        claim_store(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: another process uses this recovery folder; end it or give another one"
    )
    process.kill()
    finish(process)
    claim_store(tmp_path)()


def test_a_folder_that_cannot_be_claimed_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the file and the cure, also where a file system knows no locks."""
    with pytest.raises(SourceError, match=r"\.lock: .*; give --recovery a folder"):
        claim_store(tmp_path / "gone")

    def none_left(*about: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", none_left)
    with pytest.raises(SourceError, match=r"\.lock: cannot be locked \(No locks available\); give"):
        claim_store(tmp_path)
