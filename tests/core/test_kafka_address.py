"""Addresses of Kafka: every text is an address or one line that says what would be one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UsageError
from core.kafka_address import KafkaAddress, is_kafka, parse


@pytest.mark.parametrize(
    ("text", "servers", "topic"),
    [
        ("kafka://broker:9093", "broker:9093", ""),
        ("kafka://broker", "broker:9092", ""),
        ("kafka://a:1,b,10.0.0.1:65535", "a:1,b:9092,10.0.0.1:65535", ""),
        ("kafka://[::1]:9092", "[::1]:9092", ""),
        ("kafka://[fe80::1%eth0]", "[fe80::1%eth0]:9092", ""),
        ("kafka://a:1/telemetry.readings.v1", "a:1", "telemetry.readings.v1"),
    ],
)
def test_addresses(text: str, servers: str, topic: str) -> None:
    """Several brokers, IPv6 in brackets, a port of 9092 where none is named, perhaps a topic."""
    assert parse(text, topic=bool(topic)) == KafkaAddress(servers, topic)


@pytest.mark.parametrize(
    "text",
    [
        "", "kafka:", "kafka://", "kafka://:9092", "kafka://a:0", "kafka://a:65536", "kafka://a:b",
        "kafka://a,,b", "kafka://a b", "kafka://user:pw@a:1", "kafka://a:1/", "kafka://a:1/t",
        "http://a:1", "kafka://::1:9092", "kafka://a:1?x", "kafka://a:999999",
    ],
)  # fmt: skip
def test_what_is_no_address_of_brokers(text: str) -> None:
    """One line names what is wrong and shows what is wanted."""
    with pytest.raises(UsageError) as caught:
        parse(text, topic=False)
    assert "want kafka://HOST:PORT" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_may_be_a_password_is_not_quoted() -> None:
    """A user and a password in front of a broker are refused without a word of them."""
    with pytest.raises(UsageError, match=r"sasl\.password") as caught:
        parse("kafka://user:hunter2@a:1", topic=False)
    assert "hunter2" not in str(caught.value)


NO_TOPICS = ["", "/", "/.", "/..", "/a/b", "/ä", "/" + "x" * 250]


@pytest.mark.parametrize("rest", NO_TOPICS)
def test_what_is_no_topic(rest: str) -> None:
    """A topic has a name that Kafka allows."""
    with pytest.raises(UsageError, match=r"want kafka://.*/TOPIC"):
        parse("kafka://a:1" + rest, topic=True)


@given(st.text(), st.booleans())
def test_any_text_gives_an_address_or_one_line(text: str, topic: bool) -> None:
    """Nothing else is raised, and the line can be printed."""
    for each in (text, "kafka://" + text):
        line, found = "", None
        try:
            found = parse(each, topic=topic)
        except UsageError as error:
            line = str(error)
        assert line.isprintable()
        assert (found is not None and is_kafka(each) and bool(found.topic) == topic) != bool(line)
