"""The embedded sink: a broker of Kafka in this process, and a consumer that reads everything back.

Laws:

1. Records take the way to any broker: through `connectors.kafka`, by the protocol, over a socket.
2. Nothing is believed: after every `UNREAD_BYTES_MAX` at most, and at the end, what was delivered
   is read back and counted; a difference ends the run with an error.
3. At most `RECORDS_MAX` records are accepted: it is there to try things out.
4. When the run ends, however it ends, the broker, its threads and its socket are gone.

The broker is librdkafka's mock cluster. It keeps about 5 MiB of a partition and silently drops what
is older, which is why reading back keeps step with writing; it knows no admin calls.

Source: librdkafka 2.16, rdkafka_mock.h.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from confluent_kafka import KafkaException, Producer

from connectors.kafka import KafkaPart, KafkaSink, KafkaState
from connectors.kafka_brokers import Layout
from connectors.kafka_client import check, topic_name
from connectors.read_back import PATIENCE_S, OnRecord, ReadBack
from core.batches import RecordBatch
from core.errors import SinkError
from core.topics import TOPICS

if TYPE_CHECKING:
    from core.sections import KafkaSettings

RECORDS_MAX = 100_000
"""Records accepted."""
UNREAD_BYTES_MAX = 2 << 20
"""Bytes written before they are read back; less than half of what a partition holds."""
HEADERS_BYTES = 300
"""What the headers of a record, and Kafka's own, take at most."""
START_S = 10
"""Longest wait for the broker to start."""
_CURE = "use kafka://HOST:PORT or files:DIR"


class Broker:
    """A broker in this process, from its construction until it is closed.

    Args:
        topics: Names of the topics it is to have.

    Attributes:
        servers: Its address, `host:port`.
        partitions: Partitions of each topic.

    Raises:
        SinkError: It does not start.
    """

    def __init__(self, topics: Iterable[str]) -> None:
        try:
            self._client = Producer({"test.mock.num.brokers": 1, "log_level": 0})
            brokers = self._client.list_topics(timeout=START_S).brokers.values()
            self.servers = ",".join(f"{each.host}:{each.port}" for each in brokers)
            # To ask for a topic makes it, with the mock cluster's number of partitions.
            self.partitions = {
                name: len(self._client.list_topics(name, timeout=START_S).topics[name].partitions)
                for name in topics
            }
        except KafkaException as error:
            raise SinkError(
                f"embedded: the broker does not start ({error.args[0].str()}); {_CURE}"
            ) from None

    def close(self) -> None:
        """End the broker; may be called again."""
        self._client.close()


class EmbeddedPart(KafkaPart):
    """One part of an `EmbeddedSink`."""

    def __init__(self, sink: EmbeddedSink, part: str, state: KafkaState | None) -> None:
        super().__init__(sink, part, state)
        self._embedded = sink

    def write_batch(self, values: list[RecordBatch]) -> None:
        """Send the records, and read back what was sent before where too much is unread.

        Raises:
            SinkError: There are too many, or what was read is not what was delivered.
        """
        for batch in values:
            self._embedded.take(batch, super().write_batch)


class EmbeddedSink(KafkaSink):
    """Delivers to a broker in this process and reads everything back; for trying things out.

    Delivery guarantee: none beyond the end of the process; within it each record arrives, or the
    run ends with an error. Recovery is refused, and so is a run of several processes, each of which
    would have a broker of its own.

    Args:
        settings: Section `kafka` of the settings. Its options are left alone: they say how to reach
            other brokers.
        on_record: Called with each message read back, on a worker's thread.
        more: As `KafkaSink` has them.
    """

    def __init__(
        self, *, settings: KafkaSettings, on_record: OnRecord | None = None, **more: Any
    ) -> None:
        self._ledger: Callable[[str, Mapping[str, int]], None] = more.pop("on_counts")
        self._pages: dict[str, Mapping[str, int]] = {}
        # What was not waited for would be missed when it is read back.
        shutdown_s = max(settings.shutdown_s, PATIENCE_S)
        settings = msgspec.structs.replace(settings, options={}, shutdown_s=shutdown_s)
        super().__init__(
            servers="", settings=settings, recovers=False, on_counts=self._count, **more
        )
        self._on_record = on_record
        self._broker: Broker | None = None
        self._reader: ReadBack | None = None
        self._accepted = self._unread_bytes = 0
        self._turn = threading.Lock()
        """Of the two above: one part at a time writes, and reads back."""

    def check(self) -> None:
        """Start the broker; see `KafkaSink.check`."""
        check(self.settings)
        letters = [TOPICS[topic].dead_letters for topic in self._topics]
        names = {topic: topic_name(self.settings, topic) for topic in (*self._topics, *letters)}
        self._broker = Broker(names.values())
        self._servers, partitions = self._broker.servers, self._broker.partitions
        self.layouts = {
            topic: Layout(topic=topic, name=name, partitions=partitions[name])
            for topic, name in names.items()
        }
        self._reader = ReadBack(self.settings, self._servers, partitions, self._on_record)

    def build_part(
        self, step_id: str, for_part: str, resume_state: KafkaState | None
    ) -> EmbeddedPart:
        """Build one part; see `KafkaSink.build_part`."""
        del step_id
        return EmbeddedPart(self, for_part, resume_state)

    def take(self, batch: RecordBatch, write: Callable[[list[RecordBatch]], None]) -> None:
        """Have the records of a part written, and read back in between.

        Args:
            batch: Records of one topic.
            write: Sends some of them.

        Raises:
            SinkError: There are too many, or what was read is not what was delivered.
        """
        with self._turn:
            for piece, size in pieces(batch, UNREAD_BYTES_MAX):
                if self._unread_bytes + size > UNREAD_BYTES_MAX:
                    self._read_back()
                room = RECORDS_MAX - self._accepted
                write([piece if len(piece) <= room else piece.take(np.arange(room))])
                self._accepted += min(len(piece), room)
                self._unread_bytes += size
                if len(piece) > room:
                    self._read_back()
                    raise self._full()

    def verify(self) -> None:
        """Read back the rest, and see that all that was delivered is there.

        To be called when the engine is done, and before `close`.

        Raises:
            SinkError: It is not.
        """
        with self._turn:
            self._read_back()

    def close(self) -> None:
        """End the consumer, the producer and the broker; never raises, and may be called again."""
        super().close()
        if self._reader is not None:
            self._reader.close()
        if self._broker is not None:
            self._broker.close()

    def _count(self, page: str, totals: Mapping[str, int]) -> None:
        """Keep a page of the ledger, and hand it on."""
        self._pages[page] = totals
        self._ledger(page, totals)

    def _read_back(self) -> None:
        """Wait until everything is delivered, read it, and compare."""
        if self._reader is None or self._outbox is None:
            return
        if self._open:
            self._outbox.flush(PATIENCE_S)
        self._reader.read()
        self._unread_bytes = 0
        delivered, found = self._delivered(), self._reader.records
        for topic in sorted({*delivered, *found}):
            if delivered[topic] != found[topic]:
                raise SinkError(
                    f"embedded: {topic}: {delivered[topic]:,} records were delivered and "
                    f"{found[topic]:,} read back; please report this, or {_CURE}"
                )

    def _delivered(self) -> Counter[str]:
        """Return how many records each topic was acknowledged to hold, dead letters included."""
        total: Counter[str] = Counter()
        for page in self._pages.values():
            for name, count in page.items():
                kind, _, topic = name.partition(".")
                if kind == "delivered":
                    total[topic] += count
                elif kind == "dead_lettered":
                    total[TOPICS[topic].dead_letters] += count
        return total

    def _full(self) -> SinkError:
        counts = ", ".join(f"{n:,} of {topic}" for topic, n in sorted(self._delivered().items()))
        return SinkError(
            f"embedded: the broker takes at most {RECORDS_MAX:,} records; delivered and read back: "
            f"{counts}; for more {_CURE}"
        )


def pieces(batch: RecordBatch, bytes_max: int) -> Iterator[tuple[RecordBatch, int]]:
    """Cut a batch into pieces of at most so many bytes, of one record at least.

    Args:
        batch: Encoded records.
        bytes_max: Most bytes of a piece, headers included.

    Yields:
        Each piece with its bytes, in order.
    """
    ends = batch.value_end + batch.key_end
    ends = ends + HEADERS_BYTES * np.arange(1, ends.size + 1)
    first = done = 0
    while first < len(batch):
        last = max(first + 1, int(np.searchsorted(ends, done + bytes_max, side="right")))
        size = int(ends[last - 1]) - done
        yield batch.take(np.arange(first, last)), size
        first, done = last, done + size
