"""Watching: tests of each packet against the past of its key, and what they see.

Laws:

1. Each test is small, has a threshold with a unit among the settings (`DetectSettings`), and names
   the source of its principle (`models.device_kernels`, `models.host_kernels`).
2. What is seen depends on packets in their order alone: not on how they were cut into batches.
3. Keys and contacts are in bounded tables that forget the one touched longest ago.
4. A test looks at packets of the key it speaks of and at no others, so that shards change nothing
   but which keys a full table forgets. Silence is measured in time in which anybody was heard.

Not here: what is told of it (`core.docket`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from core.host import key_text
from core.names import text_of
from core.sighting import Evidence, Sighting
from models.watch_kernels import (
    FROM_NS,
    KEY_HI,
    KEY_LO,
    NOW,
    ORDINAL,
    OUT_INTS,
    OUT_TAGS,
    OUT_VALUES,
    PACKETS,
    RULE,
    SCALARS,
    SCANNED,
    SOURCE,
    TO_NS,
    WINDOW,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from core.batches import FrameBatch
    from core.names import Names
    from core.row_log import Rows

    Seen = tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.float64]]
    Wording = Callable[[int, Seen], tuple[str, str, tuple[Evidence, ...]]]


class Watch(Protocol):
    """What the graph asks of a watch."""

    unseen: int
    """What was seen and there was no room for."""

    def update(self, frames: FrameBatch) -> list[Sighting]:
        """Look at arrivals; return what was seen, in the order of time."""
        ...

    def rows(self) -> dict[str, Rows]:
        """Return what is kept in logs, by name."""
        ...

    def snapshot(self) -> Any:
        """Return what is no key's own; the rest is kept in logs."""
        ...

    def restore(self, state: Any) -> None:
        """Go on from a snapshot; what the logs hold is loaded next."""
        ...


def fresh_scalars() -> NDArray[np.int64]:
    """Return the scalars of a shard that saw nothing yet."""
    scalars = np.zeros(SCALARS, np.int64)
    scalars[[NOW, SCANNED]] = -1
    return scalars


def room(count: int) -> Seen:
    """Return room for so many sightings; what is not written takes no memory."""
    return (
        np.empty((count, OUT_INTS), np.int64),
        np.zeros((count, OUT_TAGS), np.uint64),
        np.zeros((count, OUT_VALUES)),
    )


def sightings(
    out: Seen, count: int, window_ns: int, wording: Wording, names: Names | None, *, is_device: bool
) -> list[Sighting]:
    """Put what kernels saw into words.

    Args:
        out: What they wrote.
        count: How much of it.
        window_ns: Length of a window.
        wording: Returns rule, title (without the key) and evidence of one of them.
        names: Texts of keys that are hashes, where any are.
        is_device: Whether keys are device ids rather than addresses.
    """
    ints, tags, _ = out
    texts = None if names is None or count == 0 else names.of(tags[:count, KEY_HI : KEY_LO + 1])
    found = []
    for at in range(count):
        rule, title, evidence = wording(at, out)
        name = b"" if texts is None else text_of(texts[at])
        key = key_text(
            int(tags[at, KEY_HI]), int(tags[at, KEY_LO]), is_device=is_device, name=name
        )  # fmt: skip
        found.append(
            Sighting(
                rule=rule,
                title=f"{key}: {title}",
                key=key,
                key_hi=int(tags[at, KEY_HI]),
                key_lo=int(tags[at, KEY_LO]),
                is_device=is_device,
                source=int(tags[at, SOURCE]),
                ordinal=int(ints[at, ORDINAL]),
                first_ns=int(ints[at, FROM_NS]),
                last_ns=int(ints[at, TO_NS]),
                packets=int(ints[at, PACKETS]),
                window_ns=int(ints[at, WINDOW]) * window_ns,
                evidence=evidence,
            )
        )
    return found


def rule_of(names: tuple[str, ...], at: int, out: Seen) -> str:
    """Return the name of a rule that a kernel numbered."""
    return names[int(out[0][at, RULE])]


def evidence(feature: str, value: float, unit: str, threshold: float | None = None) -> Evidence:
    """Return one piece of evidence, as exact as it is worth."""
    limit = None if threshold is None else round(float(threshold), 3)
    return Evidence(feature=feature, value=round(float(value), 3), unit=unit, threshold=limit)


class Table:
    """Rows of a key table with columns of their own, as `core.row_log.Rows` has them."""

    def __init__(self, capacity: int, seed: int, columns: dict[str, NDArray[Any]]) -> None:
        from core.keytable import KeyTable

        self.table = KeyTable.create(capacity, 2, seed)
        self.columns = columns

    def touched_columns(self, slots: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Return what packets change."""
        return {name: column[slots] for name, column in self.columns.items()}

    def whole_columns(self, slots: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Return the keys themselves."""
        return {"key": self.table.keys[slots]}

    def load(self, slots: NDArray[np.int64], columns: dict[str, NDArray[Any]]) -> None:
        """Hold these rows and nothing else."""
        if slots.size == 0:
            return
        self.table.place(columns["key"], slots)
        for name, column in self.columns.items():
            column[slots] = columns[name]
