"""What a step hands to Bytewax at a snapshot: little, with marks of what it wrote beside it.

Laws:

1. What Bytewax keeps of a step is a `Saved`: the small part of its state, pickled, and for each of
   its logs a mark (`connectors.segments`). What a mark names is on disk before it is handed over.
2. A small part above `INLINE_BYTES_MAX` goes through a log as well, whole, and only when it is
   another one than last time.
3. A step learns its shard from the keys that come to it, because Bytewax does not tell; before the
   first key there is nothing to log.
4. Whatever cannot be resumed from is one line that names the recovery folder and the cure.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from connectors.clock import monotonic_ns
from connectors.engine_store import START_OVER, unsound
from connectors.epoch_budget import Debtor
from connectors.metrics import STAGE_SECONDS
from connectors.segments import Mark, SegmentLog
from core.errors import SourceError
from core.packing import pack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flows.run import Run

MAGIC = b"penstock snapshot 1\n"
INLINE_BYTES_MAX = 256 << 10
STATE = "state"
"""Log of a small part that is not so small."""

PICKLE_ERRORS = (pickle.UnpicklingError, AttributeError, EOFError, ImportError, IndexError)
"""What comes of a pickle that is damaged; see `pickle`."""


class Journal(Debtor, Protocol):
    """What of a core is kept in a log; see `core.row_log.RowLog`."""

    @property
    def version(self) -> int:
        """Number of the last record."""
        ...

    @property
    def keep_from(self) -> int:
        """Number of the oldest record that is still needed."""
        ...

    def look(self) -> None:
        """Find out what is touched now costs, if that may have changed."""
        ...

    def delta(self) -> bytes | None:
        """Return the next record, if there is anything to write."""
        ...

    def load(self, records: Iterable[tuple[int, bytes]], version: int) -> None:
        """Go on from records, the last of which ever written had this version."""
        ...


class Saved(msgspec.Struct, frozen=True, array_like=True):
    """What Bytewax keeps of one step of one shard.

    Attributes:
        digest: Of the settings that shape results.
        shard: Name of the shard; empty while no key came.
        state: The small part, pickled; empty when it is in a log.
        logs: Where each log stood.
    """

    digest: str
    shard: str
    state: bytes
    logs: dict[str, Mark]


class Keeper:
    """Keeps the state of one step of one shard.

    Args:
        run: What the steps share; recovery is on.
        step: Name of the step.
        journals: What of it is kept in logs, by a name of its own among all steps.
    """

    def __init__(self, run: Run, step: str, journals: dict[str, Journal]) -> None:
        self._run, self._step, self._journals = run, step, journals
        self._digest = run.digest
        self._store = Path(run.settings.run.recovery)
        self._logs: dict[str, SegmentLog] = {}
        self._whole = b""
        self.shard = ""
        pack({})  # loads the compressor now rather than in the first snapshot
        for name, journal in journals.items():
            run.budget.watch(name, journal)

    def open(self, saved: object) -> Any:
        """Return the small part of what was saved; `load` then reads the logs.

        Raises:
            SourceError: It cannot be resumed from.
        """
        if not isinstance(saved, bytes) or not saved.startswith(MAGIC):
            raise SourceError(
                f"{self._store}: written by another version of Penstock; {START_OVER}"
            )
        with self._readable():
            found = msgspec.msgpack.decode(saved[len(MAGIC) :], type=Saved)
            if found.digest != self._digest:
                raise SourceError(f"{self._store}: written with other settings; {START_OVER}")
            self.shard = found.shard
            for name, mark in found.logs.items():
                self._logs[name] = self._log(name, mark)
            if found.state:
                return pickle.loads(found.state)  # noqa: S301  our own recovery store
            *_, (_, self._whole) = self._logs[self._state_log].replay()
            return pickle.loads(self._whole)  # noqa: S301  our own recovery store

    def load(self) -> None:
        """Let the journals read their logs.

        Raises:
            SourceError: They cannot be resumed from.
        """
        for name, journal in self._journals.items():
            if name in self._logs:
                with self._readable():
                    log = self._logs[name]
                    journal.load(log.replay(), log.mark.version)

    def look(self) -> None:
        """Find out what is touched now costs; called after each batch."""
        for journal in self._journals.values():
            journal.look()

    def save(self, state: Any) -> bytes:
        """Write what changed, and return what Bytewax is to keep.

        Args:
            state: The small part.

        Raises:
            SinkError: The recovery folder cannot be written.
        """
        begun = monotonic_ns()
        written = 0
        for name, journal in self._journals.items():
            if (record := journal.delta()) is not None:
                if name not in self._logs:
                    self._logs[name] = self._log(name, None)
                written += self._logs[name].append(journal.version, record)
        inline, size = self._small(pickle.dumps(state, 5))
        logs = {name: log.snapshot(self._keep_from(name)) for name, log in self._logs.items()}
        saved = MAGIC + msgspec.msgpack.encode(Saved(self._digest, self.shard, inline, logs))
        stall_ns = monotonic_ns() - begun
        STAGE_SECONDS.labels("snapshot").observe(stall_ns * 1e-9)
        rest = size + len(saved)
        self._run.budget.wrote(f"{self._step}/{self.shard}", written, rest, stall_ns)
        return saved

    def _small(self, state: bytes) -> tuple[bytes, int]:
        """Return what of the small part goes to Bytewax, and the bytes that went to its log."""
        if len(state) <= INLINE_BYTES_MAX or not self.shard:
            self._whole = b""
            return state, 0
        if state == self._whole:
            return b"", 0
        name = self._state_log
        if name not in self._logs:
            self._logs[name] = self._log(name, None)
        self._whole = state
        return b"", self._logs[name].append(self._logs[name].mark.version + 1, state)

    def _keep_from(self, name: str) -> int:
        """Return the oldest version of a log that is needed."""
        if name != self._state_log:
            return self._journals[name].keep_from
        return self._logs[name].mark.version + (0 if self._whole else 1)

    @property
    def _state_log(self) -> str:
        return f"{self._step}-{STATE}"

    def _log(self, name: str, mark: Mark | None) -> SegmentLog:
        return SegmentLog(self._store, self.shard, name, mark)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Turn what is wrong with a store into one line."""
        try:
            yield
        except (msgspec.DecodeError, *PICKLE_ERRORS, ValueError, KeyError) as error:
            raise unsound(self._store, str(error)) from error
