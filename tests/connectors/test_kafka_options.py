"""Properties of librdkafka: what is refused, what is fetched, and what is never shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import kafka_client, kafka_options
from core.sections import KafkaSettings
from tests.kafka.properties import SECRET, options, refusal

# ---------------------------------------------------------------- what is refused


SETTLED = {
    "client.id": "penstock", "allow.auto.create.topics": "false", "acks": "all",
    "enable.idempotence": "true", "linger.ms": 100, "batch.size": 1_000_000,
    "message.max.bytes": 1_000_000, "compression.type": "lz4",
    "queue.buffering.max.messages": 100_000, "queue.buffering.max.kbytes": 262_144,
    "delivery.timeout.ms": 120_000, "delivery.report.only.error": True,
    "partitioner": "murmur2_random", "statistics.interval.ms": 1000,
}  # fmt: skip
"""What a producer is built with unless the settings say otherwise, and stays so if they do."""


def sent_with(settings: KafkaSettings) -> dict[str, Any]:
    """Check settings; return what the producer is built with."""
    kafka_client.check(settings)
    config = kafka_client.producer_properties(settings, "")
    trouble = (config.pop("logger"), config.pop("error_cb"))
    assert trouble[0] is trouble[1]
    return config


def test_the_defaults_are_fine(silence: None) -> None:
    """Settings as they are build every client, with what the promise needs; nothing is said."""
    assert sent_with(KafkaSettings()) == SETTLED


REFUSED = [
    ({"acks": 1}, '"acks": would let records be lost or change places; leave it out, or say all'),
    ({"acks": 0}, '"acks": would let'),
    ({"request__required__acks": "1"}, '"request.required.acks": would let'),
    ({"enable__idempotence": False}, "leave it out, or say true"),
    ({"max__in__flight": 6}, "leave it out, or say at most 5"),
    ({"max__in__flight__requests__per__connection": "10"}, "say at most 5"),
    ({"retries": 0}, "has a setting of its own; use kafka.delivery_s"),
    ({"message__send__max__retries": 0}, "use kafka.delivery_s"),
    ({"message__timeout__ms": 5}, "use kafka.delivery_s"),
    ({"delivery__timeout__ms": 5}, "use kafka.delivery_s"),
    ({"queue__buffering__max__ms": 5}, "use kafka.linger_ms"),
    ({"linger__ms": 5}, "use kafka.linger_ms"),
    ({"batch__size": 5}, "use kafka.batch_bytes"),
    ({"message__max__bytes": 5000}, "use kafka.message_bytes_max"),
    ({"compression__codec": "lz4"}, "use kafka.compression"),
    ({"compression__type": "lz4"}, "use kafka.compression"),
    ({"queue__buffering__max__messages": 5}, "use kafka.queue_len_max"),
    ({"queue__buffering__max__kbytes": 5}, "use kafka.queue_bytes_max"),
    ({"bootstrap__servers": "a:1"}, "the brokers are named by kafka://HOST:PORT; leave it out"),
    ({"metadata__broker__list": "a:1"}, "the brokers are named by"),
    ({"transactional__id": "x"}, "nothing is written in transactions"),
    ({"group__id": "x"}, "offsets are kept in snapshots"),
    ({"partitioner": "random"}, "keys go to partitions as"),
    ({"test__mock__num__brokers": 1}, "it serves programs only"),
    ({"error_cb": "x"}, "it serves programs only"),
    ({"on_delivery": "x"}, "it serves programs only"),
    ({"default__topic__config": "x"}, "it serves programs only"),
    ({"logger": "x"}, "it serves programs only"),
    ({"plugin__library__paths": "x.so"}, "no code is loaded"),
    ({"debug": "all"}, "what librdkafka logs is not shown"),
    ({"sasl__pasword": "x"}, "unknown to librdkafka; did you mean sasl.password?"),
    ({"securty__protocol": "ssl"}, "did you mean security.protocol?"),
    ({"kwx__kwx": "x"}, "unknown to librdkafka; its CONFIGURATION.md has them all"),
    ({"socket__timeout__ms": 1}, '"socket.timeout.ms": refused by librdkafka: Configuration prop'),
    ({"socket__timeout__ms": "soon"}, '"socket.timeout.ms": refused by librdkafka: Invalid value'),
    ({"security__protocol": "tls"}, "refused by librdkafka"),
    (
        {"security__protocol": "ssl", "ssl__ca__location": "/no.pem"},
        '"ssl.ca.location": /no.pem cannot be read: No such file or directory; name a readable f',
    ),
    ({"ssl__key__location": "/no/k\n"}, '"ssl.key.location": /no/k\\U0000000a cannot be read: No'),
    ({"sasl__kerberos__keytab": "/no.tab"}, '"sasl.kerberos.keytab": /no.tab cannot be read: No'),
    ({"security__protocol": "ssl", "ssl__ca__location": __file__}, "ssl.ca.location failed"),
    ({"security__protocol": "sasl_ssl", "sasl__mechanism": "NONE"}, "Unsupported SASL mechanism"),
    ({"client__id": "a\0b"}, "its value is not text; give one without NUL"),
    ({"sasl__password": {}}, "is kept in no place, or in two; say env or file"),
    ({"sasl__password": {"env": "A", "file": "B"}}, "is kept in no place, or in two"),
]


@pytest.mark.parametrize(
    ("found", "line"), REFUSED, ids=[str(index) for index in range(len(REFUSED))]
)
def test_what_is_refused(found: dict[str, Any], line: str, silence: None) -> None:
    """One line names the property and what to do instead, under whichever of its names."""
    seen = refusal(options(**found))
    assert line in seen
    assert seen.startswith("kafka.options")


ACCEPTED: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"acks": "all"}, {}),
    ({"acks": -1}, {}),
    ({"request__required__acks": "ALL"}, {"request.required.acks": "ALL"}),
    ({"enable__idempotence": True}, {}),
    ({"max__in__flight": 5}, {"max.in.flight": "5"}),
    ({"client__id": "mine"}, {"client.id": "mine"}),
    (
        {"batch__num__messages": 100, "compression__level": 3, "retry__backoff__ms": 200},
        {"batch.num.messages": "100", "compression.level": "3", "retry.backoff.ms": "200"},
    ),
    (
        {"fetch__min__bytes": 100, "check__crcs": True, "queued__min__messages": 5},
        {"fetch.min.bytes": "100", "check.crcs": "true", "queued.min.messages": "5"},
    ),
    (
        {"socket__keepalive__enable": True, "broker__address__family": "v4"},
        {"socket.keepalive.enable": "true", "broker.address.family": "v4"},
    ),
]


@pytest.mark.parametrize(
    ("found", "more"), ACCEPTED, ids=[str(index) for index in range(len(ACCEPTED))]
)
def test_what_is_accepted(found: dict[str, Any], more: dict[str, str], silence: None) -> None:
    """What keeps the promise may be said aloud; one kind of client ignores what is the other's."""
    settings = options(**found)
    assert sent_with(settings) == SETTLED | more
    read_with = kafka_client.consumer_properties(settings, "", "g")
    assert {name: read_with[name] for name in more} == more


def test_a_record_must_be_able_to_wait_as_long_as_it_lingers() -> None:
    """Waiting for a batch may not take as long as delivery may."""
    line = refusal(KafkaSettings(linger_ms=1000, delivery_s=1))
    assert line == "kafka.linger_ms: 1000 is as long as kafka.delivery_s, 1 s; make it shorter"


# ---------------------------------------------------------------- what is kept elsewhere


def test_values_kept_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value is read from a variable, or from a file less the end of its line."""
    monkeypatch.setenv("KAFKA_PASSWORD", SECRET)
    file = tmp_path / "name"
    file.write_bytes(b"alice\r\n")
    found = kafka_options.resolve(
        {"sasl.password": {"env": "KAFKA_PASSWORD"}, "sasl.username": {"file": str(file)}}
    )
    assert found.values == {"sasl.password": SECRET, "sasl.username": "alice"}
    assert set(found.secrets) == {SECRET, "alice"}


def test_places_that_hold_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is not set, and a file that is missing, too large or no text, are refused."""
    monkeypatch.delenv("KAFKA_PASSWORD", raising=False)
    large, binary = tmp_path / "large", tmp_path / "binary"
    large.write_bytes(b"x" * (kafka_options.SECRET_BYTES_MAX + 1))
    binary.write_bytes(b"\xff\xfe")
    for place, line in [
        ({"env": "KAFKA_PASSWORD"}, "the variable KAFKA_PASSWORD is not set; set it"),
        ({"file": str(tmp_path / "no")}, "cannot be read: No such file or directory; name a read"),
        ({"file": str(tmp_path)}, "cannot be read: Is a directory"),
        ({"file": "a\0b"}, "cannot be read: "),
        ({"file": str(large)}, "is larger than 65536 bytes; name the right file"),
        ({"file": str(binary)}, "its value is not text"),
    ]:
        assert line in refusal(options(sasl__password=place))
    large.write_bytes(b"x" * kafka_options.SECRET_BYTES_MAX)
    assert kafka_options.resolve({"ssl.ca.pem": {"file": str(large)}}).values["ssl.ca.pem"]


@pytest.mark.parametrize(
    "found",
    [
        {"security__protocol": "ssl", "ssl__key__pem": SECRET},
        {"security__protocol": "ssl", "ssl__ca__pem": {"env": "KAFKA_SECRET"}},
        {"socket__timeout__ms": {"env": "KAFKA_NUMBER"}},
        {"security__protocol": {"env": "KAFKA_SECRET"}},
        {"security__protocol": "sasl_ssl", "sasl__mechanism": {"env": "KAFKA_SECRET"}},
    ],
)
def test_a_refusal_quotes_no_secret(
    found: dict[str, Any], monkeypatch: pytest.MonkeyPatch, silence: None
) -> None:
    """What librdkafka says of a bad value goes out without the value."""
    monkeypatch.setenv("KAFKA_SECRET", SECRET)
    monkeypatch.setenv("KAFKA_NUMBER", "987654321")
    line = refusal(options(**found))
    assert "987654321" not in line
    assert not any(word in line for word in SECRET.split())


@given(st.text(min_size=1, max_size=40), st.text(max_size=20), st.text(max_size=20), st.data())
def test_no_part_of_a_secret_is_shown(
    secret: str, before: str, after: str, data: st.DataObject
) -> None:
    """Six characters of a secret in a row, or all of a shorter one, are never left in a text."""
    start = data.draw(st.integers(0, len(secret)))
    shown = kafka_options.hidden(before + secret[start:] + after, [secret])
    length = min(6, len(secret))
    # What is left lies between the places where something was taken out.
    for left in shown.split("(not shown)"):
        parts = {left[at : at + length] for at in range(len(left) - length + 1)}
        assert not any(part in secret for part in parts)
