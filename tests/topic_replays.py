"""Replays of topics for tests: a source on a real broker, and frames to fill a topic with."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from connectors.capture import PAGE
from connectors.kafka_source import TopicSource
from connectors.ledger import Ledger
from connectors.topic_feed import Feed
from connectors.topic_part import TopicPart, TopicPosition
from core.batches import FrameBatch
from core.config import decode
from core.errors import PenstockError
from core.readings import Readings
from core.topics import TELEMETRY
from core.values import Messages, unpacked
from tests.frames import SECOND_NS, frame_batch

START_NS = 1_767_225_600 * SECOND_NS
ROWS = 3_000
SMALL_FETCHES = {
    "fetch.message.max.bytes": 2_000, "queued.min.messages": 1, "queued.max.messages.kbytes": 8,
}  # fmt: skip

Row = tuple[int, int, int, int, int, int]
"""Device, sequence number, time, file, number in it, and number in the replay."""


def frames(count: int = ROWS, devices: int = 40) -> FrameBatch:
    """Frames a millisecond apart, three in a row at the same time; some step back in time."""
    number = np.arange(count)
    ids = [b"dev-%06d" % (7 * i % devices) for i in number.tolist()]
    at_ns = START_NS + number // 3 * 3_000_000 - (number % 50 == 49) * 20_000_000
    return frame_batch(
        b'{"v":12}',
        at_ns=at_ns,
        key_hi=[int.from_bytes(each[:8], "big") for each in ids],
        key_lo=[int.from_bytes(each[8:].ljust(8, b"\0"), "big") for each in ids],
        seq=number, body_len=np.where(number % 5, 8, 0), source=[0xFEED] * count, ordinal=number,
    )  # fmt: skip


def rows(batch: Readings) -> list[Row]:
    found = batch.frames()
    key = found.key_hi ^ found.key_lo
    columns = (key, found.seq, found.at_ns, found.source, found.ordinal, found.index)
    return list(zip(*(column.tolist() for column in columns), strict=True))


class Replay:
    """A source with its notices and its part."""

    def __init__(
        self, servers: str, topic: str, *, resume: TopicPosition | None = None, digest: str = "d",
        holds: str = TELEMETRY, by: str = "device", sink: str = "null", **sections: Any,
    ) -> None:  # fmt: skip
        named = {"topics": {holds: topic}} if holds else {}
        settings = decode([("test", {
            "run": {"paths": (f"kafka://{servers}/{topic}",), "sink": sink},
            "capture": {"by": by} | sections.pop("capture", {}),
            "kafka": named | sections.pop("kafka", {}), **sections,
        })])  # fmt: skip
        self.notices: list[str] = []
        self.ledger = Ledger()
        self.stopping = threading.Event()
        self.source = TopicSource(
            settings=settings, ledger=self.ledger, digest=digest, stopping=self.stopping,
            notify=self.notices.append,
        )  # fmt: skip
        self.source.check()
        (part,) = self.source.list_parts()
        self.part: TopicPart = self.source.build_part("step", part, resume)

    def batches(self) -> list[Readings] | None:
        """Return what one call of the engine gives; nothing at the end."""
        try:
            return self.part.next_batch()
        except StopIteration:
            self.part.close()
            return None

    def step(self) -> list[Row] | None:
        """Return its rows."""
        found = self.batches()
        return None if found is None else [row for batch in found for row in rows(batch)]

    def rest(self) -> list[Row]:
        out: list[Row] = []
        while (found := self.step()) is not None:
            out += found
        return out

    def some(self, count: int) -> list[Row]:
        """Return the next rows, at least so many."""
        out: list[Row] = []
        while len(out) < count:
            found = self.step()
            assert found is not None
            out += found
        return out

    def page(self) -> dict[str, int]:
        return self.ledger.page(PAGE)


class Portions(Feed):
    """A feed that has all there is and gives it unevenly: of the first partition it may give.

    Attributes:
        size: Messages given at a time.
        paused: Partitions in the order in which they were paused.
        given: Rows given of each.
        most: Most rows given at a time.
    """

    size = 100

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        self._held: dict[int, deque[Messages]] = {p: deque() for p in self._open}
        while self._open:
            found, _ = super().poll(0.1, ROWS)
            for i, p in enumerate(found.partitions):
                self._held[p].append(_slice(found, i))
        self._resting: set[int] = set()
        self.paused: list[int] = []
        self.given: Counter[int] = Counter()
        self.most = 0

    def poll(self, wait_s: float, messages_max: int) -> tuple[Messages, list[int]]:
        del wait_s
        p = min(self._held.keys() - self._resting)  # there is one: what is waited for never rests
        held, some = self._held[p], Messages()
        for _ in range(min(self.size, messages_max, len(held))):
            each = held.popleft()
            for name in Messages.__slots__:
                getattr(some, name).extend(getattr(each, name))
        rows = len(unpacked(some))
        self.given[p] += rows
        self.most = max(self.most, rows)
        if held:
            return some, []
        del self._held[p]
        return some, [p]

    def pause(self, p: int) -> None:
        self.paused.append(p)
        self._resting.add(p)

    def resume(self, p: int) -> None:
        self._resting.remove(p)


def _slice(found: Messages, i: int) -> Messages:
    return Messages(*(getattr(found, name)[i : i + 1] for name in Messages.__slots__))


def refused(kind: type[PenstockError], call: Callable[[], object]) -> str:
    """Return the one line with which something is refused."""
    with pytest.raises(kind) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    return line
