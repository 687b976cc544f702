"""The scores file: order, gaps, growth, good and bad ends."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import bytewax.operators as op
import numpy as np
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSource, run_main
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors import scores
from connectors.scores import ScoreBatch, ScoresFile, ScoresSink
from core.errors import SinkError

MIB = 1 << 20


def batch(first: int, *values: float) -> ScoreBatch:
    index = np.arange(first, first + len(values), dtype=np.int64)
    return ScoreBatch(index, np.array(values, np.float32))


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_scores_lie_where_their_packets_were(tmp_path: Path) -> None:
    """Whatever the order they come in, scores lie in replay order, with NaN where none came."""
    file = ScoresFile(tmp_path / "s.npy")
    for each in (batch(4, 0.5, 0.25), batch(0, 1.0), batch(9), batch(2, 0.125)):
        file.write(each)
    assert left(tmp_path) == [".s.npy.tmp"]
    file.finish(8)
    assert left(tmp_path) == ["s.npy"]
    found = np.load(tmp_path / "s.npy")
    assert found.dtype == np.float32
    want = [1.0, np.nan, 0.125, np.nan, 0.5, 0.25, np.nan, np.nan]
    np.testing.assert_array_equal(found, np.array(want, np.float32))
    file.abandon()
    file.finish(3)
    assert np.load(tmp_path / "s.npy", mmap_mode="r").shape == (8,)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(60)), step=st.integers(1, 60), gap=st.integers(2, 9))
def test_any_portions_in_any_order_are_the_same_file(
    tmp_path: Path, order: list[int], step: int, gap: int
) -> None:
    """Scores written in portions, shuffled and with gaps, lie where they belong."""
    want = np.arange(len(order), dtype=np.float32)
    want[::gap] = np.nan
    file = ScoresFile(tmp_path / "s.npy")
    for at in range(0, len(order), step):
        index = np.array([i for i in order[at : at + step] if i % gap], np.int64)
        file.write(ScoreBatch(index, want[index]))
    file.finish(len(order))
    np.testing.assert_array_equal(np.load(tmp_path / "s.npy"), want)


def test_the_file_grows_with_the_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Growth keeps what was written, and packets nobody scored are NaN beyond any room."""
    monkeypatch.setattr(scores, "_ROOM", 4)
    file = ScoresFile(tmp_path / "s.npy")
    for first in range(0, 3000, 7):
        file.write(batch(first, float(first)))
    file.finish(10_000)
    found = np.load(tmp_path / "s.npy")
    assert found[0:3000:7].tolist() == list(map(float, range(0, 3000, 7)))
    assert int(np.isnan(found).sum()) == 10_000 - len(range(0, 3000, 7))


@pytest.mark.parametrize("packets", [0, 1])
def test_small_replays_have_scores(tmp_path: Path, packets: int) -> None:
    """A replay of nothing has an empty file of scores, not none."""
    file = ScoresFile(tmp_path / "s.npy")
    file.finish(packets)
    assert np.load(tmp_path / "s.npy").shape == (packets,)


def test_an_abandoned_file_leaves_the_old_one(tmp_path: Path) -> None:
    """A run that fails removes what it wrote and leaves what was there."""
    path = tmp_path / "s.npy"
    path.write_bytes(b"old")
    file = ScoresFile(path)
    file.write(batch(0, 1.0))
    file.abandon()
    file.abandon()
    assert left(tmp_path) == ["s.npy"]
    assert path.read_bytes() == b"old"


def test_a_link_is_written_through(tmp_path: Path) -> None:
    """The file behind a link is replaced, the link stays."""
    (tmp_path / "real").mkdir()
    (tmp_path / "s.npy").symlink_to(tmp_path / "real" / "s.npy")
    file = ScoresFile(tmp_path / "s.npy")
    file.finish(2)
    assert (tmp_path / "s.npy").is_symlink()
    assert left(tmp_path / "real") == ["s.npy"]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("missing/s.npy", "No such file"),
        ("file/s.npy", "Not a directory"),
        ("folder", "no regular file"),
        ("pipe", "no regular file"),
        ("n" * 300, "name too long"),
    ],
)
def test_what_cannot_be_written_is_one_line_with_the_cure(
    tmp_path: Path, name: str, what: str
) -> None:
    """A bad name is refused at once; a device or pipe is never replaced by a file."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = left(tmp_path)
    with pytest.raises(SinkError, match=what) as error:
        ScoresFile(tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path / name}: ")
    assert "--scores" in str(error.value)
    assert left(tmp_path) == before


def test_two_runs_do_not_share_a_file(tmp_path: Path) -> None:
    """A second run is refused while the first writes; what a killed one left is taken over."""
    first = ScoresFile(tmp_path / "s.npy")
    with pytest.raises(SinkError, match="another run writes it"):
        ScoresFile(tmp_path / "s.npy")
    first.write(batch(0, 1.0))
    first.finish(1)
    (tmp_path / ".s.npy.tmp").write_bytes(b"left over" * 100)
    second = ScoresFile(tmp_path / "s.npy")
    second.finish(2)
    assert np.isnan(np.load(tmp_path / "s.npy")).all()
    assert left(tmp_path) == ["s.npy"]


def test_a_link_in_the_way_is_refused(tmp_path: Path) -> None:
    """What somebody's link by the name of the temporary file leads to is not emptied."""
    (tmp_path / "precious").write_text("keep me")
    (tmp_path / ".s.npy.tmp").symlink_to(tmp_path / "precious")
    with pytest.raises(SinkError, match="give --scores"):
        ScoresFile(tmp_path / "s.npy")
    assert (tmp_path / "precious").read_text() == "keep me"


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """Room that cannot be had ends the run with an error, never with a signal."""
    script = (
        "import resource, sys; from pathlib import Path; import numpy as np\n"
        "from connectors.scores import *; from core.errors import SinkError\n"
        "limit = int(sys.argv[2]); resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "file = None\n"
        "try:\n"
        "    file = ScoresFile(Path(sys.argv[1]))\n"
        "    for at in range(0, 1 << 22, 1 << 12):\n"
        "        index = np.arange(at, at + (1 << 12))\n"
        "        file.write(ScoreBatch(index, index.astype(np.float32)))\n"
        "except SinkError as error:\n"
        "    print(error)\n"
        "    file and file.abandon()\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    for limit in (MIB, 6 * MIB):
        done = subprocess.run(
            [sys.executable, "-c", script, tmp_path / "s.npy", str(limit)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "s.npy: File too large; give --scores" in done.stdout
        assert left(tmp_path) == []


def test_the_sink_writes_through_one_part(tmp_path: Path) -> None:
    """Scores of several shards reach one file."""
    file = ScoresFile(tmp_path / "s.npy")
    items = [("0000", batch(3, 3.0)), ("0001", batch(0, 0.0, 1.0)), ("0000", batch(2, 2.0))]
    flow = Dataflow("scores")
    op.output("out", op.input("in", flow, TestingSource(items)), ScoresSink(file))
    run_main(flow)
    file.finish(4)
    assert np.load(tmp_path / "s.npy").tolist() == [0.0, 1.0, 2.0, 3.0]
