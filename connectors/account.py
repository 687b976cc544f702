"""The account of one part of the Kafka sink: what became of the records it was given, by topic.

Law: `accepted = delivered + dead_lettered + lost`, once nothing waits any more. What was delivered
is not booked here but follows from the rest; that of runs before this one is.

Not here: records delivered by this process, which the brokers acknowledge for all parts together
(`connectors.tally`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

Counts = Callable[[str, Mapping[str, int]], None]
"""Called with the name of a page of the ledger and everything on it."""
Booked = Literal["accepted", "dead_lettered", "lost"]


class Account:
    """One page of the ledger, safe to write from several worker threads.

    Args:
        part: Name of the part.
        on_counts: Receives the page.
        delivered: Records delivered by runs before this one, by topic.
        dead_lettered: Records that went to dead-letter topics in those runs, by topic.
    """

    def __init__(
        self,
        part: str,
        on_counts: Counts,
        delivered: Iterable[tuple[str, int]] = (),
        dead_lettered: Iterable[tuple[str, int]] = (),
    ) -> None:
        self._page = f"sink/{part}"
        self._on_counts = on_counts
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        for topic, count in delivered:
            self._counts[f"delivered.{topic}"] = count
            self.book("accepted", topic, count)
        for topic, count in dead_lettered:
            self.book("accepted", topic, count)
            self.book("dead_lettered", topic, count)

    def book(self, kind: Booked, topic: str, rows: int) -> None:
        """Count records of a topic."""
        name = f"{kind}.{topic}"
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + rows

    def booked(self, kind: Booked) -> dict[str, int]:
        """Return the records of one kind by topic, runs before this one included."""
        head = f"{kind}."
        with self._lock:
            return {n.removeprefix(head): c for n, c in self._counts.items() if n.startswith(head)}

    def delivered(self) -> dict[str, int]:
        """Return the records delivered by topic, runs before this one included.

        It is exact when nothing waits and nothing failed.
        """
        gone = (self.booked("dead_lettered"), self.booked("lost"))
        return {
            topic: count - sum(each.get(topic, 0) for each in gone)
            for topic, count in self.booked("accepted").items()
        }

    def report(self) -> None:
        """Hand on the page as it is now."""
        with self._lock:
            page = dict(self._counts)
            self._on_counts(self._page, page)
