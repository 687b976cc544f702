"""What the tests of watches share: packets by hand, and what is seen of them, cut or not."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from core.batches import FrameBatch
from core.row_log import RowLog
from core.sighting import Sighting
from models.watch import Watch
from tests.frames import MAPPED, frame_batch, parts

SECOND_NS = 1_000_000_000
START_NS = 1_700_000_000 * SECOND_NS
Make = Callable[[], Watch]


def host(number: int) -> int:
    """Return the low word of the address 10.0.x.y."""
    return MAPPED + 0x0A000000 + number


def batch(rows: Sequence[dict[str, Any]], arena: bytes = b"") -> FrameBatch:
    """Return frames in the order of their times, given in seconds as `at`."""
    rows = sorted(rows, key=lambda row: row["at"])
    columns = {name for row in rows for name in row} - {"at"}
    given: dict[str, Any] = {name: [row.get(name, 0) for row in rows] for name in columns}
    given["at_ns"] = [START_NS + round(row["at"] * SECOND_NS) for row in rows]
    return frame_batch(arena, **given)


def kinds(seen: list[Sighting]) -> Counter[tuple[str, str]]:
    """Count sightings by rule and key."""
    return Counter((each.rule, each.key) for each in seen)


def seen(make: Make, frames: FrameBatch, cuts: Sequence[int] = ()) -> list[Sighting]:
    """Return what a watch sees of frames."""
    watch = make()
    return [each for part in parts(frames, cuts) for each in watch.update(part)]


def check_laws(make: Make, frames: FrameBatch) -> list[Sighting]:
    """Return what is seen, after seeing that neither cuts nor a restart change it."""
    whole = seen(make, frames)
    third = len(frames) // 3
    assert seen(make, frames, range(0, len(frames), 7)) == whole
    first, other = make(), make()
    logs = {name: RowLog(rows) for name, rows in first.rows().items()}
    found = first.update(frames.take(slice(0, third)))
    records = {name: log.delta() for name, log in logs.items()}
    found += first.update(frames.take(slice(third, 2 * third)))
    more = {name: log.delta() for name, log in logs.items()}
    state = pickle.loads(pickle.dumps(first.snapshot()))
    other.restore(state)
    for name, rows in other.rows().items():
        written = [(n, r) for n, r in ((1, records[name]), (2, more[name])) if r is not None]
        RowLog(rows).load(written, len(written))
    found += other.update(frames.take(slice(2 * third, None)))
    assert found == whole
    return whole


def noise(count: int, seconds: float, seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return times within a span, in seconds."""
    return np.sort(np.random.default_rng(seed).uniform(0.0, seconds, count))
