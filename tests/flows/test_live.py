"""Live runs: what is sent to a port is delivered and accounted for, until a signal ends it."""

from __future__ import annotations

import base64
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6

from core.link import LINK_RAW
from core.topics import TELEMETRY, TELEMETRY_DLQ
from tests.flows.lives import followed, frames, live
from tests.flows.runs import penstock, records, start

LATE = """
import atexit, sys
from core import kernels
from flows import cli, run
warm_up = run.Run.warm_up
def watched(self):
    warm_up(self)
    ready = [each for each in kernels._defined if each._compiled is not None]
    assert ready
    for each in ready:
        ready += (callee for callee in each.callees() if callee not in ready)
    late = lambda: [k.py_func.__name__ for k in kernels._defined if k._compiled and k not in ready]
    atexit.register(lambda: print("late:", late(), file=sys.stderr))
run.Run.warm_up = watched
cli.main()
"""


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


@pytest.mark.parametrize("sink", ["files:out", "embedded"])
def test_no_packet_waits_for_a_compiler(tmp_path: Path, sink: str) -> None:
    """What a live run calls was loaded before it received, or came with what was."""
    command = ["-c", LATE, "run", "ingest", "--udp", "127.0.0.1:0", "--sink", sink, "--json"]
    with followed(start(command, tmp_path), sockets=1) as run:
        run.send(*frames(20), b"odd", *(b'{"v":' + each for each in frames(20, first=20)))
        done = run.stop()
    assert done.code == 0, done.err
    assert done.summary["packets_in"] == 41
    assert "late: []\n" in done.err


def test_several_addresses_of_both_families(tmp_path: Path) -> None:
    """Whatever port it is, what comes to it is ours."""
    places = ("--udp", "127.0.0.1:0", "--udp", "[::1]:0", "--udp", "127.0.0.2:0")
    with live(*places, "--sink", "null", cwd=tmp_path, sockets=3) as run:
        for place in range(3):
            run.send(*frames(5, f"dev-{place}"), place=place)
        told = run.stop().summary
    assert told["frames"] == told["delivered"][TELEMETRY] == 15
    assert told["ignored"] == {}


@pytest.mark.parametrize(
    ("flags", "payload", "key", "data"),
    [
        (("json", "--json-key", "a.b"), b'{"a":{"b":"p-1"}}', "p-1", {"a": {"b": "p-1"}}),
        (("syslog",), b"<13>1 2026-01-01T00:00:00Z web-1 app - - - up", "web-1", "up"),
        (("raw",), b"\xff\0", "127.0.0.1", "/wA="),
    ],
    ids=["json", "syslog", "raw"],
)  # fmt: skip
def test_datagrams_need_not_be_device_frames(
    tmp_path: Path, flags: tuple[str, ...], payload: bytes, key: str, data: Any
) -> None:
    """JSON, syslog and raw bytes are received as they are replayed from files."""
    asked = ("--udp", "127.0.0.1:0", "--sink", "files:out", "--format", *flags)
    with live(*asked, cwd=tmp_path) as run:
        run.send(payload)
        told = run.stop().summary
    assert (told["packets_in"], told["frames"]) == (1, 1)
    (line,) = records(tmp_path / "out")[TELEMETRY, "0000"]
    value = json.loads(line)
    assert value["id"] == key
    found = value.get("data_base64") or value["data"]
    assert (found["message"] if flags == ("syslog",) else found) == data


def test_a_recording_gives_the_same_records(tmp_path: Path) -> None:
    """What a live run recorded is replayed to its records, but for where a packet lies."""
    kept = ("--sink", "files:live", "--record", "live.pcap")
    with live("--udp", "127.0.0.1:0", "--udp", "[::1]:0", *kept, cwd=tmp_path, sockets=2) as run:
        for turn in range(20):
            for place in range(2):
                device = f"dev-{place}"
                run.send(*frames(5, device, 5 * turn), b"odd", b"x" * 30, place=place)
        told = run.stop().summary
    assert told["packets_in"] == 280
    replayed = penstock(
        "replay", "live.pcap", "--port", "0", "--sink", "files:again", "--json", cwd=tmp_path
    ).summary
    for name in ("packets_in", "ignored", "malformed", "frames", "passed", "delivered"):
        assert replayed[name] == told[name], name
    before, after = _unplaced(tmp_path / "live"), _unplaced(tmp_path / "again")
    assert before.keys() == after.keys()
    assert before == after


def _unplaced(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return records by topic, without what says where their packets lie."""
    found: dict[str, list[dict[str, Any]]] = {}
    for (topic, _), lines in records(folder).items():
        for line in lines:
            value = json.loads(line)
            value.pop("source", None)
            found.setdefault(topic, []).append(value)
    return found


def test_a_dead_letter_is_a_packet(tmp_path: Path) -> None:
    """What is no frame is kept as the packet it was, with the address it came to."""
    with live("--udp", "[::1]:0", "--sink", "files:out", cwd=tmp_path) as run:
        run.send(b"odd")
        run.stop()
    (line,) = records(tmp_path / "out")[TELEMETRY_DLQ, "0000"]
    letter = json.loads(line)
    assert (letter["reason"], letter["linktype"]) == ("frame_short", LINK_RAW)
    packet = IPv6(base64.b64decode(letter["packet"]))
    assert (packet.src, packet.dst, packet[UDP].dport) == ("::1", "::1", run.places[0][1])
    assert bytes(packet[UDP].payload) == b"odd"
    assert letter["wire_bytes"] == len(packet)
