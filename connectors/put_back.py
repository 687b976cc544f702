"""Records that the brokers refused, put back from a dead-letter topic to where they were meant for.

Laws:

1. A record is put back with the same identity, and only when it is whole; putting back twice makes
   a double that consumers can drop. The letter stays where it is: a topic is a log.
2. Every delivery report is read: what was not delivered is counted by its reason.
3. Every record read is counted once.

Delivery: at least once. A crash in between has put back some; the command can be given again.

Not here: what a letter says (`core.dead_letter`), and how packets that do not decode are read again
(`connectors.kafka_source`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message

from connectors import kafka_topics
from connectors.dead_letters import checked
from connectors.kafka_client import CURE, Trouble, connect, producer_properties, topic_name
from connectors.kafka_reader import TopicReader
from connectors.lane import Lane
from core.dead_letter import Malformed, has_seq, letter, records, why_not
from core.errors import SinkError
from core.outgoing import json_messages
from core.topics import TOPICS
from core.undeliverable import Undeliverable

if TYPE_CHECKING:
    from core.outgoing import Outgoing
    from core.sections import KafkaSettings

_CHUNK = 100
"""Records put back together, as far as they are of one topic."""
_SLICE_S = 0.1
"""Longest wait inside librdkafka, where signals are not heard."""


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the records of a dead-letter topic; each is counted once.

    Attributes:
        topic: The topic, by its name here.
        dry_run: Whether nothing was written; what could be is in `replayed` all the same.
        read: Records read.
        replayed: Records put back, by topic.
        failed: Records the brokers did not take, by what they said.
        kept: Records that cannot be put back, by why: `value_cut`, `other_topic`, `no_seq`.
        packets: Packets that do not decode, which are read again by `penstock replay`.
        skipped: Records of reasons that were not asked for.
        unreadable: Records that are no dead letters.
    """

    topic: str
    dry_run: bool
    read: int
    replayed: dict[str, int]
    failed: dict[str, int]
    kept: dict[str, int]
    packets: int
    skipped: int
    unreadable: int


def replay(
    settings: KafkaSettings,
    servers: str,
    name: str,
    *,
    to: str | None = None,
    reason: str | None = None,
    dry_run: bool = False,
    notify: Callable[[str], None] = lambda _: None,
) -> Replayed:
    """Put records that the brokers refused back into the topics they were meant for.

    Args:
        settings: Section `kafka` of the settings.
        servers: `host:port`, separated by commas.
        name: The dead-letter topic, by its name here or there.
        to: Brokers to deliver to; `None` for the same.
        reason: Only letters of this reason; `None` for all.
        dry_run: Only count.
        notify: Called with one line for each topic created.

    Returns:
        What became of each.

    Raises:
        UsageError: It is no dead-letter topic.
        SourceError: The brokers do not give them.
        SinkError: The brokers to deliver to do not answer.
    """
    topic = checked(settings, name)
    reader = TopicReader(settings, servers, topic_name(settings, topic))
    back = None if dry_run else _Back(settings, to or servers, topic, notify)
    count: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    could: Counter[str] = Counter()
    messages = reader.read()
    while some := list(islice(messages, _CHUNK)):
        ready = defaultdict(list)
        for each in (letter(message.value() or b"") for message in some):
            count["read"] += 1
            if each is None:
                count["unreadable"] += 1
            elif reason is not None and each.reason != reason:
                count["skipped"] += 1
            elif isinstance(each, Malformed):
                count["packets"] += 1
            elif why := why_not(each, topic):
                kept[why] += 1
            else:
                ready[each.topic, has_seq(each)].append(each)
        for (meant_for, _), letters in ready.items():
            could[meant_for] += len(letters)
            if back is not None:
                back.put(letters)
    if back is not None:
        back.finish()
    return Replayed(
        topic=topic, dry_run=dry_run, read=count["read"], kept=dict(kept),
        replayed=dict(could if back is None else back.delivered),
        failed={} if back is None else dict(back.failed),
        packets=count["packets"], skipped=count["skipped"], unreadable=count["unreadable"],
    )  # fmt: skip


class _Back:
    """The way back: a producer that counts what was delivered, and what was not and why."""

    def __init__(
        self,
        settings: KafkaSettings,
        servers: str,
        dead_letters: str,
        notify: Callable[[str], None],
    ) -> None:
        self._settings, self._servers = settings, servers
        self.delivered: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        config = producer_properties(settings, servers) | {"delivery.report.only.error": False}
        self._trouble: Trouble = config["error_cb"]
        meant = [t.name for t in TOPICS.values() if t.dead_letters == dead_letters]
        self._layouts = kafka_topics.ensure(settings, servers, meant, notify)
        self._encode = kafka_topics.encoder(settings)
        config["batch.size"] = kafka_topics.batch_bytes(settings, self._layouts)
        # Brokers refuse a batch whole, and anybody can write a letter that is refused again.
        config["batch.num.messages"] = 1
        config["max.in.flight"] = 1  # of several, the first may be lost (`connectors.openings`)
        self._lane = Lane(config)
        self._producer = self._lane.producer
        connect(self._producer, config, settings.connect_s, failure=SinkError, cure=CURE)

    def put(self, letters: list[Undeliverable]) -> None:
        """Send records of one topic; what finds no room waits for it."""
        self._lane.serve(0.0)
        out = self._outgoing(letters)
        name = topic_name(self._settings, out.topic)
        for row in range(len(out)):
            report = partial(self._report, out.topic, out.rows[row])
            while True:
                try:
                    # Whose stubs allow no less than `None`.
                    headers: Any = out.headers[row] if out.headers else None
                    self._producer.produce(
                        name, out.values[row], out.keys[row], out.partitions[row],
                        on_delivery=report, timestamp=out.timestamps_ms[row], headers=headers,
                    )  # fmt: skip
                except BufferError:
                    self._lane.serve(_SLICE_S)
                except KafkaException as error:  # refused by the client itself: too large
                    self._failed(error.args[0], out.rows[row])
                    break
                else:
                    break

    def finish(self) -> None:
        """Wait for every delivery report; each comes within `kafka.delivery_s`."""
        while len(self._lane):
            self._lane.serve(_SLICE_S, hurry=True)

    def _outgoing(self, letters: list[Undeliverable]) -> Outgoing:
        """Return records as the sink would send them."""
        batch = records(letters)
        if self._settings.format == "arrow" and all(map(_is_text, letters)):
            return self._encode(self._layouts[batch.topic], batch)
        out = json_messages(batch, self._settings.headers)
        out.keys = [each.key_bytes for each in letters]  # of which one may be none
        return out

    def _report(self, topic: str, rows: int, error: KafkaError | None, message: Message) -> None:
        del message
        if error is None:
            self.delivered[topic] += rows
        else:
            self._failed(error, rows)

    def _failed(self, error: KafkaError, rows: int) -> None:
        self.failed[self._trouble.text(self._lane.fatal or error)] += rows


def _is_text(each: Undeliverable) -> bool:
    """Tell whether a record may stand in an Arrow stream; else it would spoil all that do."""
    try:
        each.value.decode()
        (each.key_bytes or b"").decode()
    except UnicodeDecodeError:
        return False
    return True
