"""Live datagrams into a real broker: accounted for to the record, also when it goes and returns."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from core.topics import TELEMETRY, TELEMETRY_DLQ
from tests.flows.deliveries import Place, said
from tests.flows.lives import frames, live
from tests.flows.runs import catches, wait_until
from tests.kafka.broker import Broker

RULES: dict[str, dict[str, Any]] = {"dam": {"enabled": False}}
EACH = 2_000
"""Frames sent at a time."""


@pytest.mark.slow
def test_what_is_sent_is_accounted_for_while_a_broker_goes_and_returns(
    own_broker: Callable[..., Broker], tmp_path: Path
) -> None:
    """Sent is received and dropped by the kernel; received is delivered, once, or a dead letter.

    A third is sent before the broker is stopped, a third while it is, and a third afterwards.
    """
    broker = own_broker()
    place = Place(broker.servers, tmp_path)
    place.configure(**RULES)
    with live("--udp", "127.0.0.1:0", "--sink", place.sink, cwd=tmp_path) as run:
        run.send(*frames(EACH), b"odd")
        with closing(place.meter(TELEMETRY)) as meter:
            wait_until(run.process, lambda: meter.total() > 0)
        broker.stop()
        run.send(*frames(EACH, first=EACH), b"odd")
        broker.start()
        run.send(*frames(EACH, first=2 * EACH), b"odd")
        done = run.stop()
    assert done.code == 0, done.err
    told = done.summary
    assert told["packets_in"] + told["kernel_dropped"] + told["ring_dropped"] == 3 * EACH + 3
    assert told["packets_in"] == told["frames"] + sum(told["malformed"].values())
    assert (told["lost"], told["dead_lettered"]) == ({}, {})
    assert told["delivered"][TELEMETRY] == told["frames"] > EACH
    assert told["delivered"][TELEMETRY_DLQ] == sum(told["malformed"].values())
    numbers = [json.loads(each.value)["seq"] for each in place.arrived(TELEMETRY)]
    assert len(numbers) == len(set(numbers)) == told["frames"]
    assert numbers == sorted(numbers)
    assert len(place.arrived(TELEMETRY_DLQ)) == told["delivered"][TELEMETRY_DLQ]


def test_the_second_signal_ends_a_live_run_at_once(
    own_broker: Callable[..., Broker], tmp_path: Path
) -> None:
    """While it drains into a broker that hangs, another signal ends it as a crash would."""
    broker = own_broker()
    place = Place(broker.servers, tmp_path)
    place.configure(kafka={"shutdown_s": 3_600, "delivery_s": 3_600}, **RULES)
    with live("--udp", "127.0.0.1:0", "--sink", place.sink, cwd=tmp_path) as run:
        run.send(*frames(10))
        with closing(place.meter(TELEMETRY)) as meter:
            wait_until(run.process, lambda: meter.total() == 10)
        broker.pause()
        run.send(*frames(10, first=10))
        run.process.send_signal(signal.SIGTERM)
        # The first is done with when its handler has given way to the default of the system.
        wait_until(run.process, lambda: not catches(run.process, signal.SIGTERM))
        done = run.stop(signal.SIGTERM)
    assert done.code == -signal.SIGTERM
    assert done.out == ""
    assert all("receiving" in line for line in said(done))
    broker.resume()
