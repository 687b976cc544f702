"""Topics that are not replayed: unknown ones, the wrong mode, and a sink into the same topic."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest
from confluent_kafka import Message, Producer

from connectors.kafka_source import TopicSource
from connectors.ledger import Ledger
from connectors.topic_survey import headers_of
from core import records
from core.config import decode
from core.errors import SourceError, UsageError
from core.topics import FINDINGS, FLOWS, TELEMETRY, TELEMETRY_DLQ
from tests.conftest import Kafka
from tests.fill import fill
from tests.kafka.topics import PATIENCE_S, options, put

if TYPE_CHECKING:
    pass
from tests.topic_replays import Replay, frames, refused


def test_topics_are_known_by_name_or_by_what_they_say(
    kafka: Kafka, topics: Callable[..., str]
) -> None:
    """A name of ours, another one under kafka.topics, or the ce_type of the first record."""
    topic = topics(2)
    line = refused(UsageError, lambda: Replay(kafka.servers, topic, holds=""))
    assert "its records do not say (ce_type)" in line
    fill(kafka.servers, topic, [records.telemetry(frames(5))])
    assert Replay(kafka.servers, topic, holds="").source.kind.topic == TELEMETRY
    assert Replay(kafka.servers, topic, holds=TELEMETRY_DLQ).source.kind.topic == TELEMETRY_DLQ
    other = topics()
    put(kafka.servers, other, b"{}")
    assert "name it under kafka.topics" in refused(
        UsageError, lambda: Replay(kafka.servers, other, holds="")
    )


class Odd:
    """A message one of whose headers has a name that is not UTF-8, as the client hands it out."""

    def headers(self) -> object:
        """Return what its C code does then; no client that we have can send such a message."""
        return b"\xff".decode()


def test_headers_whose_names_are_no_text_are_none() -> None:
    """Anybody can send them, and a run would end at them whenever it is resumed."""
    assert headers_of(cast("Message", Odd())) is None


def test_what_a_topic_says_of_itself_is_bounded(kafka: Kafka, topics: Callable[..., str]) -> None:
    """A header may be as long as a message; a line shows the beginning of it."""
    topic = topics()
    producer = Producer(options(kafka.servers))
    producer.produce(topic, b"{}", headers={"ce_type": b"\x1b" + b"x" * 500_000})
    assert not producer.flush(PATIENCE_S)
    line = refused(UsageError, lambda: Replay(kafka.servers, topic, holds=""))
    assert line.isprintable()
    assert len(line) < 600


@pytest.mark.parametrize(
    ("holds", "by", "line"),
    [
        (TELEMETRY, "host", f"holds {TELEMETRY}; replay it with --by device"),
        (FLOWS, "device", f"holds {FLOWS}; replay it with --by host"),
        (FINDINGS, "device", "holds findings, which are no input; name another"),
        (FINDINGS + ".dlq", "host", "penstock dlq replay puts them back"),
    ],
)
def test_what_cannot_be_replayed_is_refused(
    kafka: Kafka, topics: Callable[..., str], holds: str, by: str, line: str
) -> None:
    """The wrong mode and findings are refused, known by their name or by what records say."""
    nowhere = "127.0.0.1:1"  # whoever is known by name is refused before anybody is asked
    assert line in refused(UsageError, lambda: Replay(nowhere, "t", holds=holds, by=by))
    topic = topics()
    batch = records.telemetry(frames(1))
    batch.topic = holds
    fill(kafka.servers, topic, [batch])
    assert line in refused(UsageError, lambda: Replay(kafka.servers, topic, holds="", by=by))


def test_other_things_to_read_are_refused(kafka: Kafka) -> None:
    """Captures beside a topic, a filter, a topic that is not there, and brokers that are not."""

    def check(*paths: str, **sections: Any) -> None:
        settings = decode([("test", {"run": {"paths": paths}} | sections)])
        TopicSource(
            settings=settings, ledger=Ledger(), digest="", stopping=threading.Event(), notify=print
        ).check()

    here = f"kafka://{kafka.servers}/{TELEMETRY}"
    assert "is replayed alone" in refused(UsageError, lambda: check(here, "a.pcap"))
    assert "is replayed alone" in refused(UsageError, lambda: check("a.pcap", here))
    assert "capture.filter" in refused(UsageError, lambda: check(here, capture={"filter": "udp"}))
    line = refused(SourceError, lambda: check(f"kafka://{kafka.servers}/kwxkwx"))
    lists = f"penstock topics describe kafka://{kafka.servers} lists Penstock's"
    assert line.endswith(f"there is no such topic; {lists}")
    soon = {"kafka": {"connect_s": 1}}
    line = refused(SourceError, lambda: check(f"kafka://127.0.0.1:1/{TELEMETRY}", **soon))
    assert line.startswith("kafka://127.0.0.1:1")
    assert "start one, or name another" in line


def test_a_sink_into_the_same_topic_is_refused(kafka: Kafka, topics: Callable[..., str]) -> None:
    """By whatever name the brokers go; another topic, or another cluster, is free to write to."""
    topic = topics()
    fill(kafka.servers, topic, [records.telemetry(frames(5))])
    host, _, port = kafka.servers.partition(":")
    for servers in (kafka.servers, f"{'localhost' if host == '127.0.0.1' else host}:{port}"):
        for holds in (TELEMETRY, TELEMETRY_DLQ):
            sink = f"kafka://{servers}"
            line = refused(
                UsageError, partial(Replay, kafka.servers, topic, holds=holds, sink=sink)
            )
            assert "the sink writes to this very topic" in line
    # Flows are not written again.
    Replay(kafka.servers, topic, holds=FLOWS, by="host", sink=f"kafka://{kafka.servers}")
    Replay(kafka.servers, topic, holds="", sink=f"kafka://{kafka.servers}")
    other = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    elsewhere = next(iter(other.list_topics(timeout=PATIENCE_S).brokers.values()))
    Replay(kafka.servers, topic, sink=f"kafka://{elsewhere.host}:{elsewhere.port}")
