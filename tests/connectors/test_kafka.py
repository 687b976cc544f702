"""The Kafka sink: what a flow delivers, and where it goes on after a good or a bad end."""

from __future__ import annotations

import pickle
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bytewax.operators as op
import msgspec
import pyarrow as pa
import pytest
from bytewax.dataflow import Dataflow
from bytewax.inputs import AbortExecution
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSource, cluster_main, run_main

from connectors.kafka import KafkaSink, KafkaState
from connectors.ledger import Ledger
from connectors.pressure import Pressure
from core.batches import RecordBatch
from core.errors import PenstockError, SinkError
from core.sections import KafkaSettings
from core.topics import FINDINGS, TELEMETRY, TELEMETRY_DLQ
from tests.conftest import Kafka
from tests.counting import Counting
from tests.kafka import topics
from tests.outboxes import NOWHERE, readings, rows
from tests.records import Row, records_of

if TYPE_CHECKING:
    from connectors.kafka import KafkaPart
    from connectors.kafka_brokers import Layout
    from tests.kafka.broker import Broker


class Made:
    """A sink, and what it said and counted."""

    def __init__(self, servers: str, settings: KafkaSettings, **how: Any) -> None:
        self.ledger = Ledger()
        self.lost: list[str] = []
        self.said: list[str] = []
        self.flushes: list[float] = []
        self.stopping = threading.Event()
        self.pressure = Pressure()
        defaults: dict[str, Any] = {"parts": 1, "recovers": False, "topics": (TELEMETRY, FINDINGS)}
        self.sink = KafkaSink(
            servers=servers, settings=settings, pressure=self.pressure, stopping=self.stopping,
            notify=self.said.append, on_lost=self.lost.append, on_counts=self.ledger.write,
            on_flush=self.flushes.append, **(defaults | how),
        )  # fmt: skip

    def part(self, name: str = "0000", state: KafkaState | None = None) -> KafkaPart:
        return self.sink.build_part("sink", name, state)

    def counts(self, topic: str = TELEMETRY) -> dict[str, int]:
        """What became of the records of a topic."""
        total = self.ledger.total()
        kinds = ("accepted", "delivered", "dead_lettered", "lost")
        return {kind: n for kind in kinds if (n := total[f"{kind}.{topic}"])}


def changed(settings: KafkaSettings, **changes: object) -> KafkaSettings:
    return msgspec.structs.replace(settings, **changes)


def unreachable(recovers: bool, **settings: Any) -> Made:
    """A sink that has seen its topics on brokers that are gone since."""
    made = Made(NOWHERE, KafkaSettings(**settings), recovers=recovers)
    made.sink.layouts = layouts()
    return made


def layouts() -> dict[str, Layout]:
    from connectors.kafka_brokers import Layout
    from core.topics import TOPICS

    return {name: Layout(topic=name, name=name, partitions=1) for name in TOPICS}


def flow(items: list[Any], sink: KafkaSink) -> Dataflow:
    graph = Dataflow("kafka")
    op.output("out", op.input("in", graph, TestingSource(items)), sink)
    return graph


def item(number: int) -> tuple[str, RecordBatch]:
    """Ten readings, for two shards in turn."""
    return f"{(number + 1) % 2:04d}", readings(10, first=10 * number)


def replay(source: Counting, made: Made, recovery: RecoveryConfig | None) -> None:
    graph = Dataflow("kafka")
    op.output("out", op.input("in", graph, source), made.sink)
    run_main(graph, epoch_interval=timedelta(0), recovery_config=recovery)


def store(folder: Path) -> RecoveryConfig:
    if not folder.exists():
        folder.mkdir()
        init_db_dir(folder, 1)
    return RecoveryConfig(folder)


def numbers(servers: str, topic: str) -> list[int]:
    """The readings in a topic, by number."""
    return sorted(msgspec.json.decode(m.value)["n"] for m in topics.read(servers, topic))


def cause(error: BaseException) -> PenstockError:
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, PenstockError):
        seen = seen.__cause__ or seen.__context__
    assert seen is not None
    return seen


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_shards_share_topics(kafka: Kafka, settings: KafkaSettings, workers: int) -> None:
    """The records of all shards arrive in order of each key, whatever worker has them."""

    def shard(k: int, turn: int) -> RecordBatch:
        numbered = rows(25, first=25 * turn)
        return records_of(TELEMETRY, [row._replace(key=b"shard-%d" % k) for row in numbered])

    items = [(f"{k:04d}", shard(k, turn)) for turn in range(6) for k in range(4)]
    items += [("0003", records_of(FINDINGS, rows(3)))]
    made = Made(kafka.servers, settings, parts=4)
    cluster_main(flow(items, made.sink), [], 0, worker_count_per_proc=workers)
    assert made.counts() == {"accepted": 600, "delivered": 600}
    assert made.counts(FINDINGS) == {"accepted": 3, "delivered": 3}
    assert made.ledger.page("sink/0002") == {f"accepted.{TELEMETRY}": 150}
    assert made.lost == []
    found: dict[bytes | None, list[bytes]] = {}
    for message in topics.read(kafka.servers, settings.topics[TELEMETRY]):
        found.setdefault(message.key, []).append(message.value)
    assert found == {b"shard-%d" % k: [row.value for row in rows(150)] for k in range(4)}


def test_arrow_holds_the_same_records(kafka: Kafka, settings: KafkaSettings) -> None:
    """As Arrow streams the records are the same, in order for each key, and counted one by one."""
    made = Made(kafka.servers, changed(settings, format="arrow"))
    items = [("0000", readings(1_000, keys=5, first=1_000 * turn)) for turn in range(4)]
    run_main(flow(items, made.sink))
    assert made.counts() == {"accepted": 4_000, "delivered": 4_000}
    found: dict[str, list[str]] = {}
    messages = topics.read(kafka.servers, settings.topics[TELEMETRY])
    assert len(messages) < 4 * 8 + 1
    for message in messages:
        table = pa.ipc.open_stream(message.value).read_all()
        for key, value in zip(table["key"].to_pylist(), table["value"].to_pylist(), strict=True):
            found.setdefault(key, []).append(value)
    want: dict[str, list[str]] = {}
    for row in rows(4_000, keys=5):
        want.setdefault(row.key.decode(), []).append(row.value.decode())
    assert found == want


def test_counts_go_on_after_a_resume(kafka: Kafka, settings: KafkaSettings, tmp_path: Path) -> None:
    """A resumed run reports what became of records in all, even when it is given none itself."""
    settings = changed(settings, message_bytes_max=5_000)
    large = records_of(TELEMETRY, [Row(b"k", b'"' + b"z" * 9_000 + b'"', ordinal=5)])
    items: list[Any] = [
        ("0000", readings(7)), ("0001", large),
        TestingSource.EOF(),
        ("0000", readings(2, first=7)),
    ]  # fmt: skip
    reports = []
    for _ in range(3):
        made = Made(kafka.servers, settings, parts=2, recovers=True)
        run_main(flow(items, made.sink), epoch_interval=timedelta(0),
                 recovery_config=store(tmp_path / "state"))  # fmt: skip
        reports.append(made.counts())
    first = {"accepted": 8, "delivered": 7, "dead_lettered": 1}
    last = {"accepted": 10, "delivered": 9, "dead_lettered": 1}
    assert reports == [first, last, last]
    assert numbers(kafka.servers, settings.topics[TELEMETRY]) == list(range(9))


def test_a_crash_repeats_no_epoch_that_was_saved(
    kafka: Kafka, settings: KafkaSettings, tmp_path: Path
) -> None:
    """After an abort the run goes on at the last snapshot, and every record is there."""
    name = settings.topics[TELEMETRY]
    made = Made(kafka.servers, settings, parts=2, recovers=True)
    replay(Counting(item, 5, AbortExecution), made, store(tmp_path / "state"))
    made.sink.close()
    made = Made(kafka.servers, settings, parts=2, recovers=True)
    replay(Counting(item, 9), made, store(tmp_path / "state"))
    assert made.counts() == {"accepted": 90, "delivered": 90}
    assert made.flushes
    found = numbers(kafka.servers, name)
    assert set(found) == set(range(90))
    assert len(found) <= 90 + 10  # at most the epoch that was open


def test_an_outage_is_an_error_and_the_next_run_goes_on(
    own_broker: Callable[..., Broker], tmp_path: Path
) -> None:
    """When brokers stay away for too long the run ends, and the same run later delivers all."""
    broker = own_broker()
    settings = KafkaSettings(delivery_s=5)
    made = Made(broker.servers, settings, parts=2, recovers=True)
    made.sink.check()

    def outage(number: int) -> tuple[str, RecordBatch]:
        if number == 3:
            broker.kill()
        return item(number)

    with pytest.raises(RuntimeError) as caught:
        replay(Counting(outage, 8), made, store(tmp_path / "state"))
    error = cause(caught.value)
    assert isinstance(error, SinkError)
    assert str(error).startswith(f"kafka://{broker.servers}: 10 records were not acknowledged (")
    assert str(error).endswith("nothing is lost: see to the brokers, then the same command goes "
                               "on from there")  # fmt: skip
    made.sink.close()
    assert made.lost == []
    assert "lost" not in made.counts()
    broker.start()
    made = Made(broker.servers, KafkaSettings(), parts=2, recovers=True)
    replay(Counting(item, 8), made, store(tmp_path / "state"))
    assert made.counts() == {"accepted": 80, "delivered": 80}
    assert set(numbers(broker.servers, TELEMETRY)) == set(range(80))


def test_without_recovery_no_snapshot_waits() -> None:
    """Nothing is saved, so that nothing is waited for; what is left at the end is lost."""
    made = unreachable(False, shutdown_s=0)
    part = made.part()
    part.write_batch([readings(10), records_of(FINDINGS, []), records_of(FINDINGS, rows(2))])
    part.snapshot()
    assert made.flushes == []
    part.close()
    assert made.counts() == {"accepted": 10, "lost": 10}
    assert made.counts(FINDINGS) == {"accepted": 2, "lost": 2}
    assert len(made.lost) == 1
    part.close()
    made.sink.close()
    assert made.counts() == {"accepted": 10, "lost": 10}


def test_a_write_after_a_failure_is_an_error() -> None:
    """With recovery the run does not wait for a long epoch to end when it has to be repeated."""
    made = unreachable(True, delivery_s=1)
    part = made.part()
    part.write_batch([readings(10)])
    outbox = made.sink.outbox("0000")
    while not outbox.failed:
        outbox.relieve(0.1)
    for again in (lambda: part.write_batch([readings(1)]), part.snapshot):
        with pytest.raises(SinkError, match="10 records were not acknowledged"):
            again()
    made.sink.close()
    assert made.counts() == {"accepted": 10}
    assert made.lost == []


def test_a_signal_is_heard_while_a_snapshot_waits() -> None:
    """A handler runs in the middle of a flush, which ends soon after it asked for a stop."""
    made = unreachable(True, delivery_s=3_600, shutdown_s=0)
    part = made.part()
    part.write_batch([readings(10)])
    before = signal.signal(signal.SIGALRM, lambda *_: made.stopping.set())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(SinkError, match="10 records"):
            part.snapshot()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    made.sink.close()


def test_a_full_queue_makes_the_source_pause(kafka: Kafka, settings: KafkaSettings) -> None:
    """A write returns with records still waiting, and the source is held until they have moved."""
    made = Made(kafka.servers, changed(settings, queue_len_max=1_000, write_wait_s=0.0))
    part = made.part()
    part.write_batch([readings(1_000, first=first) for first in range(0, 5_000, 1_000)])
    assert made.ledger.page("outbox")["backlog"] >= 3_000
    assert made.pressure.holds(0.0)
    while made.pressure.holds(0.1):
        pass
    part.close()
    assert made.counts() == {"accepted": 5_000, "delivered": 5_000}


def test_the_last_part_closes_for_all(kafka: Kafka, settings: KafkaSettings) -> None:
    """The outbox stays open while a part uses it, and is opened again by one that comes late."""
    made = Made(kafka.servers, settings, parts=3)
    first, second = made.part("0000"), made.part("0001")
    first.write_batch([readings(10)])
    first.close()
    second.write_batch([readings(10, first=10)])
    second.close()
    assert made.counts() == {"accepted": 20, "delivered": 20}
    third = made.part("0002")
    third.write_batch([readings(10, first=20)])
    third.close()
    assert made.counts() == {"accepted": 30, "delivered": 30}
    assert numbers(kafka.servers, settings.topics[TELEMETRY]) == list(range(30))


def test_a_check_makes_what_is_missing(kafka: Kafka, settings: KafkaSettings) -> None:
    """Before a run starts its topics are there, dead letters too, or it is said what is wrong."""
    made = Made(kafka.servers, changed(settings, create_topics=False))
    with pytest.raises(SinkError, match="no such topic"):
        made.sink.check()
    made = Made(kafka.servers, settings, topics=(TELEMETRY,))
    made.sink.check()
    assert set(made.sink.layouts) == {TELEMETRY, TELEMETRY_DLQ}
    assert len(made.said) == 2
    with pytest.raises(SinkError, match="no broker answered"):
        Made(NOWHERE, KafkaSettings(connect_s=1)).part()


def test_a_failed_build_leaves_nothing_open() -> None:
    """A part that cannot be built is not waited for, and closing is harmless."""
    made = Made(NOWHERE, KafkaSettings(connect_s=1))
    with pytest.raises(SinkError):
        made.part()
    made.sink.close()
    made.sink.close()
    assert made.ledger.total() == {}


def test_what_is_saved_can_be_read_again() -> None:
    """The state of a part survives being pickled, as the engine does it."""
    state = KafkaState(delivered=((TELEMETRY, 5),), dead_lettered=((TELEMETRY, 1),))
    assert pickle.loads(pickle.dumps(state)) == state
