"""A replay into the embedded broker: what is read back is what files would hold, or it fails."""

from __future__ import annotations

import re
import signal
import socket
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from connectors.read_back import Message
from core.errors import SinkError
from core.topics import FINDINGS, TELEMETRY, TELEMETRY_DLQ
from flows.replay import replay
from flows.simulate import SimulationSummary, simulate
from flows.summary import Summary
from tests.flows.deliveries import Sent, check_messages, check_rows, written
from tests.flows.runs import HOSTED, as_env, finish, penstock, replayed, settings, start, told
from tests.flows.runs import wait_until as wait
from tests.flows.test_bytewax_run import free_port, metrics
from tests.kafka.topics import Message as Arrived


def read_back(*captures: Path, **sections: dict[str, Any]) -> tuple[Summary, list[Message]]:
    """Replay into the embedded broker; nothing may be said."""
    said: list[str] = []
    seen: list[Message] = []
    run = sections.pop("run", {}) | {"sink": "embedded"}
    given = settings(*captures, run=run, **sections)
    summary = replay(given, said.append, on_record=seen.append)
    assert said == []
    return summary, seen


def by_topic(messages: list[Message]) -> dict[str, list[Arrived]]:
    """Return messages in the shape in which tests read them from any broker."""
    found = defaultdict(list)
    for m in messages:
        headers = tuple(m.headers.items())
        found[m.topic].append(
            Arrived(m.partition, m.offset, m.key, m.value, m.at_ms, False, headers)
        )
    return found


def threads() -> set[str]:
    """Return the threads of this process, native ones too."""
    return {task.name for task in Path("/proc/self/task").iterdir()}


def listening() -> list[tuple[str, int]]:
    """Return the addresses on which this process listens."""
    inodes = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            inodes.add(str(link.readlink())[len("socket:[") : -1])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [
        ("127.0.0.1", int(row[1].partition(":")[2], 16))
        for row in rows
        if row[3] == "0A" and row[9] in inodes
    ]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulate a capture of more frames than the broker takes records."""
    path = tmp_path_factory.mktemp("large") / "large.pcap"
    simulate(
        path, scenario="steady", devices=200, rate_hz=10_500.0, seconds=10.0, seed=3, port=9999
    )
    return path


@pytest.mark.parametrize(("form", "shards"), [("json", 1), ("json", 3), ("arrow", 2)])
def test_what_is_read_back_is_what_files_hold(
    mixed: SimulationSummary,
    capture: Path,
    tmp_path: Path,
    form: str,
    shards: int,
) -> None:
    """Each record is there once with key, time and headers, each key in order, in either format."""
    rules: dict[str, dict[str, Any]] = {
        "dam": {"rate_hz": 400, "burst": 50}, "anomaly": {"warm_rows": 50, "threshold": 0.05}
    }  # fmt: skip
    sent: dict[str, list[Sent]] = written(capture, folder=tmp_path, run={"shards": shards}, **rules)
    kafka = {"format": form, "topics": {FINDINGS: "alarms"}}
    # Where other brokers want passwords, this one does not.
    kafka["options"] = {"security.protocol": "SASL_SSL"}
    summary, seen = read_back(capture, run={"shards": shards}, kafka=kafka, **rules)
    assert summary.volatile
    assert summary.packets_in == mixed.packets
    assert summary.delivered == {topic: len(rows) for topic, rows in sent.items()}
    assert set(sent) == {TELEMETRY, TELEMETRY_DLQ, FINDINGS}
    check = check_messages if form == "json" else check_rows
    arrived = by_topic(seen)
    assert set(arrived) == set(sent)
    for topic, rows in sent.items():
        assert check(arrived[topic], rows, topic) == 0
    assert len(seen) == sum(map(len, sent.values())) or form == "arrow"


def test_the_account_is_that_of_any_other_sink(capture: Path) -> None:
    """The summary says the same as with the null sink, and that what it delivered is gone."""
    summary, _ = read_back(capture)
    other = told(replayed(capture))
    assert told(summary) == other | {"volatile": True}


def test_nothing_is_left_after_a_run(capture: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The broker, its threads and its sockets end with the run, and nothing was printed."""
    replayed(capture)
    before = threads(), listening()
    during: list[tuple[str, int]] = []

    def look(_: Message) -> None:
        during[:] = during or listening()

    replay(settings(capture, run={"sink": "embedded"}), print, on_record=look)
    assert len(during) == len(before[1]) + 1
    assert (threads(), listening()) == before
    [address] = set(during) - set(before[1])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    assert capfd.readouterr() == ("", "")


def test_a_record_that_nobody_delivered_fails_the_run(capture: Path) -> None:
    """When the consumer finds another number than was delivered, the run fails in one line.

    Somebody else writes to the broker here, as any client can.
    """
    others = set(listening())
    before = threads()
    wrote: list[str] = []

    def intrude(_: Message) -> None:
        if not wrote:
            [(host, port)] = set(listening()) - others
            wrote.append(f"{host}:{port}")
            client = Producer({"bootstrap.servers": wrote[0], "log_level": 0})
            client.produce(TELEMETRY, b"{}")
            client.close()

    with pytest.raises(SinkError) as failed:
        replay(settings(capture, run={"sink": "embedded"}), print, on_record=intrude)
    words = r"embedded: telemetry.readings.v1: [\d,]+ records were delivered and [\d,]+ read back; "
    assert failed.match(words)
    assert failed.value.exit_code == 1
    assert threads() == before


def test_too_many_records_are_refused(large: Path, tmp_path: Path) -> None:
    """The record that would be one too many ends the run in one line that says what was done."""
    done = penstock("replay", large, "--rate", "off", "--sink", "embedded", cwd=tmp_path)
    assert done.code == 1
    assert done.out == ""
    assert done.line == (
        "penstock: embedded: the broker takes at most 100,000 records; delivered and read back: "
        "100,000 of telemetry.readings.v1; for more use kafka://HOST:PORT or files:DIR"
    )


@pytest.mark.parametrize(
    ("host", "number"),
    [("penstock", signal.SIGINT), ("penstock", signal.SIGTERM), ("bytewax -w 2", signal.SIGINT)],
)
def test_a_run_that_is_told_to_stop_reads_back_what_it_delivered(
    capture: Path, tmp_path: Path, host: str, number: signal.Signals
) -> None:
    """After a signal what was read is delivered and read back, and the summary says so."""
    port = free_port()
    env = as_env(
        run={"paths": capture, "sink": "embedded"}, capture={"speed": 1}, metrics={"port": port}
    )
    command = ["-m", "flows.cli", "replay", str(capture), "--sink", "embedded", "--json"]
    if host != "penstock":
        command = [*HOSTED, *host.split()[1:]]
    process = start(command, tmp_path, env)
    passed = re.compile(r"^penstock_frames_passed_total [1-9]", re.MULTILINE)
    wait(process, lambda: passed.search(metrics(port)) is not None)
    process.send_signal(number)
    done = finish(process)
    assert done.code == 0, done.err
    summary = done.summary
    assert (summary["interrupted"], summary["volatile"]) == (True, True)
    assert summary["delivered"][TELEMETRY] == summary["passed"] > 0
    assert "Traceback" not in done.err


def test_recovery_is_refused(capture: Path, tmp_path: Path) -> None:
    """Nothing could be resumed from a broker that is gone."""
    done = penstock("replay", capture, "--sink", "embedded", "--recovery", "state", cwd=tmp_path)
    assert done.code == 2
    assert "the embedded broker" in done.line


def test_several_processes_are_refused(capture: Path, tmp_path: Path) -> None:
    """Each would have a broker of its own."""
    env = as_env(run={"paths": capture, "sink": "embedded"})
    done = finish(start([*HOSTED, "-a", "localhost:1;localhost:2", "-i", "0"], tmp_path, env))
    assert done.code == 2
    assert "each process of a cluster would have an embedded broker of its own" in done.line
