"""What may stand under `kafka.options`: librdkafka's properties, less those that are ours.

Laws:

1. A property that has a setting of its own, that the promise of delivery rests on, or that only
   code can give, is refused in one line that says what to do instead; whatever name it goes by.
2. A secret is read where its place says, bounded, and never quoted: not by us, and not by what
   librdkafka says of it (`hidden`).

Not here: what librdkafka itself refuses (`connectors.kafka_client`).

Source: librdkafka 2.16, CONFIGURATION.md.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from core.config import SECRET
from core.errors import SettingError
from core.plain import plain

Value = str | int | float | bool | dict[Literal["env", "file"], str]
"""What the settings hold for a property: a value, or the place where it is kept."""

SECRET_BYTES_MAX = 65_536
"""Largest file that a value is read from."""

_CLUE_LEN = 6
"""As many characters of a secret, in a row, are not shown."""

_SETTINGS = {
    "linger.ms": "kafka.linger_ms",
    "queue.buffering.max.ms": "kafka.linger_ms",
    "batch.size": "kafka.batch_bytes",
    "message.max.bytes": "kafka.message_bytes_max",
    "compression.type": "kafka.compression",
    "compression.codec": "kafka.compression",
    "queue.buffering.max.messages": "kafka.queue_len_max",
    "queue.buffering.max.kbytes": "kafka.queue_bytes_max",
    "delivery.timeout.ms": "kafka.delivery_s",
    "message.timeout.ms": "kafka.delivery_s",
    "message.send.max.retries": "kafka.delivery_s",
    "retries": "kafka.delivery_s",
}
"""Properties that have a setting of their own."""

_WHOLE = {
    "acks": ("all", "-1"),
    "request.required.acks": ("all", "-1"),
    "enable.idempotence": ("true", "t", "1"),
    "max.in.flight": tuple("12345"),
    "max.in.flight.requests.per.connection": tuple("12345"),
}
"""Properties that delivery rests on, with the values that keep it whole."""

_OURS = {
    "bootstrap.servers": "the brokers are named by kafka://HOST:PORT",
    "metadata.broker.list": "the brokers are named by kafka://HOST:PORT",
    "transactional.id": "nothing is written in transactions",
    "transaction.timeout.ms": "nothing is written in transactions",
    "partitioner": "keys go to partitions as Java's clients have it",
    "statistics.interval.ms": "what was delivered is counted by it",
    "delivery.report.only.error": "what was delivered is counted by it",
    "queuing.strategy": "records keep their order",
    "allow.auto.create.topics": "topics are created by kafka.create_topics",
    "group.id": "offsets are kept in snapshots, not by a group",
    "group.instance.id": "offsets are kept in snapshots, not by a group",
    "group.protocol": "offsets are kept in snapshots, not by a group",
    "enable.auto.commit": "offsets are kept in snapshots",
    "auto.commit.enable": "offsets are kept in snapshots",
    "auto.offset.reset": "a topic is read from its beginning",
    "enable.partition.eof": "a topic is read to its end",
    "isolation.level": "only what was committed is read",
    "plugin.library.paths": "no code is loaded that could see or change records",
    "debug": "what librdkafka logs is not shown",
    "log_level": "what librdkafka logs is not shown",
    "log.queue": "what librdkafka logs is not shown",
    "enabled_events": "it serves programs only",
    "internal.termination.signal": "it serves programs only",
}
"""Properties that are not for the user to choose, and why."""

_CODE = re.compile(
    r"\w*_cb|\w*\.verify_cb|opaque|default_topic_conf|default\.topic\.config|interceptors|logger"
    r"|on_(?:delivery|commit)|msg_order_cmp|ssl_key|ssl_certificate|ssl_ca|ssl_engine_callback_data"
    r"|builtin\.features|test\..*"
)
"""Properties that only code can give, or that only tests of librdkafka need."""

_FILE = re.compile(r"(?:ssl|https)\..*\.location|.*\.(?:keytab|file)")
"""Properties whose value is the path of a file, or of a folder of certificates."""

KNOWN = """
    api.version.fallback.ms api.version.request api.version.request.timeout.ms batch.num.messages
    broker.address.family broker.address.ttl broker.version.fallback check.crcs client.dns.lookup
    client.id client.rack compression.level connections.max.idle.ms enable.gapless.guarantee
    enable.metrics.push enable.random.seed
    enable.ssl.certificate.verification fetch.error.backoff.ms fetch.max.bytes
    fetch.message.max.bytes fetch.min.bytes fetch.queue.backoff.ms fetch.wait.max.ms
    https.ca.location https.ca.pem log.connection.close log.thread.name max.partition.fetch.bytes
    message.copy.max.bytes metadata.max.age.ms metadata.recovery.rebootstrap.trigger.ms
    metadata.recovery.strategy
    queue.buffering.backpressure.threshold
    queued.max.messages.kbytes queued.min.messages receive.message.max.bytes
    reconnect.backoff.max.ms reconnect.backoff.ms request.timeout.ms retry.backoff.max.ms
    retry.backoff.ms sasl.kerberos.keytab sasl.kerberos.kinit.cmd
    sasl.kerberos.min.time.before.relogin sasl.kerberos.principal sasl.kerberos.service.name
    sasl.mechanism sasl.mechanisms sasl.oauthbearer.assertion.algorithm
    sasl.oauthbearer.assertion.claim.aud sasl.oauthbearer.assertion.claim.exp.seconds
    sasl.oauthbearer.assertion.claim.iss sasl.oauthbearer.assertion.claim.jti.include
    sasl.oauthbearer.assertion.claim.nbf.seconds sasl.oauthbearer.assertion.claim.sub
    sasl.oauthbearer.assertion.file sasl.oauthbearer.assertion.jwt.template.file
    sasl.oauthbearer.assertion.private.key.file sasl.oauthbearer.assertion.private.key.passphrase
    sasl.oauthbearer.assertion.private.key.pem sasl.oauthbearer.client.credentials.client.id
    sasl.oauthbearer.client.credentials.client.secret sasl.oauthbearer.client.id
    sasl.oauthbearer.client.secret sasl.oauthbearer.config sasl.oauthbearer.extensions
    sasl.oauthbearer.grant.type sasl.oauthbearer.metadata.authentication.type
    sasl.oauthbearer.method sasl.oauthbearer.scope sasl.oauthbearer.sub.claim.name
    sasl.oauthbearer.token.endpoint.url sasl.password sasl.username security.protocol
    socket.blocking.max.ms socket.connection.setup.timeout.ms socket.keepalive.enable
    socket.max.fails socket.nagle.disable socket.receive.buffer.bytes socket.send.buffer.bytes
    socket.timeout.ms ssl.ca.certificate.stores ssl.ca.location ssl.ca.pem ssl.certificate.location
    ssl.certificate.pem ssl.cipher.suites ssl.crl.location ssl.curves.list
    ssl.endpoint.identification.algorithm ssl.engine.id ssl.engine.location ssl.key.location
    ssl.key.password ssl.key.pem ssl.keystore.location ssl.keystore.password ssl.providers
    ssl.sigalgs.list sticky.partitioning.linger.ms topic.blacklist
    topic.metadata.propagation.max.ms topic.metadata.refresh.fast.interval.ms
    topic.metadata.refresh.interval.ms topic.metadata.refresh.sparse""".split()  # noqa: SIM905  one quoted name a line would be a long page
"""Properties a user may mean, to name the nearest; librdkafka itself says which exist."""


class Resolved(NamedTuple):
    """Properties as librdkafka takes them.

    Attributes:
        values: Each as text, by name.
        secrets: The values that must never be shown.
    """

    values: dict[str, str]
    secrets: tuple[str, ...]


def resolve(options: Mapping[str, Value]) -> Resolved:
    """Check properties by name, and fetch those that are kept elsewhere.

    Args:
        options: `kafka.options` of the settings.

    Returns:
        What to give to librdkafka.

    Raises:
        SettingError: A property is not the user's to set, or its value cannot be fetched.
    """
    values: dict[str, str] = {}
    secrets: list[str] = []
    for name, value in options.items():
        at = f'kafka.options."{plain(name)}"'
        text = _fetched(at, value) if isinstance(value, dict) else _text(value)
        if "\0" in text or not _is_utf8(text):
            raise SettingError(f"{at}: its value is not text; give one without NUL, in UTF-8")
        _check(at, name, text)
        if _FILE.fullmatch(name) and text not in ("", "probe"):
            _see(at, text, "what it names" if isinstance(value, dict) else plain(text))
        values[name] = text
        if text and (isinstance(value, dict) or SECRET.search(name)):
            secrets.append(text)
    return Resolved(values, tuple(secrets))


def hidden(text: str, secrets: Iterable[str]) -> str:
    """Return a text with whatever it quotes of secrets taken out."""
    quoted = bytearray(len(text))
    for secret in secrets:
        length = min(_CLUE_LEN, len(secret))
        for start in range(len(text) - length + 1):
            if text[start : start + length] in secret:
                quoted[start : start + length] = b"\1" * length
    shown = (char if not quoted[at] else "\0" for at, char in enumerate(text))
    return re.sub("\0+", "(not shown)", "".join(shown))


def _check(at: str, name: str, text: str) -> None:
    """Refuse what is not the user's to set."""
    if name in _SETTINGS:
        raise SettingError(f"{at}: has a setting of its own; use {_SETTINGS[name]}")
    if name in _OURS:
        raise SettingError(f"{at}: cannot be set: {_OURS[name]}; leave it out")
    if _CODE.fullmatch(name):
        raise SettingError(f"{at}: cannot be set: it serves programs only; leave it out")
    if name in _WHOLE and text.strip().lower() not in _WHOLE[name]:
        want = "at most 5" if "flight" in name else _WHOLE[name][0]
        raise SettingError(
            f"{at}: would let records be lost or change places; leave it out, or say {want}"
        )


def _see(at: str, path: str, shown: str) -> None:
    """Refuse a file that cannot be opened, of which librdkafka would not say which one."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        raise SettingError(
            f"{at}: {shown} cannot be read: {error.strerror}; name a readable file"
        ) from None  # the traceback would hold the path


def _text(value: str | float) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fetched(at: str, place: dict[Literal["env", "file"], str]) -> str:
    """Return the value that is kept in a variable or a file."""
    if len(place) != 1:
        raise SettingError(f"{at}: is kept in no place, or in two; say env or file")
    [(kind, where)] = place.items()
    if kind == "env":
        if where not in os.environ:
            raise SettingError(f"{at}: the variable {plain(where)} is not set; set it")
        return os.environ[where]
    try:
        with Path(where).open("rb") as stream:
            data = stream.read(SECRET_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise SettingError(
            f"{at}: {plain(where)} cannot be read: {plain(why)}; name a readable file"
        ) from error
    if len(data) > SECRET_BYTES_MAX:
        raise SettingError(
            f"{at}: {plain(where)} is larger than {SECRET_BYTES_MAX} bytes; name the right file"
        )
    return data.decode(errors="surrogateescape").removesuffix("\n").removesuffix("\r")
