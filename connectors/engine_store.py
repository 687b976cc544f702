"""The recovery folder before a run: claimed, and rid of what a crash left in Bytewax's store.

Laws:

1. One process at a time uses a recovery folder. The lock ends with the process, however it ends.
2. Before the engine reads it, its store holds no snapshot of an epoch that was not committed.
   Bytewax 0.21.1 leaves those of a crash there, and resumes from one later on if its key has
   nothing to do in that epoch the second time: with a state from another history.
3. A store that cannot be read is left as it is: the engine says what is wrong with it.

Processes of a cluster that share a folder may not call this, since each would wait for itself.

Not here: what steps keep beside that store (`connectors.segments`).

Source: tables `parts`, `exs`, `fronts` and `snaps` of Bytewax 0.21.1. A run resumes from the epoch
that all workers of the last execution had reached; who wrote none had reached where it began.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING

from core.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

START_OVER = "give another --recovery folder, or remove this one to start over"
"""What a user may do about a folder that cannot be resumed from."""


def unsound(folder: Path, why: str) -> SourceError:
    """Return the error of a recovery folder that was damaged.

    Args:
        folder: The folder.
        why: What is wrong with it; line breaks become spaces.
    """
    said = " ".join(why.split())
    return SourceError(f"{folder}: not a sound recovery folder ({said}); {START_OVER}")


def claim_store(folder: Path) -> Callable[[], None]:
    """Claim a recovery folder, and remove what was not committed.

    Args:
        folder: Must exist.

    Returns:
        A function that lets go of it.

    Raises:
        SourceError: Another process uses it, or it cannot be written.
    """
    lock = _lock(folder)
    with suppress(sqlite3.Error):
        forget_uncommitted(folder)
    return lambda: os.close(lock)


def _lock(folder: Path) -> int:
    path = folder / ".lock"
    try:
        lock = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise SourceError(
            f"{path}: {error.strerror}; give --recovery a folder that can be written"
        ) from error
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise SourceError(
                f"{path}: cannot be locked ({error.strerror}); "
                "give --recovery a folder of another file system"
            ) from error
        raise SourceError(
            f"{folder}: another process uses this recovery folder; end it or give another one"
        ) from error
    return lock


def forget_uncommitted(folder: Path) -> int:
    """Remove the snapshots of epochs that were not committed; return how many there were.

    Args:
        folder: With all parts of one store; where parts are missing, nothing is removed.
    """
    with ExitStack() as undo:
        paths = sorted(folder.glob("part-*.sqlite3"))
        parts = [undo.enter_context(closing(sqlite3.connect(path))) for path in paths]
        counts = {row for part in parts for row in part.execute("SELECT part_count FROM parts")}
        if counts != {(len(parts),)}:
            return 0
        epoch = _resume_epoch(parts)
        removed = 0
        for part in parts:
            with part:
                gone = part.execute("DELETE FROM snaps WHERE snap_epoch >= ?", (epoch,))
                removed += gone.rowcount
        return removed


def _resume_epoch(parts: list[sqlite3.Connection]) -> int:
    """Return the epoch that the engine will begin with; rows lie in any of the parts."""
    begun = [
        row for part in parts
        for row in part.execute("SELECT ex_num, worker_count, resume_epoch FROM exs")
    ]  # fmt: skip
    if not begun:
        return 0  # nothing ever ran, so that there is nothing to keep
    last, workers, epoch = max(begun)
    query = "SELECT worker_index, worker_frontier FROM fronts WHERE ex_num = ?"
    reached = dict(row for part in parts for row in part.execute(query, (last,)))
    return min(int(reached.get(worker, epoch)) for worker in range(workers))
