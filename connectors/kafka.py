"""The Kafka sink: records of all topics to brokers, each part of the sink through the same outbox.

Laws, beside those of `connectors.shard_sink`:

1. With recovery, a snapshot is taken only when everything before it is acknowledged: the position
   in the input is never ahead of what arrived.
2. Without, a snapshot waits for nothing, because nothing would be saved.
3. Whoever closes the last part closes the outbox; until then it is open, and a part that is built
   later opens it again.

Not here: how records are sent and what becomes of those that fail (`connectors.outbox`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bytewax.outputs import StatefulSinkPartition

from connectors.account import Account, Counts
from connectors.clock import monotonic_ns
from connectors.kafka_client import producer_properties
from connectors.kafka_topics import batch_bytes, encoder, ensure, message_bytes
from connectors.outbox import Outbox
from connectors.shard_sink import ShardSink
from core.batches import RecordBatch
from core.topics import TOPICS

if TYPE_CHECKING:
    from connectors.kafka_brokers import Layout
    from connectors.pressure import Pressure
    from core.outgoing import Outgoing
    from core.sections import KafkaSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaState:
    """What a `KafkaPart` resumes from.

    Attributes:
        delivered: Records delivered per topic since the flow first started.
        dead_lettered: Records per topic that went to its dead-letter topic instead.
    """

    delivered: tuple[tuple[str, int], ...]
    dead_lettered: tuple[tuple[str, int], ...]


class KafkaPart(StatefulSinkPartition[RecordBatch, KafkaState]):
    """One part of a `KafkaSink`."""

    def __init__(self, sink: KafkaSink, part: str, state: KafkaState | None) -> None:
        self._sink, self._part = sink, part
        self._outbox = sink.outbox(part)
        earlier = state or KafkaState(delivered=(), dead_lettered=())
        self._account = Account(part, sink.on_counts, earlier.delivered, earlier.dead_lettered)
        if state is not None:
            self._account.report()

    def write_batch(self, values: list[RecordBatch]) -> None:
        """Send the records; wait for room no longer than `kafka.write_wait_s`.

        Raises:
            SinkError: Records of this epoch are undelivered, so that it will have to be replayed.
        """
        if self._outbox.failed:
            raise self._outbox.failure()
        for batch in values:
            if len(batch) > 0:
                self._outbox.send(self._sink.encode(batch), self._account)
        self._outbox.make_room()
        self._account.report()

    def snapshot(self) -> KafkaState:
        """Wait for acknowledgements, when recovery is on, and return the counts.

        Raises:
            SinkError: They did not come within `kafka.delivery_s`, or `kafka.shutdown_s` when the
                run is to end.
        """
        if self._sink.recovers:
            begun_ns = monotonic_ns()
            self._outbox.flush(self._sink.settings.delivery_s)
            self._sink.on_flush((monotonic_ns() - begun_ns) * 1e-9)
        else:
            self._outbox.relieve(0.0)
        return KafkaState(
            delivered=tuple(self._account.delivered().items()),
            dead_lettered=tuple(self._account.booked("dead_lettered").items()),
        )

    def close(self) -> None:
        """Release the part; the last one gives up what cannot be delivered in time."""
        self._sink.release(self._part)


class KafkaSink(ShardSink[KafkaState]):
    """Delivers records to Kafka: idempotent, acknowledged by all replicas, in order for each key.

    Delivery guarantee, with recovery and a source that can be replayed: at least once. A crash
    repeats at most what was delivered since the last epoch that was saved; a record that is
    repeated has the same key, value, time and `ce_id`. When the brokers are away for longer than
    `kafka.delivery_s` the run ends with an error, and the same command goes on at that epoch.

    Without recovery: what waits when the process is killed is gone, at most `kafka.queue_len_max`
    records and what is in the graph. A run that ends by itself or by a signal loses nothing while
    the brokers answer within `kafka.shutdown_s`. What cannot be delivered is counted as lost, and
    ends the run; it may have arrived all the same, unacknowledged.

    Records that the brokers refuse for what they are go to the dead-letter topic of their topic. A
    dead letter that is refused too makes its record undelivered: an error with recovery, lost
    without. When the brokers refuse a whole batch, its records are sent again by themselves, later
    than others of the same key.

    Args:
        servers: `host:port`, separated by commas.
        settings: Section `kafka` of the settings.
        parts: Number of shards, 1 … 10,000.
        recovers: Whether state is saved and the source can be replayed.
        pressure: How the sources are made to pause.
        stopping: Set when the run is to end.
        notify: Called with one line for the user.
        on_lost: Called once, with one line, when the first record is lost; to end the run.
        on_counts: Receives pages of the ledger: `sink/<part>`, and `outbox` for all parts.
        topics: Those that records will be of, by their names here.
        on_flush: Called with the seconds that each flush took.

    Attributes:
        layouts: How the brokers have each topic, by its name here; found by `check`, or set by who
            knows it otherwise.

    Raises:
        SettingError: A setting is out of bounds.
    """

    def __init__(
        self,
        *,
        servers: str,
        settings: KafkaSettings,
        parts: int,
        recovers: bool,
        pressure: Pressure,
        stopping: threading.Event,
        notify: Callable[[str], None],
        on_lost: Callable[[str], None],
        on_counts: Counts,
        topics: Iterable[str],
        on_flush: Callable[[float], None] = lambda _: None,
    ) -> None:
        super().__init__(parts=parts, on_delivered=on_counts)
        self.settings, self.recovers = settings, recovers
        self.on_counts, self.on_flush = on_counts, on_flush
        self._servers, self._notify, self._on_lost = servers, notify, on_lost
        self._pressure, self._stopping = pressure, stopping
        self._topics = list(topics)
        self._encode = encoder(settings)
        self.layouts: dict[str, Layout] = {}
        self._outbox: Outbox | None = None
        self._open: set[str] = set()
        self._lock = threading.Lock()

    def check(self) -> None:
        """See that the brokers answer and have the topics, before a flow is started on them.

        Raises:
            SettingError: librdkafka refuses the properties.
            SinkError: They do not; the message names the cause and the cure.
        """
        letters = [TOPICS[topic].dead_letters for topic in self._topics]
        topics = list(dict.fromkeys([*self._topics, *letters]))
        self.layouts = ensure(self.settings, self._servers, topics, self._notify)

    def build_part(self, step_id: str, for_part: str, resume_state: KafkaState | None) -> KafkaPart:
        """Build one part; see `ShardSink.build_part`.

        Raises:
            SettingError: As `check`, if that was not called before.
            SinkError: Likewise.
        """
        del step_id
        return KafkaPart(self, for_part, resume_state)

    def encode(self, batch: RecordBatch) -> Outgoing:
        """Return records as messages; see `connectors.kafka_topics.encoder`."""
        return self._encode(self.layouts[batch.topic], batch)

    def outbox(self, part: str) -> Outbox:
        """Return the outbox, open, for a part that is to be released."""
        with self._lock:
            if self._outbox is None:
                self._outbox = self._made()
            self._outbox.open()
            self._open.add(part)
            return self._outbox

    def release(self, part: str) -> None:
        """Close the outbox if this was the last part that uses it."""
        with self._lock:
            self._open.discard(part)
            if self._outbox is not None and not self._open:
                self._outbox.close()

    def verify(self) -> None:
        """See that what was delivered is there; brokers that last are believed."""

    def close(self) -> None:
        """Close the outbox even when the engine did not close all parts; never raises."""
        with self._lock:
            self._open.clear()
            if self._outbox is not None:
                self._outbox.close()

    def _made(self) -> Outbox:
        if not self.layouts:
            self.check()
        config = producer_properties(self.settings, self._servers)
        config["batch.size"] = batch_bytes(self.settings, self.layouts)
        return Outbox(
            config=config,
            settings=self.settings,
            encode=self.encode,
            letter_bytes_max={
                topic: message_bytes(self.settings, layout)
                for topic, layout in self.layouts.items()
            },
            partitions={topic: layout.partitions for topic, layout in self.layouts.items()},
            recovers=self.recovers,
            pressure=self._pressure,
            stopping=self._stopping,
            on_lost=self._on_lost,
            on_counts=self.on_counts,
        )
