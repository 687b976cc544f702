"""Addresses of Kafka: `kafka://HOST:PORT[,HOST:PORT…][/TOPIC]`, as flags and settings have them.

Law: whatever the text, the result is an address or one `UsageError` that says what would be one.

Source: Apache Kafka, `bootstrap.servers`; names of topics as `org.apache.kafka.common.internals.
Topic` has them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from core.errors import UsageError
from core.plain import plain

SCHEME = "kafka://"
PORT = 9092
"""Where brokers listen when nothing else is said."""

NO_LOGIN = "an address of Kafka has no @; give sasl.username and sasl.password under kafka.options"
"""Said of one that has, which is not quoted."""

_SERVER = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%a-z]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_WANT = "want kafka://HOST:PORT[,HOST:PORT]"


class KafkaAddress(NamedTuple):
    """Where brokers are, and perhaps one topic of theirs.

    Attributes:
        servers: `host:port`, separated by commas; for `bootstrap.servers`.
        topic: Name of the topic, empty when none was named.
    """

    servers: str
    topic: str = ""


def is_kafka(text: str) -> bool:
    """Tell whether a text is meant to be such an address."""
    return text.startswith(SCHEME)


def parse(text: str, *, topic: bool) -> KafkaAddress:
    """Take an address apart.

    Args:
        text: `kafka://HOST:PORT[,HOST:PORT…][/TOPIC]`; without a port it is 9092.
        topic: Whether a topic has to be named; else none may be.

    Returns:
        The address, every server with its port.

    Raises:
        UsageError: It is none.
    """
    want = _WANT + "/TOPIC" * topic
    if not is_kafka(text):
        raise UsageError(f"{plain(text)}: not an address of Kafka; {want}")
    if "@" in text:  # what stands before it may be a password
        raise UsageError(f"{NO_LOGIN}; {want}")
    servers, slash, name = text.removeprefix(SCHEME).partition("/")
    if topic and not name:
        raise UsageError(f"{plain(text)}: names no topic; {want}")
    if (slash and not topic) or (topic and not _TOPIC.fullmatch(name)) or name in (".", ".."):
        raise UsageError(f"{plain(text)}: {plain(slash + name)} does not belong there; {want}")
    found = []
    for server in servers.split(","):
        match = _SERVER.fullmatch(server)
        if match is None or not 1 <= int(match["port"] or PORT) <= 65_535:
            raise UsageError(f"{plain(text)}: {plain(server) or 'nothing'} is no broker; {want}")
        found.append(f"{match['host']}:{match['port'] or PORT}")
    return KafkaAddress(",".join(found), name)
