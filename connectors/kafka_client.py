"""Clients of Kafka: their properties, and the first word with the brokers.

Laws:

1. A producer waits for all replicas and writes each record once, in order; nothing under
   `kafka.options` lowers that.
2. What cannot work is refused before anything starts (`check`); what the network refuses is named
   by its real cause, as the brokers or the system put it (`Trouble`).
3. A client never writes to standard error, and no message quotes a secret.

Not here: which properties a user may set (`connectors.kafka_options`); topics
(`connectors.kafka_topics`).

Source: librdkafka 2.16, CONFIGURATION.md and INTRODUCTION.md, "Idempotent Producer".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from connectors import kafka_options
from connectors.clock import monotonic_ns
from core.errors import RunError, SettingError, SinkError
from core.nearest import meant
from core.plain import plain
from core.topics import TOPICS

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.admin._metadata import ClusterMetadata

    from core.sections import KafkaSettings

T = TypeVar("T")

CURE = "start one, or name another"
"""What a user may do when no broker answers."""
SINK_CURE = CURE + " --sink"
"""The same, of the sink of a run."""

_FETCHES = {
    # What is fetched together is unpacked together, and 1 MB may become 1 GB. A batch that is
    # larger comes alone.
    "fetch.message.max.bytes": "262144",
    "fetch.max.bytes": "1048576",
    "queued.max.messages.kbytes": "32768",
}
"""What bounds the memory of a consumer, unless the user has set it under `kafka.options`."""
_SLICE_S = 0.5
"""Longest wait inside librdkafka, where signals are not heard."""
_AGAIN_S = 0.05
_PASSING = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
)
"""What is said of partitions that are changing hands, or have only just been made."""
_HOW_LONG = re.compile(r" *\(after \d+ms in state [^()]*(?:\(s\)[^()]*)?\)")
_BOOTSTRAP = re.compile(r"^(?:\w+://)?\S+?/bootstrap: ")
_ADVERTISED = re.compile(r"^(?:\w+://)?(\S+?)/\d+: ")
_CONNECT = re.compile(r"Connect to \S+ failed: ")
_WRONG_PROTOCOL = re.compile(
    r"security\.protocol|(?:PLAINTEXT broker|SSL) listener|^(?:Disconnected|Send failed)"
)


class Trouble:
    """What a client last complained of: `error_cb` and `logger` in one, which only remember.

    Args:
        secrets: Values that must not be quoted.

    Attributes:
        fatal: The error after which the client does nothing more, if there was one.
    """

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        self._secrets = secrets
        self._last: KafkaError | None = None
        self._logged = ""
        self.fatal: KafkaError | None = None

    def __call__(self, error: KafkaError) -> None:
        """Remember an error; librdkafka calls this while the client is polled."""
        # That all are down says less than why one of them is.
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._last = error
        if error.fatal():
            self.fatal = error

    def log(self, level: int, form: str, facility: str, client: str, line: str) -> None:
        """Remember why a connection failed; some reasons are only ever logged."""
        del level, form, client
        if facility == "FAIL":
            self._logged = line.partition("]: ")[2]

    def forget(self) -> None:
        """Forget what is over."""
        self._last, self._logged = None, ""

    def text(self, error: KafkaError | str) -> str:
        """Return what an error says, as part of one line that holds no secret."""
        said = error if isinstance(error, str) else error.str()
        said = _HOW_LONG.sub("", kafka_options.hidden(said, self._secrets))
        if _BOOTSTRAP.match(said):  # whose address the user gave
            said = _BOOTSTRAP.sub("", said)
        else:
            said = _ADVERTISED.sub(r"\1: ", said)
        return plain(" ".join(_CONNECT.sub("", said).split())).rstrip(".: ")

    def cause(self, error: KafkaError | str) -> str:
        """Return what was last complained of, or else the text of the error given."""
        return self.text(self._last or self._logged or error)

    def cure(self, cure: str) -> str:
        """Return what may help against it, or else the cure given."""
        code = self._last.code() if self._last is not None else KafkaError.NO_ERROR
        said = self._last.str() if self._last is not None else self._logged
        if _WRONG_PROTOCOL.search(_BOOTSTRAP.sub("", said)):
            return "check security.protocol under kafka.options"
        if code in (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED):
            return "check sasl.* under kafka.options"
        if code == KafkaError._SSL:
            return "check ssl.* under kafka.options"
        if _ADVERTISED.match(said) and not _BOOTSTRAP.match(said):
            return "see that this address, which the brokers advertise, can be reached from here"
        return cure


def properties(settings: KafkaSettings, servers: str) -> dict[str, Any]:
    """Return what every client is built with.

    Args:
        settings: Section `kafka` of the settings.
        servers: `host:port`, separated by commas; empty for a client that stays alone.

    Returns:
        Properties, to be extended and given to a client; `error_cb` is a `Trouble`.

    Raises:
        SettingError: Something under `kafka.options` is not the user's to set, or cannot be read.
    """
    options = kafka_options.resolve(settings.options)
    trouble = Trouble(options.secrets)
    return {
        "client.id": "penstock",
        **options.values,
        **({"bootstrap.servers": servers} if servers else {}),
        "allow.auto.create.topics": "false",
        "logger": trouble,
        "error_cb": trouble,
    }


def producer_properties(settings: KafkaSettings, servers: str) -> dict[str, Any]:
    """Return what the producer is built with; see `properties`."""
    if settings.linger_ms >= settings.delivery_s * 1000:
        raise SettingError(
            f"kafka.linger_ms: {settings.linger_ms} is as long as kafka.delivery_s, "
            f"{settings.delivery_s} s; make it shorter"
        )
    return properties(settings, servers) | {
        "acks": "all",
        "enable.idempotence": "true",
        "linger.ms": settings.linger_ms,
        "batch.size": settings.batch_bytes,
        "message.max.bytes": settings.message_bytes_max,
        "compression.type": settings.compression,
        "queue.buffering.max.messages": settings.queue_len_max,
        "queue.buffering.max.kbytes": settings.queue_bytes_max >> 10,
        "delivery.timeout.ms": settings.delivery_s * 1000,
        "delivery.report.only.error": True,
        "partitioner": "murmur2_random",
        "statistics.interval.ms": 1000,
    }


def consumer_properties(settings: KafkaSettings, servers: str, group: str) -> dict[str, Any]:
    """Return what a consumer is built with, which reads whole topics and commits nothing.

    Args:
        settings: Section `kafka` of the settings.
        servers: As for `properties`.
        group: Name of its group, which librdkafka asks for and the brokers never see.

    Returns:
        As `properties`.

    Raises:
        SettingError: As `properties`.
    """
    return (
        _FETCHES
        | properties(settings, servers)
        | {
            "group.id": group,
            "enable.auto.commit": "false",
            "enable.auto.offset.store": "false",
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.partition.eof": "true",
        }
    )


def check(settings: KafkaSettings) -> None:
    """Refuse settings that no client can be built with; no broker is spoken to.

    Args:
        settings: Section `kafka` of the settings.

    Raises:
        SettingError: One line; the first problem found.
    """
    _check_topics(settings.topics)
    producer = producer_properties(settings, "")
    consumer = consumer_properties(settings, "", "penstock")
    built(Producer, producer)
    built(Consumer, consumer).close()


def built(kind: Callable[[dict[str, Any]], T], config: Mapping[str, Any]) -> T:
    """Return a client.

    Args:
        kind: What it is to be.
        config: What `properties` returned, extended.

    Raises:
        SettingError: librdkafka refuses the properties.
    """
    try:
        return kind(dict(config))
    except KafkaException as error:
        raise _refused(error, config) from None  # the traceback would hold what librdkafka quotes


def _refused(error: KafkaException, config: Mapping[str, Any]) -> SettingError:
    """Return why librdkafka builds no client with these properties, in one line."""
    text = config["logger"].text(error.args[0])
    text = re.sub("Failed to create (?:producer|consumer): ", "", text)
    named = re.search(r'property:? "([^"]+)"', text)
    at = f'kafka.options."{named[1]}"' if named else "kafka.options"
    if named and text.startswith("No such"):
        hint = meant(named[1], kafka_options.KNOWN, "its CONFIGURATION.md has them all")
        return SettingError(f"{at}: unknown to librdkafka; {hint}")
    return SettingError(f"{at}: refused by librdkafka: {text}; correct it")


def topic_name(settings: KafkaSettings, canonical: str) -> str:
    """Return what a topic is called by the brokers."""
    return settings.topics.get(canonical, canonical)


def canonical_name(settings: KafkaSettings, name: str) -> str:
    """Return what a topic of the brokers is called here; its own name when it is none of ours."""
    return {other: ours for ours, other in settings.topics.items()}.get(name, name)


def connect(
    client: Producer | Consumer | AdminClient,
    config: Mapping[str, Any],
    connect_s: float,
    *,
    failure: type[RunError] = SinkError,
    cure: str = SINK_CURE,
) -> ClusterMetadata:
    """Wait for the first answer of a broker.

    Args:
        client: A client built with `config`, not used before.
        config: The properties of `properties` and the like, `error_cb` as it is there.
        connect_s: Longest wait, s.
        failure: What to raise: `SinkError`, or `SourceError` for what reads.
        cure: What the user may do when nothing answers.

    Returns:
        What the brokers say of themselves and their topics.

    Raises:
        RunError: None answered, of the kind `failure`; one line with the real cause.
    """
    trouble: Trouble = config["error_cb"]
    end_ns = monotonic_ns() + int(connect_s * 1e9)
    while True:
        left_s = max(0.0, (end_ns - monotonic_ns()) / 1e9)
        try:
            answer = client.list_topics(timeout=min(_SLICE_S, left_s))
        except KafkaException as error:
            client.poll(0)  # which calls `trouble`
            if left_s <= _SLICE_S or trouble.fatal:
                raise failure(_no_answer(config, connect_s, error.args[0], cure)) from None
        else:
            trouble.forget()
            return answer


def settled(client: Producer | Consumer | AdminClient, connect_s: float, ask: Callable[[], T]) -> T:
    """Ask again while partitions change hands, or have only just been made.

    Args:
        client: Who asks; polled meanwhile.
        connect_s: How long to go on, s.
        ask: Asks once.

    Raises:
        KafkaException: What `ask` raises, for another reason or for too long.
    """
    end_ns = monotonic_ns() + int(connect_s * 1e9)
    while True:
        try:
            return ask()
        except KafkaException as error:
            if error.args[0].code() not in _PASSING or monotonic_ns() > end_ns:
                raise
        client.poll(_AGAIN_S)


def _no_answer(config: Mapping[str, Any], connect_s: float, error: KafkaError, cure: str) -> str:
    trouble: Trouble = config["error_cb"]
    servers = config.get("bootstrap.servers", "")
    return (
        f"kafka://{servers}: no broker answered within {connect_s:g} s "
        f"({trouble.cause(error)}); {trouble.cure(cure)}"
    )


def _check_topics(topics: Mapping[str, str]) -> None:
    """Refuse other names for topics that do not exist, or that two topics would share."""
    taken = {topics.get(ours, ours): ours for ours in TOPICS}
    for ours, name in topics.items():
        at = f'kafka.topics."{plain(ours)}"'
        if ours not in TOPICS:
            hint = meant(ours, TOPICS, f"these are: {', '.join(TOPICS)}")
            raise SettingError(f"{at}: no topic of Penstock; {hint}")
        if name in (".", ".."):
            raise SettingError(f'{at}: "{name}" is no name of a topic; give another')
        if taken[name] != ours:
            raise SettingError(f'{at}: "{name}" names {taken[name]} too; give it another name')
