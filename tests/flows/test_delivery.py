"""What a replay delivers to Kafka is what it writes into files, record for record, exactly once."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from core.topics import DAY_MS, FINDINGS, FLOWS, FLOWS_DLQ, TELEMETRY, TELEMETRY_DLQ
from tests.flows.deliveries import Place, check_messages, check_rows, said, written
from tests.flows.runs import HOSTED, as_env, catches, finish, penstock, start, wait_until
from tests.kafka.broker import Broker
from tests.kafka.topics import await_deletion, create, delete, partitions, put

RULES: dict[str, dict[str, Any]] = {
    "capture": {"batch_len": 500},
    "dam": {"rate_hz": 400, "burst": 50, "queue_len_max": 300},
    "anomaly": {"warm_rows": 60, "threshold": 0.02},
}
"""A dam that queues and drops, and a model that finds: records of every topic."""
IN_2030_NS = 1_893_456_000_000_000_000
CHECKS = {"json": check_messages, "arrow": check_rows}


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("form", ["json", "arrow"])
@pytest.mark.parametrize("by", ["device", "host"])
def test_every_record_arrives_exactly_once(
    place: Place, capture: Path, tmp_path: Path, by: str, form: str, shards: int
) -> None:
    """Values, keys, times, headers and the order of each key are those of the files sink.

    With several shards the engine hosts the run on two workers.
    """
    rules = RULES | {"capture": RULES["capture"] | {"by": by}, "run": {"shards": shards}}
    sent = written(capture, folder=tmp_path / "files", **rules)
    main, rejected = (TELEMETRY, TELEMETRY_DLQ) if by == "device" else (FLOWS, FLOWS_DLQ)
    assert set(sent) == {main, rejected, FINDINGS}
    place.configure(kafka={"format": form}, **rules)
    if shards == 1:
        done = place.run(capture)
    else:
        env = as_env(run={"paths": capture, "sink": place.sink})
        done = finish(start([*HOSTED, "-w", "2"], tmp_path, env))
    assert (done.code, said(done)) == (0, [])
    summary = done.summary
    assert summary["delivered"] == {topic: len(rows) for topic, rows in sent.items()}
    assert (summary["lost"], summary["dead_lettered"], summary["volatile"]) == ({}, {}, False)
    for topic, rows in sent.items():
        arrived = place.arrived(topic)
        assert all(message.has_brokers_time for message in arrived)
        assert CHECKS[form](arrived, rows, topic) == 0


@pytest.mark.corpus
@pytest.mark.slow
def test_real_traffic_arrives_exactly_once(place: Place, corpus: Path, tmp_path: Path) -> None:
    """Flows, findings and dead letters of a folder of real captures are those of the files sink.

    Damaged captures have packets of any time; the brokers' own topics would refuse those to come.
    """
    captures = corpus / "captures"
    rules: dict[str, dict[str, Any]] = {"capture": {"by": "host"}}
    sent = written(captures, folder=tmp_path / "files", **rules)
    assert sum(map(len, sent.values())) > 10_000
    place.configure(**rules)
    done = place.run(captures)
    assert done.code == 0, done.err
    assert any(row.at_ns > IN_2030_NS for row in sent[FLOWS])
    summary = done.summary
    assert summary["delivered"] == {topic: len(rows) for topic, rows in sent.items()}
    assert (summary["lost"], summary["dead_lettered"]) == ({}, {})
    for topic, rows in sent.items():
        assert check_messages(place.arrived(topic), rows, topic) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("stamps", "kept"), [("LogAppendTime", True), ("CreateTime", False)])
def test_what_is_old_is_kept(
    own_broker: Callable[..., Broker], capture: Path, tmp_path: Path, stamps: str, kept: bool
) -> None:
    """Brokers keep packets of long ago as long as those of now, but in topics made otherwise.

    Of the latter the run says so.
    """
    broker = own_broker(
        log_initial_task_delay_ms="100", log_retention_check_interval_ms="200",
        log_segment_delete_delay_ms="0",
    )  # fmt: skip
    place = Place(broker.servers, tmp_path)
    place.configure(dam={"enabled": False})
    if not kept:
        week = str(7 * DAY_MS)
        create(broker.servers, place.names[TELEMETRY], retention_ms=week,
               message_timestamp_type=stamps)  # fmt: skip
    done = place.run(capture)
    assert done.code == 0, done.err
    assert ["message.timestamp.type" in line for line in said(done)] == [True] * (not kept)
    count = done.summary["delivered"][TELEMETRY]
    assert count > 1_000
    witness = "deleted-by-its-age"  # the broker has looked for old records when this is empty
    create(broker.servers, witness, retention_ms="1")
    put(broker.servers, witness, b"x")
    await_deletion(broker.servers, witness)
    if kept:
        assert len(place.arrived(TELEMETRY)) == count
    else:
        await_deletion(broker.servers, place.names[TELEMETRY])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_delivers_what_it_read(
    place: Place, capture: Path, number: signal.Signals
) -> None:
    """After the first signal everything read is delivered, and the run exits with 0."""
    place.configure(dam={"enabled": False})
    with place.running(capture, "--speed", "1") as process:
        with closing(place.meter(TELEMETRY)) as meter:
            wait_until(process, lambda: meter.total() > 500)
        process.send_signal(number)
        done = finish(process)
    assert done.code == 0, done.err
    summary = done.summary
    assert summary["interrupted"]
    assert summary["lost"] == {}
    assert 500 < summary["frames"] < 4_000
    assert summary["delivered"][TELEMETRY] == summary["frames"] == len(place.arrived(TELEMETRY))
    rejected = sum(summary["malformed"].values())
    assert summary["delivered"][TELEMETRY_DLQ] == rejected == len(place.arrived(TELEMETRY_DLQ))


def test_the_second_signal_ends_the_run_at_once(
    own_broker: Callable[..., Broker], capture: Path, tmp_path: Path
) -> None:
    """While a run waits for a broker that hangs, another signal ends it as a crash would."""
    broker = own_broker()
    place = Place(broker.servers, tmp_path)
    place.configure(kafka={"shutdown_s": 3_600, "delivery_s": 3_600})
    with place.running(capture, "--speed", "4") as process:
        with closing(place.meter(TELEMETRY)) as meter:
            wait_until(process, lambda: meter.total() > 100)
        broker.pause()
        process.send_signal(signal.SIGTERM)
        # The first is done with when its handler has given way to the default of the system.
        wait_until(process, lambda: not catches(process, signal.SIGTERM))
        process.send_signal(signal.SIGTERM)
        done = finish(process)
    assert done.code in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert done.out == ""
    broker.resume()


def test_topics_that_are_missing_are_named(place: Place, capture: Path) -> None:
    """A run that may not create topics says which command does, and reads nothing."""
    place.configure(kafka={"create_topics": False})
    done = place.run(capture)
    assert done.code == 1
    assert done.out == ""
    assert "penstock topics create" in done.line
    assert place.names[TELEMETRY] in done.line
    made = penstock("topics", "create", place.sink, cwd=place.folder)
    assert made.code == 0, made.err
    assert set(place.names.values()) <= set(partitions(place.servers))
    done = place.run(capture)
    assert done.code == 0, done.err
    assert done.summary["delivered"][TELEMETRY] == len(place.arrived(TELEMETRY))


@pytest.mark.slow
def test_a_topic_that_is_deleted_under_a_run(
    own_broker: Callable[..., Broker], capture: Path, tmp_path: Path
) -> None:
    """Its records become dead letters with the reason; the other topics get theirs."""
    place = Place(own_broker().servers, tmp_path)
    # librdkafka gives a topic that it does not find half a minute to appear.
    soon = {"topic.metadata.propagation.max.ms": "2000"}
    place.configure(kafka={"options": soon}, dam={"enabled": False})
    with place.running(capture, "--speed", "1") as process:
        with closing(place.meter(TELEMETRY)) as meter:
            wait_until(process, lambda: meter.total() > 200)
        delete(place.servers, place.names[TELEMETRY])
        done = finish(process)
    assert done.code == 0, done.err
    summary = done.summary
    gone = summary["dead_lettered"][TELEMETRY]
    assert gone > 0
    assert summary["delivered"][TELEMETRY] + gone == summary["frames"]
    reasons = Counter(message.key for message in place.arrived(TELEMETRY_DLQ))
    assert reasons.pop(b"topic_unknown") == gone
    assert sum(reasons.values()) == sum(summary["malformed"].values())
