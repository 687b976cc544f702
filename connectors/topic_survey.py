"""A topic before it is read: whether it is there, what it says it is, and how far it goes.

Laws:

1. Every wait is bounded by `kafka.connect_s`, and what fails is one line with its real cause.
2. Ends are those of what is committed: a transaction that is open, and all that follows it, lies
   beyond them.
3. A topic is told from another of its name by an identity of its own, where the brokers have one.

Not here: reading it (`connectors.topic_feed`).

Source: KIP-98 for the last stable offset; KIP-516 for the identity of topics.
"""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from confluent_kafka import (
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, though its stubs hide it
    OffsetSpec,
)

from connectors.kafka_brokers import asked
from connectors.kafka_client import CURE, SINK_CURE, settled
from connectors.kafka_reader import TopicReader
from core.errors import SinkError, SourceError
from core.kafka_address import SCHEME, KafkaAddress
from core.nearest import meant

if TYPE_CHECKING:
    from core.sections import KafkaSettings
    from core.values import Headers

GROUP = "penstock-replay"
"""Of consumers, which librdkafka asks for and the brokers never see."""

_TYPE_BYTES_MAX = 256


class Extent(NamedTuple):
    """How far the partitions of a topic go.

    Attributes:
        low: Offset of the first record of each.
        high: Offset after the last one that is committed.
        hidden: Records, about, that lie behind a transaction that is open.
    """

    low: tuple[int, ...]
    high: tuple[int, ...]
    hidden: int


class Survey:
    """A topic as it is before it is read.

    Args:
        settings: Section `kafka` of the settings.
        address: Brokers and topic.

    Attributes:
        address: As given.
        cluster: Identity of the cluster.
        topic_id: Identity of the topic, which another of the same name does not have; empty where
            the brokers have none.
        partitions: How many it has.

    Raises:
        SettingError: The settings allow no client.
        SourceError: No broker answers, or it has no such topic for us.
    """

    def __init__(self, settings: KafkaSettings, address: KafkaAddress) -> None:
        self.address = address
        self._settings = settings
        self._client, self._trouble, answer = asked(settings, address.servers, SourceError, CURE)
        found = answer.topics.get(address.topic)
        if found is None or not found.partitions:
            lists = f"penstock topics describe {SCHEME}{address.servers} lists Penstock's"
            hint = meant(address.topic, answer.topics, lists)
            raise SourceError(f"{full(address)}: there is no such topic; {hint}")
        if found.error is not None:
            raise unreadable(address, self._trouble.text(found.error))
        self._again: Future[Any] | None = None
        self.cluster = _identity(answer)
        self.partitions = len(found.partitions)
        self.topic_id = self._topic_id()

    def _topic_id(self) -> str:
        try:
            return str(self._described().result(self._settings.connect_s).topic_id or "")
        except (KafkaException, TimeoutError):
            return ""  # from brokers that know no such request, or do not let us

    def _described(self) -> Future[Any]:
        asked = self._client.describe_topics(
            TopicCollection([self.address.topic]), request_timeout=self._settings.connect_s
        )
        return asked[self.address.topic]

    def is_same(self, wait_s: float) -> bool | None:
        """Tell whether the topic is still the one it was, as far as the brokers say.

        Args:
            wait_s: Longest wait.

        Returns:
            `None` while they have not answered; to be asked again then.
        """
        if not self.topic_id:
            return True
        self._again = self._again or self._described()
        try:
            described = self._again.result(wait_s)
        except TimeoutError:
            return None
        except KafkaException as error:
            self._again = None
            # Whoever does not answer has not said that it is another.
            return bool(error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART)
        self._again = None
        return str(described.topic_id) == self.topic_id

    def extent(self) -> Extent:
        """Ask how far the partitions go now.

        Raises:
            SourceError: The brokers do not say.
        """
        # In this order: what is written meanwhile is not taken for hidden.
        low, written, high = (
            self._offsets(spec(), level)  # type: ignore[no-untyped-call]  # theirs has no types
            for spec, level in (
                (OffsetSpec.earliest, IsolationLevel.READ_COMMITTED),
                (OffsetSpec.latest, IsolationLevel.READ_UNCOMMITTED),
                (OffsetSpec.latest, IsolationLevel.READ_COMMITTED),
            )
        )
        return Extent(low, high, sum(max(0, w - h) for w, h in zip(written, high, strict=True)))

    def _offsets(self, spec: OffsetSpec, level: IsolationLevel) -> tuple[int, ...]:
        wait_s = self._settings.connect_s
        parts = [TopicPartition(self.address.topic, each) for each in range(self.partitions)]

        def ask() -> tuple[int, ...]:
            asked = self._client.list_offsets(
                dict.fromkeys(parts, spec),
                isolation_level=level,
                request_timeout=wait_s,
            )
            return tuple(asked[part].result(wait_s).offset for part in parts)

        try:
            return settled(self._client, wait_s, ask)
        except KafkaException as error:
            raise unreadable(self.address, self._trouble.text(error.args[0])) from None
        except TimeoutError:
            raise unreadable(self.address, "no answer in time") from None

    def said_type(self) -> str:
        """Return what the first message that comes says it is (`ce_type`).

        Returns:
            A name of a topic, as a rule; empty when there is no message, or it says nothing.

        Raises:
            SourceError: The brokers do not send one.
        """
        reader = TopicReader(self._settings, self.address.servers, self.address.topic)
        with closing(reader.read()) as messages:
            first = next(messages, None)
        headers = headers_of(first) if first is not None else None
        said = dict(headers or ()).get("ce_type") or b""
        return said[:_TYPE_BYTES_MAX].decode(errors="replace")


def headers_of(message: Message) -> Headers | None:
    """Return the headers of a message, if it has any and all their names are text."""
    try:
        found: Any = message.headers()  # whose stubs allow more than there is
    except (SystemError, UnicodeDecodeError):  # of a name that is not UTF-8
        return None
    return cast("Headers | None", found)


def cluster_of(settings: KafkaSettings, servers: str) -> str:
    """Return the identity of the cluster that a sink writes to, as `Survey.cluster`.

    Raises:
        SinkError: No broker answers.
    """
    return _identity(asked(settings, servers, SinkError, SINK_CURE)[2])


def full(address: KafkaAddress) -> str:
    """Return an address as it is written."""
    return f"{SCHEME}{address.servers}/{address.topic}"


def unreadable(address: KafkaAddress, why: str) -> SourceError:
    """Return the error of a topic that the brokers do not let us read."""
    return SourceError(
        f"{full(address)}: cannot be read ({why}); see to the brokers, and to our right to "
        "Read and Describe it"
    )


def _identity(answer: Any) -> str:
    """Return what tells a cluster from others: its id, or else where its brokers are."""
    named: str = answer.cluster_id or ",".join(
        sorted(f"{each.host}:{each.port}" for each in answer.brokers.values())
    )
    return named
