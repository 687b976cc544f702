"""A run that is killed again and again delivers every record: at least once, and little twice."""

from __future__ import annotations

import json
import signal
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.frame import encode_frame
from core.topics import TELEMETRY, TELEMETRY_DLQ
from tests.captures import NANO, Packet, pcap
from tests.flows.deliveries import Place, check_messages, check_rows, written
from tests.flows.runs import replayed, timeless, told, wait_until
from tests.frames import SECOND_NS, udp_packet
from tests.kafka.topics import Meter

BEGIN_NS = 1_700_000_000 * SECOND_NS
BURST = 200
"""Frames of one burst: with a silence between bursts that is longer than an epoch and the delivery
of its records, as many as an epoch has."""
BURSTS = 60
MALFORMED = 5
"""Packets of a burst that are none."""
SPEED = 2.5
"""Bursts in a second; an epoch may end every 20 ms."""
# Records linger longer than an epoch takes: only a flush sends them before the epoch is saved.
RULES: dict[str, dict[str, Any]] = {"run": {"epoch_s": 0.02}, "kafka": {"linger_ms": 2_000}}


@pytest.fixture(scope="module")
def bursts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a capture of bursts, a second of capture time apart."""
    content = []
    for burst in range(BURSTS):
        for i in range(BURST + MALFORMED):
            payload = encode_frame(f"dev-{i % 20:02}", burst * BURST + i, b'{"v":%d}' % burst)
            packet = udp_packet(payload if i < BURST else b"\0" + payload)
            at_ns = BEGIN_NS + burst * SECOND_NS + i * 1_000
            content.append(Packet(at_ns, packet, len(packet)))
    path = tmp_path_factory.mktemp("bursts") / "bursts.pcap"
    path.write_bytes(pcap(content, magic=NANO))
    return path


def reached(meter: Meter, target: int) -> bool:
    """Tell whether so many messages have arrived."""
    return meter.total() >= target


@pytest.mark.slow
@pytest.mark.parametrize(("form", "kills"), [("json", 10), ("arrow", 3)])
def test_killed_at_random_and_resumed(
    place: Place, bursts: Path, tmp_path: Path, form: str, kills: int
) -> None:
    """None is missing, and each kill repeats at most an epoch and what it had of the next."""
    sent = written(bursts, folder=tmp_path / "files")
    summary = told(replayed(bursts))
    place.configure(kafka=RULES["kafka"] | {"format": form}, run=RULES["run"])
    command = (bursts, "--recovery", "store")
    # A kill comes before five more bursts have arrived, so that the last comes before the end.
    steps = np.random.default_rng(20).integers(1, 5 * BURST, kills)
    if form == "arrow":
        steps = steps // BURST + 1
    with closing(place.meter(TELEMETRY)) as meter:
        for step in steps.tolist():
            target = meter.total() + step
            with place.running(*command, "--speed", str(SPEED)) as process:
                wait_until(process, partial(reached, meter, target))
                process.kill()
                assert process.wait() == -signal.SIGKILL
    done = place.run(*command)
    assert done.code == 0, done.err
    assert timeless(done.summary) == summary
    check = check_messages if form == "json" else check_rows
    again = {topic: check(place.arrived(topic), rows, topic) for topic, rows in sent.items()}
    bound = {TELEMETRY: 2 * kills * BURST, TELEMETRY_DLQ: 2 * kills * MALFORMED}
    figures = {"format": form, "kills": kills, "repeated": again, "at_most": bound,
               "records": {topic: len(rows) for topic, rows in sent.items()}}  # fmt: skip
    print(json.dumps(figures))
    assert all(count <= bound[topic] for topic, count in again.items()), figures
    # Resumed at its end it has nothing to add.
    assert timeless(place.run(*command).summary) == summary
    assert sum(again.values()) + sum(map(len, sent.values())) == sum(
        len(place.arrived(topic)) if form == "json" else
        sum(int(dict(m.headers)["rows"]) for m in place.arrived(topic))
        for topic in sent
    )  # fmt: skip
