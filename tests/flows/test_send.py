"""`penstock send`: the simulator live, as a command, into sockets of the tests."""

from __future__ import annotations

import ctypes
import errno
import json
import signal
import sys
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest

from connectors import sender
from core.endpoint import Endpoint
from core.errors import SinkError, UsageError
from core.odd import ODD
from core.scenario import Kind, plan
from flows.send import SendSummary, send
from flows.simulate import simulate
from tests.flows.runs import catches, finish, penstock, start, wait_until
from tests.receiver import Receiver, nobody


def payloads(scenario: str, devices: int, rate_hz: float, seconds: float, seed: int) -> list[bytes]:
    """Return what a scenario is to send."""
    rng = np.random.Generator(np.random.PCG64(seed))
    made = plan(scenario, devices, rate_hz, seconds, rng, start_ns=0)
    whole = made.arena.tobytes()
    rows = zip(made.start.tolist(), made.length.tolist(), strict=True)
    return [whole[begin : begin + size] for begin, size in rows]


def sending(to: Endpoint, said: list[str], **change: object) -> SendSummary:
    usual: dict[str, object] = {"scenario": "steady", "devices": 40, "rate_hz": 900.0}
    usual |= {"seconds": 1.0, "seed": 5, "sources": 1, "stopping": threading.Event()}
    return send(to, notify=said.append, **(usual | change))  # type: ignore[arg-type]  # of any type


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_command_sends_the_scenario(host: str, tmp_path: Path) -> None:
    """What arrives is the plan of the same seed, byte for byte; the object says how much it was."""
    flags = ["--scenario", "steady", "--devices", "60", "--rate", "1500", "--seconds", "1.5"]
    with Receiver(host) as receiver:
        to = receiver.endpoint
        done = penstock("send", str(to), *flags, "--seed", "7", "--json", cwd=tmp_path)
        got = receiver.end()
    assert (done.code, done.err) == (0, "")
    summary = msgspec.convert(done.summary, SendSummary)
    assert got == payloads("steady", 60, 1500.0, 1.5, 7)
    assert (summary.to, summary.sent, summary.frames) == (str(to), len(got), len(got))
    assert summary.bytes == sum(map(len, got))
    assert summary.devices == 60
    assert (summary.unsent, summary.errors, summary.interrupted) == (0, {}, False)
    assert summary.seconds >= 1.5
    assert summary.rate == pytest.approx(summary.sent / summary.seconds, rel=1e-6)


def test_packets_add_up_with_the_simulators(tmp_path: Path) -> None:
    """Malformed payloads go as they are; what no datagram can be is left out, and counted."""
    given = {"scenario": "mixed", "devices": 40, "rate_hz": 900.0, "seconds": 1.0, "seed": 5}
    whole = simulate(tmp_path / "a.pcap", port=9999, **given)  # type: ignore[arg-type]  # as given
    said: list[str] = []
    with Receiver() as receiver:
        summary = sending(receiver.endpoint, said, **given)
        got = receiver.end()
    large = whole.malformed["body_too_large"]
    assert got == [each for each in payloads("mixed", 40, 900.0, 1.0, 5) if len(each) < 65_508]
    assert summary.left_out == {
        "body_too_large": large,
        **{kind: {**whole.malformed, **whole.other}[kind] for kind in ODD},
    }
    assert summary.sent == summary.frames + sum(summary.malformed.values())
    assert summary.sent + sum(summary.left_out.values()) == whole.packets
    assert summary.frames == whole.frames
    assert summary.devices == whole.devices
    assert set(summary.malformed) == {k.name.lower() for k in Kind if 0 < k < Kind.BODY_TOO_LARGE}
    assert said == []


def test_large_payloads_go_over_ipv6() -> None:
    """There a datagram has room for them."""
    said: list[str] = []
    with Receiver("::1") as receiver:
        summary = sending(receiver.endpoint, said, scenario="malformed")
        got = receiver.end()
    assert got == payloads("malformed", 40, 900.0, 1.0, 5)
    assert summary.malformed["body_too_large"] == sum(len(each) > 65_507 for each in got) > 0
    assert said == []


@pytest.mark.parametrize("gso", [False, True])
def test_slices_follow_each_other_in_order(gso: bool) -> None:
    """More payloads than a slice has: all arrive, each device's in its order, from its source."""
    said: list[str] = []
    with Receiver() as receiver:
        summary = sending(receiver.endpoint, said, rate_hz=70_000.0, sources=2, gso=gso)
        receiver.end()
    assert summary.sent > 65_536
    # What arrived is in order; a slow machine may lose some at the receiver.
    latest: dict[bytes, int] = {}
    ports: dict[bytes, int] = {}
    for payload, (_, port) in receiver.got:
        device, seq = payload[2:18], int.from_bytes(payload[18:22], "big")
        assert seq > latest.get(device, -1)
        assert ports.setdefault(device, port) == port
        latest[device] = seq
    assert len(set(ports.values())) == 2


@pytest.mark.slow
def test_the_rate_is_what_was_asked() -> None:
    """Within a tenth on a machine that has other things to do; within 2 % in the benchmark."""
    said: list[str] = []
    with Receiver() as receiver:
        summary = sending(receiver.endpoint, said, rate_hz=20_000.0, seconds=3.0, devices=500)
    assert summary.rate == pytest.approx(20_000.0, rel=0.1)


def test_nobody_listens(tmp_path: Path) -> None:
    """One line says so, everything is sent all the same, and how many answered is counted."""
    to = nobody()
    flags = ("--scenario", "steady", "--rate", "500", "--seconds", "1")
    done = penstock("send", str(to), *flags, "--json", cwd=tmp_path)
    assert done.code == 0
    assert f"{to}: nobody listens there (ECONNREFUSED); sending goes on" in done.line
    assert done.summary["unsent"] == 0
    assert done.summary["errors"] == {"ECONNREFUSED": done.summary["sent"]}
    people = penstock("send", str(to), *flags, cwd=tmp_path)
    assert people.out.count("\n") == 1
    assert people.out.startswith(f"{to}: ")
    assert "answered: nobody listens" in people.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_the_report(number: signal.Signals, tmp_path: Path) -> None:
    """What was sent until then is what arrived, and the code is 0."""
    flags = ["--scenario", "steady", "--rate", "1000", "--seconds", "600", "--json"]
    with Receiver() as receiver:
        process = start(["-m", "flows.cli", "send", str(receiver.endpoint), *flags], tmp_path)
        wait_until(process, lambda: len(receiver.got) > 100 and catches(process, number))
        process.send_signal(number)
        done = finish(process)
        got = receiver.end()
    assert (done.code, done.err) == (0, "")
    summary = json.loads(done.out)
    assert summary["interrupted"]
    assert summary["sent"] == len(got)
    assert summary["seconds"] < 60
    assert got == payloads("steady", 300, 1000.0, 600.0, 1)[: len(got)]


def test_a_stop_before_the_beginning_is_a_report() -> None:
    """Nothing was sent, and nothing is wrong."""
    stopping = threading.Event()
    stopping.set()
    said: list[str] = []
    summary = sending(nobody(), said, stopping=stopping)
    assert (summary.sent, summary.interrupted, said) == (0, True, [])


def test_falling_behind_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that cannot keep up sends everything all the same, and says how long it took."""
    for name in ("GAP_NS", "CALM_NS"):
        monkeypatch.setattr(f"connectors.sender.{name}", 100_000_000)
    said: list[str] = []
    with Receiver() as receiver:
        summary = sending(receiver.endpoint, said, rate_hz=1000.0)
        assert receiver.end() == payloads("steady", 40, 1000.0, 1.0, 5)
    assert summary.rate < 950
    assert summary.late_ms_max > 100
    (line,) = said
    assert "instead of 1; this machine sends no faster, ask for a lower rate" in line


def test_a_way_that_takes_no_bundles_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interface that cannot segment refuses them: one line with the cure, and all is unsent."""
    whole = sender._sendmmsg

    def refusing(fd: int, begin: int, count: int, flags: int) -> int:
        message = ctypes.string_at(begin, 64)
        if int.from_bytes(message[40:48], sys.byteorder):  # it has a control message
            ctypes.set_errno(errno.EIO)
            return -1
        return int(whole(fd, begin, 1, flags))

    monkeypatch.setattr(sender, "_sendmmsg", refusing)
    said: list[str] = []
    with Receiver() as receiver:
        summary = sending(receiver.endpoint, said, rate_hz=50_000.0, gso=True, devices=9_000)
        got = receiver.end()
    (line,) = said
    assert "the way there takes no bundles (EIO); send without --gso" in line
    assert summary.sent == len(got)
    assert summary.unsent > 0
    planned = payloads("steady", 9_000, 50_000.0, 1.0, 5)
    assert summary.sent + summary.unsent == len(planned)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"seed": -1}, UsageError, "seed -1 is out of bounds"),
        ({"scenario": "fload"}, UsageError, "did you mean 'flood'"),
        ({"rate_hz": 0.0}, UsageError, "rate_hz 0.0 is out of bounds"),
        ({"sources": 0}, UsageError, "sources 0 is out of bounds"),
        ({"to": Endpoint("no-host.invalid", 9)}, SinkError, "no-host.invalid:9: "),
    ],
)
def test_impossible_arguments_are_refused(
    change: dict[str, object], error: type[Exception], said: str
) -> None:
    """One line names what is wrong; nothing is sent."""
    to = change.pop("to", None) or nobody()
    told: list[str] = []
    with pytest.raises(error, match=said) as caught:
        sending(to, told, **change)  # type: ignore[arg-type]  # an endpoint
    assert "\n" not in str(caught.value)
    assert told == []


def test_the_command_refuses_in_one_line(tmp_path: Path) -> None:
    """What is typed wrong is code 2, a host that is not known is code 1."""
    for to, code, said in (
        ("127.0.0.1", 2, "'127.0.0.1' is no endpoint: want HOST:PORT"),
        ("no-host.invalid:9", 1, "no-host.invalid:9: "),
    ):
        done = penstock("send", to, cwd=tmp_path)
        assert (done.code, done.out) == (code, "")
        assert said in done.line
