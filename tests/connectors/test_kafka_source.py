"""The topic source on a real broker: what comes, in which order, where it goes on or refuses to."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from connectors import kafka_source, topic_part
from connectors.capture import WAIT_S
from core import records
from core.errors import SourceError
from core.readings import Readings, joined
from core.reasons import Reason
from core.strand import Window
from tests.conftest import Kafka
from tests.fill import fill, made
from tests.frames import SECOND_NS
from tests.kafka.topics import PATIENCE_S, await_offsets, delete, ends, options, put

if TYPE_CHECKING:
    from tests.kafka.broker import Broker
from tests.topic_replays import (
    ROWS,
    SMALL_FETCHES,
    START_NS,
    Portions,
    Replay,
    Row,
    frames,
    refused,
    rows,
)


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let so little of a partition be looked at together that small topics have many blocks."""
    monkeypatch.setattr(topic_part, "window_of", lambda _: Window(40, 1 << 20))


@pytest.fixture(scope="module")
def filled(kafka: Kafka) -> Iterator[dict[str, str]]:
    """Yield topics that hold the same frames: in one and in eight partitions, and as Arrow."""
    batch = records.telemetry(frames())
    names: dict[str, str] = {}
    for name, partitions, arrow in (("one", 1, False), ("eight", 8, False), ("arrow", 3, True)):
        names[name] = made(kafka.servers, f"filled-{name}-{id(names)}", partitions)
        fill(kafka.servers, names[name], [batch], partitions=partitions, arrow=arrow)
    yield names
    delete(kafka.servers, *names.values())


def test_all_partitions_are_one_sequence(kafka: Kafka, filled: dict[str, str]) -> None:
    """One partition, eight of them, and Arrow messages give the same rows, in order of time."""
    found = {name: Replay(kafka.servers, topic).rest() for name, topic in filled.items()}
    at_ns = frames().at_ns
    assert [row[4] for row in found["one"]] == np.argsort(at_ns, kind="stable").tolist()
    for each in found.values():
        assert [row[5] for row in each] == list(range(ROWS))
        assert sorted(row[:5] for row in each) == sorted(row[:5] for row in found["one"])
        assert [row[2] for row in each] == np.sort(at_ns).tolist()


@pytest.mark.parametrize("name", ["one", "eight", "arrow"])
def test_portions_change_nothing(kafka: Kafka, filled: dict[str, str], name: str) -> None:
    """Batches and fetches of any size are alike."""
    want = Replay(kafka.servers, filled[name]).rest()
    for batch_len, fetches in ((1, {}), (7_000, {}), (100, SMALL_FETCHES)):
        found = Replay(kafka.servers, filled[name], capture={"batch_len": batch_len},
                       kafka={"options": fetches})  # fmt: skip
        assert found.rest() == want


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("limit", ["AHEAD_ROWS_MAX", "AHEAD_BYTES_MAX"])
@pytest.mark.parametrize(("name", "size"), [("one", 90), ("eight", 90), ("arrow", 1)])
def test_what_is_far_ahead_is_paused(
    kafka: Kafka, filled: dict[str, str], name: str, size: int, limit: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """However unevenly partitions come: no more is read ahead than may be, and nothing changes."""
    want = Replay(kafka.servers, filled[name]).rest()
    monkeypatch.setattr(topic_part, limit, 50)
    monkeypatch.setattr(kafka_source, "Feed", Portions)
    monkeypatch.setattr(Portions, "size", size)
    replay = Replay(kafka.servers, filled[name], capture={"batch_len": 100})
    feed = replay.part._feed
    assert isinstance(feed, Portions)
    found: list[Row] = []
    handed: Counter[int] = Counter()
    while (some := replay.batches()) is not None:
        for batch in some:
            found += rows(batch)
            handed.update(batch.partition.tolist())
        # Rows in order, those that a window still holds, and what came at last.
        ahead = max((feed.given - handed).values(), default=0)
        assert ahead < 50 + 40 + feed.most
    assert found == want
    # All but the last wait before the first row goes on; nobody is ahead of a partition alone.
    holding = sorted(feed.given)
    assert feed.paused[: len(holding) - 1] == holding[:-1]
    assert bool(feed.paused) == (name != "one")


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("name", ["eight", "arrow"])
def test_any_position_resumes_with_exactly_the_rest(
    kafka: Kafka, filled: dict[str, str], name: str
) -> None:
    """From the snapshot after any batch on, within an Arrow message too, the same rows follow."""
    want = Replay(kafka.servers, filled[name]).rest()
    first = Replay(kafka.servers, filled[name], capture={"batch_len": 271})
    positions = [(0, pickle.dumps(first.part.snapshot()))]
    done: list[Row] = []
    while (found := first.step()) is not None:
        done += found
        positions.append((len(done), pickle.dumps(first.part.snapshot())))
    assert done == want
    counts = ("packets_in", "bytes_in", "captured_bytes", "files_read", "file_bytes", "ended")
    for at, saved in positions[:: len(positions) // 6]:
        second = Replay(kafka.servers, filled[name], resume=pickle.loads(saved))
        assert second.rest() == want[at:]
        assert second.page()["packets_resumed"] == at
        assert [second.page()[c] for c in counts] == [first.page()[c] for c in counts]
    if name == "arrow":
        assert any(place.row for _, saved in positions for place in pickle.loads(saved).places)


def test_what_was_read_is_counted(kafka: Kafka, filled: dict[str, str]) -> None:
    """Records and their bytes, partitions that were read to their end, and how far the rest is."""
    replay = Replay(kafka.servers, filled["eight"], capture={"batch_len": 100})
    got = len(replay.some(500))
    page = replay.page()
    assert page["packets_in"] == got
    assert page["file_bytes"] == got
    assert page["file_bytes_all"] == ROWS
    assert page["files_open"] > 0
    assert not page["ended"]
    replay.rest()
    page = replay.page()
    assert (page["packets_in"], page["files_read"], page["files_open"]) == (ROWS, 8, 0)
    assert page["bytes_in"] == page["captured_bytes"] == records.telemetry(frames()).values.size
    assert (page["file_bytes"], page["file_bytes_all"], page["ended"]) == (ROWS, ROWS, 1)
    assert replay.notices == []


def test_records_without_a_packet_are_known_by_their_place(
    kafka: Kafka, topics: Callable[..., str]
) -> None:
    """Without headers of CloudEvents, identities are of partition and offset, and stay so."""
    topic, batch = topics(2), records.telemetry(frames(200))
    fill(kafka.servers, topic, [batch], headers="seq")
    found = Replay(kafka.servers, topic).rest()
    places = {row[3:5] for row in found}
    assert len(places) == 200
    assert len({source for source, _ in places}) == 2
    assert found == Replay(kafka.servers, topic, capture={"batch_len": 3}).rest()


def test_what_is_written_meanwhile_is_not_read(kafka: Kafka, topics: Callable[..., str]) -> None:
    """A replay ends where the partitions ended when it began, and so does its resume."""
    topic = topics(2)
    fill(kafka.servers, topic, [records.telemetry(frames(300))])
    replay = Replay(kafka.servers, topic, capture={"batch_len": 50})
    position = replay.part.snapshot()
    fill(kafka.servers, topic, [records.telemetry(frames(300))])
    assert len(replay.rest()) == 300
    assert len(Replay(kafka.servers, topic, resume=position).rest()) == 300
    assert len(Replay(kafka.servers, topic).rest()) == 600


def test_what_is_no_record_is_handed_on_as_such(kafka: Kafka, topics: Callable[..., str]) -> None:
    """Values that do not decode keep their bytes and place, and move no clock."""
    topic = topics()
    fill(kafka.servers, topic, [records.telemetry(frames(3))])
    put(kafka.servers, topic, b"no record", b"")  # which have the time of the broker
    fill(kafka.servers, topic, [records.telemetry(frames(6).take(slice(3, 6)))])
    replay = Replay(kafka.servers, topic)
    batches: list[Readings] = []
    while (some := replay.batches()) is not None:
        batches += some
    batch = joined(batches)
    assert batch.reason.tolist() == [0, 0, 0, Reason.RECORD, Reason.RECORD, 0, 0, 0]
    assert batch.clock_ns.max() == START_NS + 3_000_000
    begin, size = int(batch.start[3]), int(batch.length[3])
    assert batch.arena[begin : begin + size].tobytes() == b"no record"
    assert batch.ordinal.tolist()[3:5] == [3, 4]


def test_an_empty_topic_ends_at_once(kafka: Kafka, topics: Callable[..., str]) -> None:
    """Partitions without records are read to their end."""
    replay = Replay(kafka.servers, topics(3))
    assert replay.rest() == []
    assert replay.page()["files_read"] == 3


def test_records_of_transactions(kafka: Kafka, topics: Callable[..., str]) -> None:
    """What was taken back is not read, what is still open ends the topic, markers are no gaps."""
    topic = topics()
    producer = Producer({**options(kafka.servers), "transactional.id": topic})
    producer.init_transactions(PATIENCE_S)
    values = records.telemetry(frames(40)).value_list()
    for first, commits in ((0, True), (10, False), (20, True)):
        producer.begin_transaction()
        for value in values[first : first + 10]:
            producer.produce(topic, value)
        producer.flush(PATIENCE_S)
        (producer.commit_transaction if commits else producer.abort_transaction)(PATIENCE_S)
    await_offsets(kafka.servers, topic, 33)
    producer.begin_transaction()
    producer.produce(topic, values[30])
    producer.flush(PATIENCE_S)
    replay = Replay(kafka.servers, topic, capture={"batch_len": 7})
    (line,) = replay.notices
    assert "behind a transaction that is open: 1;" in line
    assert [row[1] for row in replay.rest()] == [*range(10), *range(20, 30)]
    assert replay.page()["file_bytes"] == replay.page()["file_bytes_all"] == 33
    producer.abort_transaction(PATIENCE_S)


def cut(servers: str, topic: str, partition: int, before: int) -> None:
    """Delete the first records of a partition, as retention does."""
    admin = AdminClient(options(servers))
    for future in admin.delete_records([TopicPartition(topic, partition, before)]).values():
        future.result(timeout=PATIENCE_S)


@pytest.mark.usefixtures("small_windows")
def test_records_that_are_gone_are_never_skipped(kafka: Kafka, topics: Callable[..., str]) -> None:
    """Deleted while they are read, or before a resume, they are an error that counts them."""
    topic = topics(2)
    fill(kafka.servers, topic, [records.telemetry(frames(2_000))])
    replay = Replay(kafka.servers, topic, capture={"batch_len": 10},
                    kafka={"options": SMALL_FETCHES})  # fmt: skip
    replay.some(10)
    position = replay.part.snapshot()
    last = ends(kafka.servers, topic)[1] - 20
    cut(kafka.servers, topic, 1, last)
    line = refused(SourceError, replay.rest)
    replay.part.close()
    assert "records were deleted before they were read" in line
    assert "of partition 1; start over" in line
    line = refused(SourceError, lambda: Replay(kafka.servers, topic, resume=position))
    assert f"{last - position.places[1].offset:,} of partition 1;" in line
    # What is gone and was read is missed by nobody.
    end = Replay(kafka.servers, topic)
    assert end.rest()
    cut(kafka.servers, topic, 0, 5)
    assert Replay(kafka.servers, topic, resume=end.part.snapshot()).rest() == []


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("anew", [False, True])
def test_a_topic_that_is_deleted_is_an_error(
    kafka: Kafka, topics: Callable[..., str], anew: bool
) -> None:
    """Gone, or replaced by another of its name, it ends the replay, and refuses a resume."""
    topic = topics(1)
    fill(kafka.servers, topic, [records.telemetry(frames(2_000))])
    quick = SMALL_FETCHES | {"topic.metadata.propagation.max.ms": 500}
    replay = Replay(kafka.servers, topic, capture={"batch_len": 10}, kafka={"options": quick})
    replay.some(10)
    position = replay.part.snapshot()
    delete(kafka.servers, topic)
    if anew:
        made_anew(kafka.servers, topic)
        fill(kafka.servers, topic, [records.telemetry(frames(2_000))])
    assert "was deleted, or made anew, while it was read" in refused(SourceError, replay.rest)
    replay.part.close()
    line = refused(SourceError, lambda: Replay(kafka.servers, topic, resume=position))
    assert ("another topic of the same name" if anew else "there is no such topic") in line
    if not anew:
        made_anew(kafka.servers, topic)  # for whoever deletes it


def made_anew(servers: str, topic: str) -> None:
    """Make a topic as soon as the last of its name is gone."""
    for _ in range(200):
        try:
            made(servers, topic)
        except KafkaException as error:
            assert "ALREADY_EXISTS" in str(error)  # noqa: PT017  until it is gone
        else:
            return
    raise AssertionError("it was never gone")


@pytest.mark.usefixtures("small_windows")
@pytest.mark.slow
def test_silent_brokers_are_waited_for_and_given_up(own_broker: Callable[..., Broker]) -> None:
    """A broker that comes back in time is read on; one that does not is an error with a cause."""
    broker = own_broker()
    topic = made(broker.servers, "t", 2)
    fill(broker.servers, topic, [records.telemetry(frames())])
    want = Replay(broker.servers, topic).rest()
    short = {"options": SMALL_FETCHES, "delivery_s": 60}
    replay = Replay(broker.servers, topic, capture={"batch_len": 100}, kafka=short)
    found = replay.some(100)
    broker.kill()
    for _ in range(20):
        found += replay.step() or []
    broker.start()
    assert found + replay.rest() == want
    impatient = {"options": SMALL_FETCHES, "delivery_s": 5}
    replay = Replay(broker.servers, topic, capture={"batch_len": 100}, kafka=impatient)
    found = replay.some(100)
    position = replay.part.snapshot()
    broker.kill()
    line = refused(SourceError, replay.rest)
    assert "nothing came for 5 s (" in line
    assert line.endswith("with --recovery the same command goes on there")
    broker.start()
    assert Replay(broker.servers, topic, resume=position).rest() == want[len(found) :]
    replay.part.close()


def test_a_stop_and_pressure_are_heard(kafka: Kafka, filled: dict[str, str]) -> None:
    """Told to hold back it gives nothing; told to stop it ends, and goes on from there."""
    replay = Replay(kafka.servers, filled["eight"], capture={"batch_len": 100})
    found = replay.some(300)
    asked: list[float] = []

    def relieve(wait_s: float) -> bool:
        asked.append(wait_s)
        return len(asked) > 2

    replay.source.pressure.on_relief(relieve)
    replay.source.pressure.press()
    assert [replay.step() for _ in range(2)] == [[], []]
    assert asked == [WAIT_S] * 2
    found += replay.some(100)
    replay.stopping.set()
    assert replay.step() is None
    assert not replay.page()["ended"]
    rest = Replay(kafka.servers, filled["eight"], resume=replay.part.snapshot()).rest()
    assert found + rest == Replay(kafka.servers, filled["eight"]).rest()


def test_a_paced_replay_hands_on_what_is_due(kafka: Kafka, topics: Callable[..., str]) -> None:
    """Rows wait for their time, across partitions, and a snapshot between two of them holds."""
    topic, late = topics(2), frames(12)
    late.at_ns[:] = START_NS + (np.arange(12) > 4) * 3_600 * SECOND_NS
    late.clock_ns[:] = late.at_ns
    fill(kafka.servers, topic, [records.telemetry(late)])
    want = Replay(kafka.servers, topic).rest()
    paced = Replay(kafka.servers, topic, capture={"speed": 0.001})
    found = paced.some(5)
    assert found == want[:5]
    assert paced.step() == []
    position = paced.part.snapshot()
    paced.part.close()
    for speed in (0.0, 1e9 / 1e3):
        rest = Replay(kafka.servers, topic, resume=position, capture={"speed": speed})
        assert rest.rest() == want[5:]
