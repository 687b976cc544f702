"""Brokers that are away: what waits arrives when they are back, and what is lost is said."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from core.topics import TELEMETRY, TELEMETRY_DLQ
from flows.simulate import simulate
from tests.flows.deliveries import Place, check_messages, said, written
from tests.flows.runs import finish, replayed, timeless, told, wait_until
from tests.kafka.broker import Broker

RULES: dict[str, dict[str, Any]] = {"dam": {"enabled": False}}


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a capture of thirty seconds, with 200 frames in each and malformed packets."""
    path = tmp_path_factory.mktemp("steady") / "steady.pcap"
    simulate(path, scenario="malformed", devices=40, rate_hz=200.0, seconds=30.0, seed=3, port=9999)
    return path


def part_of(folder: Path, name: str) -> Path:
    """Return a folder for one of several runs."""
    (folder / name).mkdir()
    return folder / name


def wait_until_it_delivers(place: Place, process: subprocess.Popen[str]) -> None:
    """Wait until a run is well under way."""
    with closing(place.meter(TELEMETRY)) as meter:
        wait_until(process, lambda: meter.total() > 300)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "for_s"), [("stopped", 20.0), ("killed", 8.0), ("hangs", 8.0)])
def test_a_broker_that_comes_back(
    own_broker: Callable[..., Broker], steady: Path, tmp_path: Path, how: str, for_s: float
) -> None:
    """Away in the middle of runs with and without recovery, it gets every record once.

    The run without recovery has room for 1,000 records in its queue, and its source pauses.
    """
    sent = written(steady, folder=tmp_path / "files", **RULES)
    summary = told(replayed(steady, **RULES))
    broker = own_broker()
    with ExitStack() as open_:
        runs: dict[str, tuple[Place, subprocess.Popen[str]]] = {}
        for name, more, kafka in (
            ("kept", ("--recovery", "store"), {}),
            ("plain", (), {"queue_len_max": 1_000}),
        ):
            place = Place(broker.servers, part_of(tmp_path, name))
            place.configure(kafka=kafka, **RULES)
            process = open_.enter_context(place.running(steady, "--speed", "1.5", *more))
            wait_until_it_delivers(place, process)
            runs[name] = place, process
        {"stopped": broker.stop, "killed": broker.kill, "hangs": broker.pause}[how]()
        with pytest.raises(subprocess.TimeoutExpired):
            runs["kept"][1].wait(timeout=for_s)
        assert runs["plain"][1].poll() is None
        broker.resume() if how == "hangs" else broker.start()
        for place, process in runs.values():
            done = finish(process)
            assert done.code == 0, done.err
            assert timeless(done.summary) == summary
            for topic, rows in sent.items():
                assert check_messages(place.arrived(topic), rows, topic) == 0


@pytest.mark.slow
def test_a_broker_that_is_gone_for_good(
    own_broker: Callable[..., Broker], steady: Path, tmp_path: Path
) -> None:
    """Without recovery the run ends in time, says how many records of what are lost, and fails."""
    broker = own_broker()
    place = Place(broker.servers, tmp_path)
    place.configure(kafka={"delivery_s": 2, "shutdown_s": 2}, **RULES)
    with place.running(steady, "--speed", "2") as process:
        wait_until_it_delivers(place, process)
        broker.kill()
        done = finish(process)
    assert done.code == 1
    summary = done.summary
    lost, delivered = summary["lost"], summary["delivered"]
    assert lost[TELEMETRY] > 0
    at_once, at_last = said(done)
    assert place.names[TELEMETRY] in at_once
    assert place.servers in at_once
    assert "LOST" in at_once
    assert "records were LOST" in at_last
    for topic, count in lost.items():
        assert f"{count:,} of {topic}" in at_last
    assert delivered[TELEMETRY] + lost[TELEMETRY] == summary["frames"]
    rejected = delivered.get(TELEMETRY_DLQ, 0) + lost.get(TELEMETRY_DLQ, 0)
    assert rejected == sum(summary["malformed"].values())
    # It stopped reading: the capture has 6,000 frames.
    assert summary["interrupted"]
    assert summary["frames"] < 5_000
    broker.start()
    # What was acknowledged is there. More may be: an answer can be lost, too.
    assert len(place.arrived(TELEMETRY)) >= delivered[TELEMETRY]


@pytest.mark.slow
def test_with_recovery_nothing_is_lost(
    own_broker: Callable[..., Broker], steady: Path, tmp_path: Path
) -> None:
    """The run fails, and once there is a broker again the same command delivers the rest."""
    sent = written(steady, folder=tmp_path / "files", **RULES)
    broker = own_broker()
    place = Place(broker.servers, tmp_path)
    place.configure(kafka={"delivery_s": 2, "shutdown_s": 2, "connect_s": 2}, **RULES)
    with place.running(steady, "--speed", "2", "--recovery", "store") as process:
        wait_until_it_delivers(place, process)
        broker.kill()
        done = finish(process)
    assert (done.code, done.out) == (1, "")
    (line,) = said(done)
    assert place.servers in line
    assert "nothing is lost" in line
    # Still nobody there: the same again, with a line that says so.
    done = place.run(steady, "--recovery", "store")
    assert (done.code, done.out) == (1, "")
    assert broker.servers in done.line
    broker.start()
    place.configure(**RULES)
    done = place.run(steady, "--recovery", "store")
    assert done.code == 0, done.err
    assert timeless(done.summary) == told(replayed(steady, **RULES))
    for topic, rows in sent.items():
        check_messages(place.arrived(topic), rows, topic)
