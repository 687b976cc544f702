"""Live runs: what is sent to a port is delivered and accounted for, until a signal ends it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from core.topics import TELEMETRY, TELEMETRY_DLQ
from tests.flows.lives import frames, live
from tests.flows.runs import records


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_and_sums_up(tmp_path: Path, number: signal.Signals) -> None:
    """Everything sent before the signal is delivered, and the run ends well."""
    with live("--udp", "127.0.0.1:0", "--sink", "files:out", cwd=tmp_path) as run:
        run.send(*frames(20), b"odd", *frames(20, first=20))
        done = run.stop(number)
    assert done.code == 0, done.err
    told = done.summary
    assert (told["packets_in"], told["frames"], told["malformed"]) == (41, 40, {"frame_short": 1})
    assert (told["kernel_dropped"], told["ring_dropped"], told["interrupted"]) == (0, 0, False)
    found = records(tmp_path / "out")
    values = [json.loads(line) for line in found[TELEMETRY, "0000"]]
    assert [each["seq"] for each in values] == list(range(40))
    assert len(found[TELEMETRY_DLQ, "0000"]) == 1


def test_several_addresses_of_both_families(tmp_path: Path) -> None:
    """Whatever port it is, what comes to it is ours."""
    places = ("--udp", "127.0.0.1:0", "--udp", "[::1]:0", "--udp", "127.0.0.2:0")
    with live(*places, "--sink", "null", cwd=tmp_path, sockets=3) as run:
        for place in range(3):
            run.send(*frames(5, f"dev-{place}"), place=place)
        told = run.stop().summary
    assert told["frames"] == told["delivered"][TELEMETRY] == 15
    assert told["ignored"] == {}
