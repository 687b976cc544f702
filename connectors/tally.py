"""The tally: how many records the brokers have acknowledged, by topic, while a run lasts.

Laws:

1. It is exact whenever nothing is under way, and in between it never says more than was delivered.
2. It never falls.

Messages of one record are counted by librdkafka: with idempotence `acked_msgid` is the number of
the last message of a partition that was acknowledged, and less those that failed it is a lower
bound. Messages that are reported one by one are counted as they come.

Source: librdkafka 2.16, STATISTICS.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec


class _Partition(msgspec.Struct):
    acked_msgid: int = 0


class _Topic(msgspec.Struct):
    partitions: dict[str, _Partition]


class _Statistics(msgspec.Struct):
    topics: dict[str, _Topic]


class Tally:
    """Records of one process, by topic.

    Args:
        canonical: Returns the topic that the brokers have under a name.

    Attributes:
        accepted: Given to the outbox.
        moved: Given to the producer, in whole loads.
        delivered: Acknowledged, as far as is known.
        gone: Dead-lettered, lost or undelivered.
        written_off: Nothing was ever reported of these.
    """

    def __init__(self, canonical: Callable[[str], str]) -> None:
        self._canonical = canonical
        self.accepted: Counter[str] = Counter()
        self.moved: Counter[str] = Counter()
        self.delivered: Counter[str] = Counter()
        self.gone: Counter[str] = Counter()
        self.written_off: Counter[str] = Counter()
        self._fell: Counter[str] = Counter()
        self._arrived: Counter[str] = Counter()
        self._statistics = ""

    @property
    def missing(self) -> int:
        """Records of which it is not known what became of them; at most so many are under way."""
        return sum(self.accepted.values()) - sum(self.delivered.values()) - sum(self.gone.values())

    def hear(self, statistics: str) -> None:
        """Keep what librdkafka tells of itself; called while it serves reports."""
        self._statistics = statistics

    def arrive(self, topic: str, rows: int) -> None:
        """Count records that were reported one by one."""
        self._arrived[topic] += rows

    def fall(self, topic: str, rows: int) -> None:
        """Count records that failed, whatever becomes of them, and are not reported otherwise."""
        self._fell[topic] += rows

    def learn(self) -> bool:
        """Take in what was heard, after the reports before it were served; tell whether there was.

        librdkafka serves statistics before the failures that came with them: only now is it known
        how many of the messages that were answered had failed.
        """
        heard, self._statistics = self._statistics, ""
        answered: Counter[str] = Counter()
        if heard:
            topics = msgspec.json.decode(heard, type=_Statistics).topics
            for name, heard_of in topics.items():
                # Partition -1 holds what has none yet.
                parts = (part for key, part in heard_of.partitions.items() if key != "-1")
                answered[self._canonical(name)] += sum(part.acked_msgid for part in parts)
        for topic in {*answered, *self._arrived}:
            least = max(0, answered[topic] - self._fell[topic]) + self._arrived[topic]
            self.delivered[topic] = max(self.delivered[topic], least)
        return bool(heard)

    def settle(self) -> None:
        """Take note that nothing is under way."""
        for topic, rows in self.moved.items():
            self.delivered[topic] = max(self.delivered[topic], rows - self.gone[topic])

    def write_off(self) -> None:
        """Give up what nothing was reported of."""
        for topic, rows in list(self.accepted.items()):
            left = rows - self.delivered[topic] - self.gone[topic]
            if left > 0:
                self.written_off[topic] += left
                self.gone[topic] += left

    def page(self) -> dict[str, int]:
        """Return what the ledger gets to know."""
        page = {f"delivered.{topic}": count for topic, count in dict(self.delivered).items()}
        lost = {f"lost.{topic}": count for topic, count in dict(self.written_off).items()}
        return page | lost
