"""The null sink: what it counts, and which worker and part a shard goes to."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSource, cluster_main, run_main

from connectors.discard import DiscardPart, DiscardSink, DiscardState
from core.errors import SettingError
from tests.records import record_batch as records

if TYPE_CHECKING:
    from pathlib import Path


def flow(items: list[Any], sink: DiscardSink) -> Dataflow:
    graph = Dataflow("discard")
    op.output("out", op.input("in", graph, TestingSource(items)), sink)
    return graph


def test_counts_are_cumulative_per_part_and_topic() -> None:
    """Each part reports its own records per topic, those of all its batches together."""
    seen: dict[str, dict[str, int]] = {}
    items = [
        ("0000", records("a", [b"1", b"2"])),
        ("0001", records("a", [b"3"])),
        ("0000", records("b", [b"4"])),
        ("0000", records("a", [])),
        ("0000", records("a", [b"5"])),
    ]
    run_main(flow(items, DiscardSink(parts=2, on_delivered=seen.__setitem__)))
    assert seen == {"0000": {"a": 3, "b": 1}, "0001": {"a": 1}}


def test_counts_go_on_after_a_resume(tmp_path: Path) -> None:
    """A resumed run reports what was delivered in all, even when it delivers nothing itself."""
    init_db_dir(tmp_path, 1)
    config = RecoveryConfig(tmp_path)
    items: list[Any] = [
        ("0000", records("a", [b"1", b"2"])),
        TestingSource.EOF(),
        ("0000", records("a", [b"3"])),
    ]
    reports = []
    for _ in range(3):
        seen: dict[str, dict[str, int]] = {}
        sink = DiscardSink(parts=1, on_delivered=seen.__setitem__)
        run_main(flow(items, sink), epoch_interval=timedelta(0), recovery_config=config)
        reports.append(seen)
    assert reports == [{"0000": {"a": 2}}, {"0000": {"a": 3}}, {"0000": {"a": 3}}]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_each_shard_has_one_part_on_one_worker(workers: int) -> None:
    """Part k gets exactly the records of key k, and only one worker of a cluster writes it."""
    threads: dict[str, set[int]] = {}
    seen: dict[str, dict[str, int]] = {}

    def on_delivered(part: str, counts: dict[str, int]) -> None:
        threads.setdefault(part, set()).add(threading.get_ident())
        seen[part] = counts

    # More than ten parts, so that an order of names that is not the order of numbers would show.
    items = [(f"{k:04d}", records(f"shard-{k}", [b"x"] * (k + 1))) for k in range(12)] * 2
    sink = DiscardSink(parts=12, on_delivered=on_delivered)
    cluster_main(flow(items, sink), [], 0, worker_count_per_proc=workers)
    assert seen == {f"{k:04d}": {f"shard-{k}": 2 * (k + 1)} for k in range(12)}
    assert all(len(idents) == 1 for idents in threads.values())
    assert len(set.union(*threads.values())) == workers


def test_snapshot_does_not_change_afterwards() -> None:
    """A snapshot is a copy: later writes leave it alone."""
    part = DiscardPart("0000", lambda _part, _counts: None, None)
    part.write_batch([records("a", [b"1"])])
    state = part.snapshot()
    part.write_batch([records("a", [b"2"])])
    assert state == DiscardState(delivered=(("a", 1),))


@pytest.mark.parametrize("parts", [0, -1, 10_001])
def test_parts_out_of_bounds_are_refused(parts: int) -> None:
    """Part names have four digits, so that their order as strings is their order as numbers."""
    with pytest.raises(SettingError, match="parts"):
        DiscardSink(parts=parts, on_delivered=lambda _part, _counts: None)
