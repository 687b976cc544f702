"""The budget of an epoch: sources wait for a snapshot when what changed might not fit."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import pytest

import connectors.epoch_budget
from connectors.epoch_budget import LONG_NS, EpochBudget
from connectors.ledger import Ledger
from connectors.metrics import SNAPSHOT_BYTES, SNAPSHOT_SECONDS


@dataclass
class Debt:
    """Somebody with so many rows to write, 10 bytes each, of at most so many."""

    unsaved: int = 0
    most: int = 1 << 30
    arrival_bytes: float = 10.0

    def owed(self, arrivals: int) -> int:
        return 10 * min(self.unsaved + arrivals, self.most)


def budget(said: list[str] | None = None) -> tuple[EpochBudget, Ledger]:
    """A budget of 1,000 bytes, with batches of 20 arrivals."""
    ledger = Ledger()
    found = EpochBudget(ledger, 20, (said if said is not None else []).append, bytes_max=1000)
    return found, ledger


def test_a_source_waits_when_one_more_batch_might_not_fit() -> None:
    """At 80 rows 20 more fit, at 81 they do not; after the snapshot they do."""
    found, ledger = budget()
    one, other = Debt(), Debt()
    found.watch("rows", one)
    found.watch("others", other)
    assert not found.holds()
    one.unsaved = other.unsaved = 30
    assert not found.holds()
    other.unsaved = 31
    assert found.holds()
    assert found.holds()
    one.unsaved = other.unsaved = 0
    assert not found.holds()
    assert ledger.page("snapshots")["snapshot_holds"] == 1
    assert ledger.page("snapshots")["snapshot_held_ns"] > 0


def test_a_table_that_is_full_of_changes_holds_nobody() -> None:
    """What cannot grow beyond the bound needs no waiting, however much of it changed."""
    found, _ = budget()
    found.watch("rows", Debt(unsaved=100, most=100))
    assert not found.holds()


def test_nobody_waits_for_nothing() -> None:
    """Where nothing is unsaved a batch goes on, even if it alone may be too large."""
    found, _ = budget()
    debt = Debt(most=1000)
    found.watch("rows", debt)
    found._batch_len = 500
    assert not found.holds()
    debt.unsaved = 1
    assert found.holds()


def test_each_worker_has_its_own_bound() -> None:
    """Two workers may write twice as much; one that may not write more holds all sources back."""
    found, ledger = budget()
    debts = [Debt(unsaved=80, most=80), Debt(unsaved=80, most=80)]

    def work(debt: Debt) -> None:
        found.watch("rows", debt)
        found.wrote("a", 600, 100, 5)
        gate.wait()

    # Both at once: the number of a thread that has ended may be given again.
    gate = threading.Barrier(3)
    workers = [threading.Thread(target=work, args=(debt,)) for debt in debts]
    for worker in workers:
        worker.start()
    gate.wait()
    for worker in workers:
        worker.join()
    assert not found.holds()
    total = ledger.total()
    assert (total["snapshots_over_bound"], total["snapshot_bytes_max"]) == (0, 700)
    debts[1].unsaved, debts[1].most = 91, 1000
    assert found.holds()


def test_shards_of_a_worker_expect_one_batch_together() -> None:
    """A batch of 200 bytes is dealt to eight shards: they wait at 801 bytes, not at 1."""
    found, _ = budget()
    shards = [Debt(unsaved=10) for _ in range(8)]
    for shard in shards:
        found.watch("rows", shard)
    assert not found.holds()
    shards[3].unsaved = 11
    assert found.holds()


def test_small_tables_of_a_worker_may_all_fill_up() -> None:
    """Of 20 arrivals each of eight tables of 5 may take 5, but not more than 20 together."""
    found, _ = budget()
    for _ in range(8):
        found.watch("rows", Debt(unsaved=1, most=5))
    assert found._owed(found._workers[threading.get_ident()].debtors["rows"]) == 80 + 200
    found._batch_len = 1000
    assert found._owed(found._workers[threading.get_ident()].debtors["rows"]) == 400


def test_a_long_wait_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for the end of a long epoch learns why; what was waited is counted meanwhile."""
    said: list[str] = []
    now_ns = 0
    monkeypatch.setattr(connectors.epoch_budget, "monotonic_ns", lambda: now_ns)
    found, ledger = budget(said)
    debt = Debt(unsaved=90)
    found.watch("rows", debt)
    for _ in range(3):
        assert found.holds()
        now_ns += LONG_NS
        assert found.holds()
    assert ledger.page("snapshots") == {"snapshot_holds": 1, "snapshot_held_ns": 3 * LONG_NS}
    debt.unsaved = 0
    assert not found.holds()
    assert len(said) == 1
    assert said[0].startswith("the source waits for the next snapshot")
    assert ledger.page("snapshots") == {"snapshot_holds": 1, "snapshot_held_ns": 3 * LONG_NS}


def test_metrics_see_each_snapshot_once() -> None:
    """A snapshot is one observation of bytes and of seconds, the last one too."""

    def seen() -> list[float]:
        found = []
        for metric in (SNAPSHOT_BYTES, SNAPSHOT_SECONDS):
            [family] = metric.collect()
            found += [s.value for s in family.samples if s.name.endswith(("_count", "_sum"))]
        return found

    before = seen()
    found, ledger = budget()
    for size in (300, 500):
        found.wrote("dam/0000", size, 50, 1_000_000)
        found.wrote("features/0000", size, 0, 3_000_000)
    found.close()
    found.close()
    count, size, count_s, seconds = np.subtract(seen(), before)
    assert (count, size, count_s) == (2, 1700, 2)
    assert seconds == pytest.approx(0.008)
    assert ledger.total()["snapshot_bytes_all"] == 1700


def test_what_is_written_anyway_leaves_less_room() -> None:
    """A model of 300 bytes leaves room for 70 rows; one above the bound, for half of it."""
    found, _ = budget()
    debt = Debt(unsaved=51)
    found.watch("rows", debt)
    found.wrote("score", 0, 300, 1)
    assert found.holds()
    debt.unsaved = 50
    assert not found.holds()
    found.wrote("score", 0, 5000, 1)
    assert found.holds()
    debt.unsaved = 30
    assert not found.holds()


def test_what_snapshots_took_is_told_by_epoch() -> None:
    """Steps of one epoch add up; a step seen again is the next epoch; too much is said once."""
    said: list[str] = []
    found, ledger = budget(said)
    for sizes in ((300, 400), (600, 500), (100, 200), (600, 600)):
        found.wrote("dam/0000", sizes[0] - 50, 50, 10)
        found.wrote("features/0000", sizes[1], 0, 30)
    total = ledger.total()
    assert total["snapshot_bytes"] == 1200
    assert total["snapshot_bytes_max"] == 1200
    assert total["snapshots_over_bound"] == 2
    assert total["snapshot_stall_ns"] == 160
    assert total["snapshot_stall_ns_max"] == 40
    assert len(said) == 1
    assert said[0].startswith("a snapshot took 1,100 bytes, more than the 1,000 meant")
