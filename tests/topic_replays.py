"""Replays of topics for tests: a source on a real broker, and frames to fill a topic with."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from connectors.capture import PAGE
from connectors.kafka_source import TopicSource
from connectors.ledger import Ledger
from connectors.topic_part import TopicPart, TopicPosition
from core.batches import FrameBatch
from core.config import decode
from core.errors import PenstockError
from core.readings import Readings
from core.topics import TELEMETRY
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


def refused(kind: type[PenstockError], call: Callable[[], object]) -> str:
    """Return the one line with which something is refused."""
    with pytest.raises(kind) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    return line
