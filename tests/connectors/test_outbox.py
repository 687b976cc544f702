"""The outbox: what was sent arrives in order, or it is known what became of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import get_args

import msgspec
import pytest

from connectors.outbox import PAGE
from core.errors import SinkError
from core.outgoing import Which, json_messages
from core.sections import KafkaSettings
from core.topics import FINDINGS, TELEMETRY, TELEMETRY_DLQ
from tests.conftest import Kafka
from tests.kafka import topics
from tests.kafka.mock import INIT_PRODUCER_ID, PRODUCE, MockBroker, mock_broker
from tests.outboxes import FATES, NOWHERE, opened, readings, rows
from tests.records import records_of


@pytest.fixture
def mock() -> Iterator[MockBroker]:
    """Brokers that fail to order."""
    with mock_broker() as broker:
        broker.create(TELEMETRY, TELEMETRY_DLQ, FINDINGS)
        yield broker


def values(servers: str, topic: str) -> list[bytes]:
    return [message.value for message in topics.read(servers, topic)]


def by_key(servers: str, topic: str) -> dict[bytes | None, list[bytes]]:
    found: dict[bytes | None, list[bytes]] = {}
    for message in topics.read(servers, topic):
        found.setdefault(message.key, []).append(message.value)
    return found


def told(**fates: int) -> dict[str, int]:
    """The counts of telemetry, as the ledger names them."""
    return {f"{fate}.{TELEMETRY}": count for fate, count in fates.items() if count}


@pytest.mark.parametrize("which", get_args(Which))
def test_what_is_sent_arrives_as_it_was_made(
    kafka: Kafka, settings: KafkaSettings, which: Which
) -> None:
    """Key, value, time and headers are those of the message, and all of it is counted."""
    settings = msgspec.structs.replace(settings, headers=which)
    name = settings.topics[TELEMETRY]
    topics.create(kafka.servers, name, partitions=3)
    batch = readings(500)
    with opened(kafka.servers, settings, recovers=True) as box:
        box.send(batch)
        box.outbox.flush(30)
        assert box.counts(*FATES) == told(accepted=500, delivered=500)
        assert (box.outbox.occupancy, box.outbox.backlog) == (0, 0)
    out = json_messages(batch, which)
    headers = out.headers if which != "none" else [{}] * len(batch)
    want = zip(out.keys, out.values, out.timestamps_ms, headers, strict=True)
    found = topics.read(kafka.servers, name)
    assert sorted((m.key, m.value, m.timestamp_ms, m.headers) for m in found) == sorted(
        (key, value, at_ms, tuple(headers.items())) for key, value, at_ms, headers in want
    )
    assert len({message.partition for message in found}) > 1


def test_a_full_queue_keeps_the_order_and_asks_for_a_pause(mock: MockBroker) -> None:
    """What finds no room waits, the source is held until it has moved, and no key is reordered."""
    mock.down()
    with opened(mock.servers, queue_len_max=1_000, write_wait_s=0.0, linger_ms=0) as box:
        for first in range(0, 3_000, 500):
            box.send(readings(500, first=first))
            box.outbox.make_room()
            # Events of librdkafka, such as a broken connection, are in the queue too.
            assert box.outbox.occupancy < 1_100
        assert box.outbox.backlog >= 2_000
        assert box.pressure.holds(0.0)
        gauges = box.counts("producer_queue", "producer_queue_max", "backlog")
        assert gauges["producer_queue_max"] == 1_000
        assert gauges["backlog"] == box.outbox.backlog
        mock.up()
        while box.pressure.holds(0.2):
            pass
        assert box.outbox.backlog == 0
        box.send(readings(100, first=3_000))
        box.outbox.flush(30)
        assert box.counts(*FATES) == told(accepted=3_100, delivered=3_100)
        want: dict[bytes | None, list[bytes]] = {}
        for row in rows(3_100):
            want.setdefault(row.key, []).append(row.value)
        assert by_key(mock.servers, TELEMETRY) == want


def test_bytes_fill_the_queue_too(mock: MockBroker) -> None:
    """The queue is full when its bytes are; a message larger than all of it is a dead letter."""
    mock.down()
    with opened(mock.servers, queue_bytes_max=1 << 20, message_bytes_max=4 << 20,
                write_wait_s=0.0) as box:  # fmt: skip
        box.send(readings(40, bytes_each=50_000))
        box.send(readings(1, first=40, bytes_each=2 << 20))
        box.send(readings(10, first=41))
        box.outbox.make_room()
        assert box.outbox.occupancy < 40
        assert box.pressure.holds(0.0)
        mock.up()
        box.wait()
        box.outbox.flush(30)
        want = told(accepted=51, delivered=50, dead_lettered=1)
        assert box.counts(*FATES) == want
        (letter,) = values(mock.servers, TELEMETRY_DLQ)
        assert msgspec.json.decode(letter)["error"] == "larger than kafka.queue_bytes_max"


def test_a_flush_raises_when_brokers_are_away() -> None:
    """With recovery it says who, why, how many and what to do; nothing is called lost."""
    with opened(NOWHERE, recovers=True, delivery_s=1) as box:
        box.send(readings(250))
        with pytest.raises(SinkError) as caught:
            box.outbox.flush(30)
        assert str(caught.value) == (
            "kafka://127.0.0.1:1: 250 records were not acknowledged (Connection refused); nothing "
            "is lost: see to the brokers, then the same command goes on from there"
        )
        assert box.outbox.failed
    assert box.lost == []
    assert box.counts(*FATES) == told(accepted=250)


def test_a_flush_ends_by_its_own_time() -> None:
    """It raises although no record has failed yet."""
    with opened(NOWHERE, recovers=True) as box:
        box.send(readings(10))
        with pytest.raises(SinkError, match=r": 10 records were not acknowledged \(.*\); nothing"):
            box.outbox.flush(0.2)
        assert not box.outbox.failed


def test_a_stop_shortens_a_flush() -> None:
    """When the run is to end, `shutdown_s` is all there is."""
    with opened(NOWHERE, recovers=True, shutdown_s=0) as box:
        box.send(readings(10))
        box.stopping.set()
        with pytest.raises(SinkError, match="10 records"):
            box.outbox.flush(3_600)


def test_a_flush_that_has_nothing_to_wait_for_returns() -> None:
    """Nothing was sent, and no broker has to answer for that."""
    with opened(NOWHERE, recovers=True) as box:
        box.outbox.flush(3_600)
        assert not box.outbox.failed
        assert box.counts(*FATES) == {}


@pytest.mark.parametrize(("kind", "errors", "cause"), [
    (PRODUCE, [29], "Topic authorization failed"),
    (INIT_PRODUCER_ID, [31] * 20, "Cluster authorization failed"),
])  # fmt: skip
@pytest.mark.parametrize("recovers", [True, False])
def test_what_nobody_may_write_is_not_a_dead_letter(
    mock: MockBroker, kind: int, errors: list[int], cause: str, *, recovers: bool
) -> None:
    """What says nothing of a record leaves it undelivered: an error, or lost and said once."""
    mock.fail(kind, *errors)
    with opened(mock.servers, recovers=recovers) as box:
        box.send(readings(100))
        if recovers:
            with pytest.raises(SinkError, match=f"100 records were not acknowledged .*{cause}"):
                box.outbox.flush(30)
            assert box.counts(*FATES) == told(accepted=100)
        else:
            while not box.lost:
                box.outbox.relieve(0.2)
            (line,) = box.lost
            assert cause in line
            assert "\n" not in line
    fates = {"accepted": 100} | ({} if recovers else {"lost": 100})
    assert box.counts(*FATES) == told(**fates)
    assert len(box.lost) == (not recovers)


def test_brokers_that_come_back_lose_nothing(mock: MockBroker) -> None:
    """Requests that failed for now are done again, and each record is there once."""
    mock.fail(PRODUCE, 6, 7, 19)  # not the leader; timed out; not enough replicas
    with opened(mock.servers, recovers=True) as box:
        box.send(readings(200))
        mock.down()
        box.send(readings(200, first=200))
        box.outbox.relieve(0.1)
        mock.up()
        box.outbox.flush(60)
        assert box.counts(*FATES) == told(accepted=400, delivered=400)
        assert values(mock.servers, TELEMETRY) == [row.value for row in rows(400)]


def test_time_without_recovery_is_loss() -> None:
    """Records whose time is over are lost, by topic, and it is said once and in one line."""
    with opened(NOWHERE, delivery_s=1) as box:
        box.send(readings(60))
        box.send(records_of(FINDINGS, rows(5)))
        while box.outbox.occupancy:
            box.outbox.relieve(0.2)
        assert len(box.lost) == 1
        assert box.lost[0].startswith("kafka://127.0.0.1:1: records of ")
        assert "Connection refused" in box.lost[0]
        want = told(accepted=60, lost=60)
        want |= {f"accepted.{FINDINGS}": 5, f"lost.{FINDINGS}": 5}
        assert box.counts(*FATES) == want


def test_what_is_given_up_is_counted() -> None:
    """At the end everything that waits, in the queue or for it, is lost; and only once."""
    with opened(NOWHERE, queue_len_max=1_000, write_wait_s=0.0, shutdown_s=0) as box:
        box.send(readings(1_500))
        box.send(records_of(FINDINGS, rows(20)))
        assert box.outbox.backlog > 500
        box.outbox.close()
        want = told(accepted=1_500, lost=1_500)
        want |= {f"accepted.{FINDINGS}": 20, f"lost.{FINDINGS}": 20}
        assert box.counts(*FATES) == want
        assert len(box.lost) == 1
        box.outbox.close()
        assert box.counts(*FATES) == want
        assert box.outbox.relieve(0.0)


def test_what_will_be_replayed_is_not_lost() -> None:
    """With recovery closing waits for nothing and counts nothing as lost."""
    with opened(NOWHERE, recovers=True, shutdown_s=3_600) as box:
        box.send(readings(10))
        box.outbox.close()
        assert box.counts(*FATES) == told(accepted=10)
        assert box.lost == []


def test_an_outbox_opens_again(mock: MockBroker) -> None:
    """What is sent after it was closed and opened again is delivered, and added to the rest."""
    with opened(mock.servers) as box:
        box.send(readings(10))
        box.outbox.close()
        assert box.counts(*FATES) == told(accepted=10, delivered=10)
        box.outbox.open()
        box.send(readings(5, first=10))
        box.outbox.close()
        assert box.counts(*FATES) == told(accepted=15, delivered=15)
        assert values(mock.servers, TELEMETRY) == [row.value for row in rows(15)]


def test_counts_never_run_ahead_of_the_brokers(kafka: Kafka, settings: KafkaSettings) -> None:
    """While records are under way at most those that arrived are counted, and in the end all."""
    name = settings.topics[TELEMETRY]
    topics.create(kafka.servers, name)
    with opened(kafka.servers, settings, queue_len_max=10_000_000, linger_ms=5) as box:
        meter = topics.Meter(kafka.servers, name)
        seen = 0
        for turn in range(10_000):
            # Without a pause the queue is never empty, so that only statistics tell.
            box.send(readings(500, first=turn * 500))
            counted = box.ledger.page(PAGE).get(f"delivered.{TELEMETRY}", 0)
            box.outbox.report()
            if counted > seen:
                seen = counted
                assert seen <= meter.total()
                if turn > 20 and box.outbox.occupancy:
                    break
        meter.close()
        assert seen > 0
        box.outbox.close()
        sent = box.counts("accepted")[f"accepted.{TELEMETRY}"]
        assert box.counts(*FATES) == told(accepted=sent, delivered=sent)


def test_parts_on_threads_share_a_producer(kafka: Kafka, settings: KafkaSettings) -> None:
    """Parts on several threads send and flush at will; each is told of its own records only."""
    name = settings.topics[TELEMETRY]
    topics.create(kafka.servers, name, settings.topics[TELEMETRY_DLQ], partitions=4)
    with opened(kafka.servers, settings, recovers=True, message_bytes_max=20_000,
                queue_len_max=1_000) as box:  # fmt: skip
        failed: list[BaseException] = []

        def work(number: int) -> None:
            account = box.part(f"{number:04d}")
            # The records of one part are all larger than a message may be.
            size = 30_000 if number == 2 else 0
            try:
                for turn in range(20):
                    batch = records_of(TELEMETRY, [
                        row._replace(key=b"part-%d" % number)
                        for row in rows(50, first=turn * 50, bytes_each=size)
                    ])  # fmt: skip
                    box.send(batch, account)
                    box.outbox.make_room()
                    if turn % 7 == 6:
                        box.outbox.flush(60)
                box.outbox.flush(60)
                account.report()
            except SinkError as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        for number in range(1, 5):
            page = box.ledger.page(f"sink/{number:04d}")
            refused = {f"dead_lettered.{TELEMETRY}": 1_000} if number == 2 else {}
            assert page == {f"accepted.{TELEMETRY}": 1_000} | refused
        assert box.counts(*FATES) == told(accepted=4_000, delivered=3_000, dead_lettered=1_000)
    found = by_key(kafka.servers, name)
    assert found == {b"part-%d" % n: [row.value for row in rows(1_000)] for n in (1, 3, 4)}


def test_a_flush_does_not_wait_for_what_comes_after_it(mock: MockBroker) -> None:
    """What other parts send while one flushes waits until that is done, and is not lost."""
    with opened(mock.servers, recovers=True) as box:
        box.send(readings(1))  # the first goes alone
        box.outbox.flush(60)
        mock.down()
        box.send(readings(10, first=1))
        failed: list[SinkError] = []

        def flush() -> None:
            try:
                box.outbox.flush(60)
            except SinkError as error:
                failed.append(error)

        thread = threading.Thread(target=flush)
        thread.start()
        while not box.outbox._marks:
            pass
        other = box.part("0001")
        box.send(readings(5, first=11), other)
        assert not box.outbox.relieve(0.1)
        assert (box.outbox.occupancy, box.outbox.backlog) == (10, 5)
        mock.up()
        thread.join()
        assert failed == []
        box.outbox.flush(60)
        assert box.counts(*FATES) == told(accepted=16, delivered=16)
        assert values(mock.servers, TELEMETRY) == [row.value for row in rows(16)]
