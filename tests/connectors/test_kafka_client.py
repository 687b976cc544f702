"""Clients of Kafka: what they are told, what they say when no broker answers, and what never."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka.admin import AdminClient
from hypothesis import given
from hypothesis import strategies as st

from connectors import kafka_client
from connectors.kafka_client import Trouble
from core.errors import RunError, SettingError, SinkError, SourceError
from core.sections import KafkaSettings
from core.topics import TELEMETRY, TOPICS
from tests.conftest import Kafka
from tests.kafka.properties import SECRET, options, refusal
from tests.kafka.security import Security

if TYPE_CHECKING:
    from tests.kafka.broker import Broker


def complaint(settings: KafkaSettings, servers: str, connect_s: float = 1.5) -> str:
    """What a producer says that finds no broker there."""
    config = kafka_client.producer_properties(settings, servers)
    with pytest.raises(SinkError) as caught:
        kafka_client.connect(Producer(config), config, connect_s)
    line = str(caught.value)
    assert line.isprintable()
    return line


# ---------------------------------------------------------------- properties and names


def test_no_option_outdoes_a_setting() -> None:
    """What the settings and the promise say stands, whatever the options are."""
    config = kafka_client.producer_properties(options(acks=-1, enable__idempotence="1"), "a:1")
    assert config["acks"] == "all"
    assert config["enable.idempotence"] == "true"
    assert config["bootstrap.servers"] == "a:1"


def test_each_setting_reaches_the_producer() -> None:
    """Settings become properties, in librdkafka's units."""
    settings = KafkaSettings(
        linger_ms=7, batch_bytes=70_000, message_bytes_max=90_000, compression="zstd",
        queue_len_max=5_000, queue_bytes_max=3 << 20, delivery_s=9,
    )  # fmt: skip
    config = kafka_client.producer_properties(settings, "a:1")
    assert {
        "linger.ms": 7, "batch.size": 70_000, "message.max.bytes": 90_000,
        "compression.type": "zstd", "queue.buffering.max.messages": 5_000,
        "queue.buffering.max.kbytes": 3 << 10, "delivery.timeout.ms": 9_000,
        "delivery.report.only.error": True, "partitioner": "murmur2_random",
        "statistics.interval.ms": 1000, "client.id": "penstock",
    }.items() <= config.items()  # fmt: skip
    Producer(config | {"bootstrap.servers": ""})


def test_a_consumer_commits_nothing_and_reads_all() -> None:
    """A consumer begins at the beginning, reads what was committed, and tells where it ends."""
    config = kafka_client.consumer_properties(KafkaSettings(), "a:1", "g")
    assert {
        "group.id": "g", "enable.auto.commit": "false", "auto.offset.reset": "earliest",
        "isolation.level": "read_committed", "enable.partition.eof": "true",
        "allow.auto.create.topics": "false",
    }.items() <= config.items()  # fmt: skip


@pytest.mark.parametrize(
    ("topics", "line"),
    [
        ({"telemetry.reading.v1": "x"}, f"no topic of Penstock; did you mean {TELEMETRY}?"),
        ({TELEMETRY: ".."}, '".." is no name of a topic'),
        ({TELEMETRY: "security.findings.v1"}, "names security.findings.v1 too; give it another"),
        ({TELEMETRY: "x", "network.flows.v1": "x"}, '"x" names network.flows.v1 too'),
    ],
)
def test_other_names_that_are_refused(topics: dict[str, str], line: str) -> None:
    """Only topics of Penstock get other names, and no two the same."""
    assert line in refusal(KafkaSettings(topics=topics))


@given(st.lists(st.sampled_from([*TOPICS, "a", "b", "c"]), min_size=len(TOPICS)))
def test_names_go_there_and_back(names: list[str]) -> None:
    """Whatever topics are called there, each is known again by its name there."""
    settings = KafkaSettings(topics=dict(zip(TOPICS, names, strict=False)))
    try:
        kafka_client.check(settings)
    except SettingError:
        return
    for ours in TOPICS:
        there = kafka_client.topic_name(settings, ours)
        assert kafka_client.canonical_name(settings, there) == ours
    assert kafka_client.canonical_name(settings, "someone.elses") == "someone.elses"


# ---------------------------------------------------------------- the first word with the brokers


@pytest.mark.parametrize("kind", [Producer, Consumer, AdminClient])
def test_a_broker_answers(kafka: Kafka, kind: Any, silence: None) -> None:
    """Every kind of client is answered, and learns which brokers there are."""
    config = kafka_client.properties(KafkaSettings(), kafka.servers)
    if kind is Consumer:
        config = kafka_client.consumer_properties(KafkaSettings(), kafka.servers, "g")
    answer = kafka_client.connect(kind(config), config, 10)
    assert len(answer.brokers) == 1


def test_one_of_several_answers(kafka: Kafka, closed: str) -> None:
    """A broker that is away does not matter as long as another is there."""
    config = kafka_client.producer_properties(KafkaSettings(), f"{closed},{kafka.servers}")
    kafka_client.connect(Producer(config), config, 10)
    assert config["error_cb"].cause("nothing") == "nothing"


@pytest.fixture
def closed() -> Iterator[str]:
    """An address where nothing listens, and nothing will while the test runs."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def test_nobody_listens(closed: str, silence: None) -> None:
    """The line names the address, the wait, the cause and the cure, and nothing else is said."""
    assert complaint(KafkaSettings(), closed, 1) == (
        f"kafka://{closed}: no broker answered within 1 s (Connection refused); "
        "start one, or name another --sink"
    )


@pytest.mark.parametrize("kind", [Consumer, AdminClient])
def test_other_clients_say_the_same(closed: str, kind: Any, silence: None) -> None:
    """A consumer and an administrator name the cause too, and the cure that is theirs."""
    config = kafka_client.consumer_properties(KafkaSettings(), closed, "g")
    if kind is AdminClient:
        config = kafka_client.properties(KafkaSettings(), closed)
    with pytest.raises(SourceError, match=r"\(Connection refused\); start it$"):
        kafka_client.connect(kind(config), config, 1, failure=SourceError, cure="start it")


def test_a_name_that_does_not_resolve(silence: None) -> None:
    """The system's own word for it is passed on."""
    line = complaint(KafkaSettings(), "no..name:9092")
    assert "(Failed to resolve 'no..name:9092': " in line


@pytest.mark.slow
def test_brokers_that_ask_for_tls_and_a_password(
    own_broker: Callable[..., Broker], tmp_path: Path, silence: None
) -> None:
    """With both a broker answers; without either the line says which, and where to look."""
    security = Security(tmp_path / "tls")
    servers = own_broker(security).servers
    good = security.options()
    line = complaint(KafkaSettings(), servers)
    assert line.endswith("; check security.protocol under kafka.options")
    line = complaint(options(**good | {"ssl.ca.location": str(security.other_ca)}), servers)
    assert "certificate verify failed" in line
    assert line.endswith("; check ssl.* under kafka.options")
    line = complaint(options(**good | {"sasl.password": SECRET}), servers, 4)
    assert "(SASL authentication error: Authentication failed" in line
    assert line.endswith("; check sasl.* under kafka.options")
    assert not any(word in line for word in SECRET.split())
    config = kafka_client.producer_properties(options(**good), servers)
    assert kafka_client.connect(Producer(config), config, 10).brokers


def test_tls_to_a_plain_port(kafka: Kafka, silence: None) -> None:
    """Whoever asked for TLS where there is none is told where to look."""
    line = complaint(options(security__protocol="ssl"), kafka.servers)
    assert line.endswith("; check security.protocol under kafka.options")


def test_a_login_that_fails(kafka: Kafka, monkeypatch: pytest.MonkeyPatch, silence: None) -> None:
    """A failed login is said to be one, without what it was tried with."""
    monkeypatch.setenv("KAFKA_PASSWORD", SECRET)
    settings = options(
        security__protocol="sasl_plaintext", sasl__mechanism="PLAIN", sasl__username="alice",
        sasl__password={"env": "KAFKA_PASSWORD"},
    )  # fmt: skip
    line = complaint(settings, kafka.servers)
    assert "SASL PLAIN" in line
    assert line.endswith("; check sasl.* under kafka.options")
    assert not any(word in line for word in SECRET.split())


def test_a_complaint_quotes_no_secret(kafka: Kafka, silence: None) -> None:
    """What librdkafka quotes of a configuration it cannot read is not in the line."""
    settings = options(
        security__protocol="sasl_plaintext", sasl__mechanism="OAUTHBEARER",
        enable__sasl__oauthbearer__unsecure__jwt=True,
        sasl__oauthbearer__config="principal=me hunter2hunter2=1",
    )  # fmt: skip
    line = complaint(settings, kafka.servers)
    assert "Unrecognized sasl.oauthbearer.config" in line
    assert "hunter2" not in line


REFUSED_AT = "Connect to ipv4#10.0.0.1:9 failed: Connection refused (after 2ms in state CONNECT)"


@pytest.mark.parametrize(
    ("code", "said", "cause", "cure"),
    [
        ("_TRANSPORT", f"10.0.0.1:9/bootstrap: {REFUSED_AT}", "Connection refused", "start one"),
        (
            "_TRANSPORT",
            f"sasl_ssl://10.0.0.1:9/1: {REFUSED_AT}",
            "10.0.0.1:9: Connection refused",
            "see that this address, which the brokers advertise, can be reached from here",
        ),
        (
            "_SSL",
            "ssl://a:1/bootstrap: no (after 0ms in state X, 3 identical error(s) suppressed)",
            "no",
            "check ssl.* under kafka.options",
        ),
        ("_RESOLVE", "x\x1b[0m\n y:", "x\\U0000001b[0m y", "start one"),
    ],
)
def test_what_an_error_says(code: str, said: str, cause: str, cure: str) -> None:
    """Of an error the cause is kept, with the address when it is one that nobody typed."""
    trouble = Trouble()
    trouble(KafkaError(getattr(KafkaError, code), said))
    trouble(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
    assert trouble.cause(KafkaError(KafkaError._TIMED_OUT)) == cause
    assert trouble.cure("start one") == cure
    trouble.forget()
    assert trouble.cause(KafkaError(KafkaError._TIMED_OUT, "late")) == "late"


def test_what_is_only_logged_is_a_cause_too() -> None:
    """A connection that is closed is logged and no error; it counts when there is no error."""
    trouble = Trouble()
    trouble.log(20, "", "FAIL", "", "[thrd:a:1/bootstrap]: a:1/bootstrap: Disconnected: closed")
    trouble.log(20, "", "CONNECT", "", "[thrd:a:1/bootstrap]: a:1/bootstrap: trying")
    late = KafkaError(KafkaError._TIMED_OUT, "late")
    assert trouble.cause(late) == "Disconnected: closed"
    assert trouble.cure("") == "check security.protocol under kafka.options"
    trouble(KafkaError(KafkaError._FATAL, "over", fatal=True))
    assert trouble.cause(late) == "over"
    assert trouble.fatal is not None


def test_the_failure_raised_is_the_one_asked_for(closed: str) -> None:
    """A source's failure is a source's."""
    config = kafka_client.properties(KafkaSettings(), closed)
    with pytest.raises(RunError) as caught:
        kafka_client.connect(AdminClient(config), config, 0.0, failure=SourceError)
    assert caught.type is SourceError
