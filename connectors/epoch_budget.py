"""The budget of an epoch: how much state may change before the sources wait for the next snapshot.

Laws:

1. A snapshot of one worker is meant to have at most `bytes_max`. A source asks before it emits; if
   what one more batch may touch would not fit, it holds back until the snapshot is taken. So the
   bound costs time, never exactness.
2. What was touched is estimated by what rows lately touched take. An epoch that came out larger all
   the same, or whose first batch alone is, is written, counted, and said once.
3. What arrives is dealt to the shards of a worker, so that they together expect one batch.
4. Whoever waits, waits for something: where nothing is unsaved, nobody is held back.

In a cluster of processes each holds back the sources of its own process only.

Not here: what is written (`core.row_log`, `core.queue_log`) and where (`connectors.segments`).
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from connectors.clock import monotonic_ns
from connectors.metrics import SNAPSHOT_BYTES, SNAPSHOT_SECONDS

if TYPE_CHECKING:
    from connectors.ledger import Ledger

BYTES_MAX = 4 << 20
"""Bytes that one worker may write in one epoch."""
LONG_NS = 10_000_000_000
"""How long sources hold back before it is said."""


class Debtor(Protocol):
    """Whoever will write something at the next snapshot."""

    @property
    def unsaved(self) -> int:
        """Rows or frames that were not written yet."""
        ...

    @property
    def arrival_bytes(self) -> float:
        """Estimate what one arrival adds, at most."""
        ...

    def owed(self, arrivals: int) -> int:
        """Estimate the bytes of the next record if so many arrivals came before it."""
        ...


@dataclass(slots=True)
class _Worker:
    """One worker: what it will write, and what it wrote.

    Attributes:
        debtors: Whoever will write, by kind; of one kind there is one for each shard.
        rest: Bytes by step that its last snapshot took beside records of debtors.
        round: Bytes by step, of the snapshot under way or of the last one.
        bytes_max: Most bytes of one snapshot.
        bytes_all: Bytes of all snapshots.
        over: Snapshots above the bound.
        stall_ns: Time in all that steps stood still.
        round_ns: The same, of the snapshot under way or of the last one.
        round_ns_max: Longest of these.
    """

    debtors: dict[str, list[Debtor]] = field(default_factory=lambda: defaultdict(list))
    rest: dict[str, int] = field(default_factory=dict)
    round: dict[str, int] = field(default_factory=dict)
    bytes_max: int = 0
    bytes_all: int = 0
    over: int = 0
    stall_ns: int = 0
    round_ns: int = 0
    round_ns_max: int = 0


class EpochBudget:
    """What the steps and the sources of one process share, from whatever thread.

    Args:
        ledger: Receives what snapshots took.
        batch_len: Most arrivals of one batch.
        notify: Called with one line when a snapshot is above the bound.
        bytes_max: The bound of one worker and epoch.
    """

    def __init__(
        self, ledger: Ledger, batch_len: int, notify: Callable[[str], None],
        bytes_max: int = BYTES_MAX,
    ) -> None:  # fmt: skip
        self._ledger, self._batch_len, self._notify = ledger, batch_len, notify
        self._bytes_max = bytes_max
        self._workers: dict[int, _Worker] = defaultdict(_Worker)
        self._held_since_ns: int | None = None
        self._held_ns = self._holds = 0
        self._is_said = False

    def watch(self, kind: str, debtor: Debtor) -> None:
        """Count on what somebody of the calling worker will write.

        Args:
            kind: What it writes; arrivals are dealt to those of one kind.
            debtor: Who it is.
        """
        self._workers[threading.get_ident()].debtors[kind].append(debtor)

    def wrote(self, step: str, records: int, rest: int, stall_ns: int) -> None:
        """Account for a snapshot of one step of the calling worker.

        Args:
            step: Name of the step and shard; seen again, the next epoch has come.
            records: Bytes of the records of debtors.
            rest: All other bytes, to whatever store.
            stall_ns: How long the step stood still for it.
        """
        ident, size = threading.get_ident(), records + rest
        worker = self._workers[ident]
        if step in worker.round:
            _complete(worker)
        before = sum(worker.round.values())
        worker.round[step], worker.rest[step] = size, rest
        worker.bytes_max = max(worker.bytes_max, before + size)
        worker.bytes_all += size
        worker.stall_ns += stall_ns
        worker.round_ns += stall_ns
        worker.round_ns_max = max(worker.round_ns_max, worker.round_ns)
        if before <= self._bytes_max < before + size:
            worker.over += 1
            if worker.over == 1:
                self._notify(
                    f"a snapshot took {before + size:,} bytes, more than the {self._bytes_max:,} "
                    "meant for an epoch; a shorter run.epoch_s or smaller batches make it less"
                )
        self._ledger.write(
            f"snapshots/{ident}",
            {
                "snapshot_bytes": before + size,
                "snapshot_bytes_all": worker.bytes_all,
                "snapshot_bytes_max": worker.bytes_max,
                "snapshots_over_bound": worker.over,
                "snapshot_stall_ns": worker.stall_ns,
                "snapshot_stall_ns_max": worker.round_ns_max,
            },
        )

    def holds(self) -> bool:
        """Tell whether a source has to hold back until the next snapshot."""
        full = any(self._is_full(worker) for worker in list(self._workers.values()))
        if full and self._held_since_ns is None:
            self._held_since_ns = monotonic_ns()
            self._holds += 1
        if self._held_since_ns is not None:
            held_ns = monotonic_ns() - self._held_since_ns
            page = {"snapshot_holds": self._holds, "snapshot_held_ns": self._held_ns + held_ns}
            self._ledger.write("snapshots", page)
            if held_ns > LONG_NS and not self._is_said:
                self._is_said = True
                self._notify(
                    "the source waits for the next snapshot, because no more changes fit into one; "
                    "a shorter run.epoch_s ends such waits sooner"
                )
            if not full:
                self._held_ns, self._held_since_ns = self._held_ns + held_ns, None
        return full

    def close(self) -> None:
        """Count the last snapshots; nothing is written any more."""
        for worker in self._workers.values():
            _complete(worker)

    def _is_full(self, worker: _Worker) -> bool:
        """Tell whether one more batch might not fit."""
        kinds = [list(debtors) for debtors in list(worker.debtors.values())]
        if not any(debtor.unsaved for debtors in kinds for debtor in debtors):
            return False
        # A model that is too large by itself does not get smaller by waiting.
        rest = min(sum(worker.rest.values()), self._bytes_max // 2)
        return sum(map(self._owed, kinds)) + rest > self._bytes_max

    def _owed(self, debtors: list[Debtor]) -> float:
        """Estimate what those of one kind will write if one more batch is dealt to them (law 3)."""
        now = sum(debtor.owed(0) for debtor in debtors)
        then = sum(debtor.owed(self._batch_len) for debtor in debtors)
        each = max(debtor.arrival_bytes for debtor in debtors)
        return now + min(then - now, self._batch_len * each)


def _complete(worker: _Worker) -> None:
    """Tell the metrics of a snapshot that is over, and begin the next."""
    if worker.round:
        SNAPSHOT_BYTES.observe(sum(worker.round.values()))
        SNAPSHOT_SECONDS.observe(worker.round_ns * 1e-9)
    worker.round.clear()
    worker.round_ns = 0
