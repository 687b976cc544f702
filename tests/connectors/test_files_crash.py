"""The files sink under `kill -9`: exactly once, wherever the process dies.

A fresh interpreter forks one execution after another of a toy flow over one folder and one recovery
store. An execution dies before a numbered operation on the folder (an audit hook sees them all) or
when the parent kills it after it has read so many batches, and is started again until it ends well.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import cluster_main, run_main

from connectors.claim import recovery_id
from connectors.files import FilesSink
from core.batches import RecordBatch
from tests.records import record_batch

ROOT = Path(__file__).parents[2]
BATCHES = 8
PARTS = 2
ONE_EPOCH = 3600_000
OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir"}


def records(part: int, at: int) -> RecordBatch:
    """Batch `at` of a part: one to three records, in one of two topics."""
    n = 1 + at % 3
    values = [b"%d-%d-%d" % (part, at, i) for i in range(n)]
    return record_batch(f"topic-{at // 3 % 2}", values)


def expected() -> Counter[bytes]:
    """Every record of the flow, and the one of the run before it."""
    batches = [records(part, at) for part in range(PARTS) for at in range(BATCHES)]
    return Counter([b"earlier", *(v for batch in batches for v in batch.value_list())])


class Part(StatefulSourcePartition[Any, int]):
    def __init__(self, part: int, at: int, progress: int) -> None:
        self._part, self._at, self._progress = part, at, progress

    def next_batch(self) -> list[Any]:
        if self._at == BATCHES:
            raise StopIteration
        os.write(self._progress, b".")
        self._at += 1
        return [(f"{self._part:04d}", records(self._part, self._at - 1))]

    def snapshot(self) -> int:
        return self._at


class Source(FixedPartitionedSource[Any, int]):
    def __init__(self, progress: int) -> None:
        self._progress = progress

    def list_parts(self) -> list[str]:
        return [f"{part:04d}" for part in range(PARTS)]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Part:
        return Part(int(for_part), resume_state or 0, self._progress)


def execute(
    folder: Path, *, workers: int, epoch_ms: int, rotate_rows: int, dies_at: int, progress: int
) -> None:
    """Run the flow once in this process, which dies before operation `dies_at` on the folder."""
    left = dies_at

    def watch(event: str, args: tuple[Any, ...]) -> None:
        nonlocal left
        if event in OPERATIONS and str(args[0]).startswith(str(folder / "out")):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    delivered: dict[str, dict[str, int]] = {}
    sink = FilesSink(
        folder=folder / "out",
        parts=PARTS,
        format="jsonl",
        rotate_rows=rotate_rows,
        durable=True,
        on_delivered=delivered.__setitem__,
        recovery_id=recovery_id(folder / "store"),
    )
    graph = Dataflow("crash")
    op.output("out", op.input("in", graph, Source(progress)), sink)
    settings: dict[str, Any] = {
        "epoch_interval": timedelta(milliseconds=epoch_ms),
        "recovery_config": RecoveryConfig(folder / "store"),
    }
    if workers == 1:
        run_main(graph, **settings)
    else:
        cluster_main(graph, [], 0, worker_count_per_proc=workers, **settings)
    (folder / "delivered").write_text(json.dumps(delivered))


def survives(folder: Path, *, dies_at: int = 0, killed_after: int = 0, **settings: Any) -> bool:
    """Run one execution in a process of its own, and say whether it ended well."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        status = 1
        try:
            execute(folder, dies_at=dies_at, progress=theirs, **settings)
            status = 0
        finally:
            os._exit(status)
    os.close(theirs)
    read = 0
    while os.read(ours, 1):
        read += 1
        if read == killed_after:
            os.kill(pid, signal.SIGKILL)
    os.close(ours)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL), f"the execution failed by itself: {status}"
    return status == 0


def prepare(folder: Path) -> None:
    """Make a recovery store, and a folder that an earlier complete run wrote to."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "store").mkdir(parents=True)
    init_db_dir(folder / "store", 1)
    topic = folder / "out" / "topic-0"
    topic.mkdir(parents=True)
    (topic / "0000-00000001.jsonl").write_bytes(b"earlier\n")
    (folder / "out" / ".0000.start").write_bytes(b'{"owner":"an earlier store","first":{}}')


def check(folder: Path) -> None:
    """Every record is in the folder exactly once, nothing else is, and the counts say so."""
    files = [p for p in (folder / "out").glob("*/*") if p.is_file()]
    assert not [p for p in files if p.name.endswith(".tmp")]
    assert Counter(line for p in files for line in p.read_bytes().splitlines()) == expected()
    counts: Counter[str] = Counter()
    for topics in json.loads((folder / "delivered").read_text()).values():
        counts.update(topics)
    assert counts.total() == expected().total() - 1


def crash_everywhere(folder: Path, mode: str, step: int, settings: dict[str, Any]) -> int:
    """Die at every point (or every `step`-th) in turn, twice, and return the last one."""
    for point in range(step, 10_000, step):
        prepare(folder)
        survived = survives(folder, **{mode: point}, rotate_rows=1, **settings)
        if not survived:
            # The second execution dies, too, while it cleans up or soon after.
            survives(folder, dies_at=1 + point * 7 % 12, rotate_rows=2, **settings)
            # The last one cuts files differently: it cannot overwrite what it should have removed.
            last = {**settings, "epoch_ms": ONE_EPOCH}
            assert survives(folder, rotate_rows=100, **last), "nobody killed it"
        check(folder)
        if survived:
            return point - 1
    raise AssertionError("executions do not end")


@pytest.mark.parametrize(
    ("mode", "workers", "epoch_ms", "step"),
    [
        ("dies_at", 1, 0, 5),
        ("dies_at", 1, ONE_EPOCH, 7),
        ("dies_at", 2, 0, 11),
        ("dies_at", 2, ONE_EPOCH, 9),
        ("killed_after", 1, 0, 3),
        ("killed_after", 2, 0, 4),
    ],
)
def test_every_record_is_written_once(
    tmp_path: Path, mode: str, workers: int, epoch_ms: int, step: int
) -> None:
    """Killed before an operation on the folder, or at any batch: no record is lost or doubled."""
    settings = json.dumps({"workers": workers, "epoch_ms": epoch_ms})
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path / "work"), mode, str(step), settings],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout) >= BATCHES, f"only {done.stdout} points were tried"


if __name__ == "__main__":
    print(
        crash_everywhere(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4]))
    )
