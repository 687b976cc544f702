"""What is lost on the way is counted: sent = received + dropped, on loopback and over a wire."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from core.topics import TELEMETRY
from tests.flows.lives import LiveRun, frames, live
from tests.flows.runs import PATIENCE_S, ROOT, environment, penstock
from tests.netns import Namespace, namespace
from tests.senders import Sender

SMALL = {"PENSTOCK_UDP_BUFFER_BYTES": "65536", "PENSTOCK_DAM_ENABLED": "false"}
"""A buffer that holds less than a hundred datagrams."""
NEAR, FAR = "10.99.0.1", "10.99.0.2"


@contextmanager
def halted(run: LiveRun) -> Iterator[None]:
    """Keep a run from receiving meanwhile."""
    run.process.send_signal(signal.SIGSTOP)
    status = Path(f"/proc/{run.process.pid}/stat")
    while status.read_text().rpartition(")")[2].split()[0] != "T":
        continue
    try:
        yield
    finally:
        run.process.send_signal(signal.SIGCONT)


def adds_up(told: dict[str, Any], sent: int) -> int:
    """Return how many the kernel dropped, when all are accounted for."""
    dropped = int(told["kernel_dropped"])
    assert sent == told["packets_in"] + dropped + told["ring_dropped"], told
    assert told["packets_in"] == told["frames"] == told["delivered"][TELEMETRY]
    return dropped


def test_nothing_is_lost_in_silence_on_loopback(tmp_path: Path) -> None:
    """Datagrams for which the receive buffer has no room are counted, every one."""
    with live("--udp", "127.0.0.1:0", cwd=tmp_path, env=SMALL) as run:
        (payload,) = frames(1)
        sent = 0
        with Sender(run.places[0][1], payload, gso=False) as sender:
            for _ in range(3):
                with halted(run):
                    sent += sum(sender.send() for _ in range(20))
            sent += sender.send(10)
        done = run.stop()
    assert adds_up(done.summary, sent) > 2000
    assert "joined" not in done.err


def test_joined_datagrams_that_are_dropped_are_told_of(tmp_path: Path) -> None:
    """Where the kernel counts messages of several datagrams, one line says so; else it is exact."""
    (payload,) = frames(1)
    for gro in ("true", "false"):
        with live(
            "--udp", "127.0.0.1:0", cwd=tmp_path, env=SMALL | {"PENSTOCK_UDP_GRO": gro}
        ) as run:
            with Sender(run.places[0][1], payload, gso=True) as sender, halted(run):
                sent = sum(sender.send() for _ in range(5))
            done = run.stop()
        told = done.summary
        assert told["kernel_dropped"] > 0
        if gro == "false":
            assert adds_up(told, sent) > 0
        assert told["packets_in"] + told["kernel_dropped"] <= sent
        assert done.err.count("which it counts as one") == (gro == "true")


@pytest.fixture
def wire() -> Iterator[tuple[Namespace, Namespace]]:
    """Yield two namespaces with a wire between them."""
    with namespace() as far:
        near = Namespace(f"{far.name}-near")
        subprocess.run(["ip", "netns", "add", near.name], check=True)
        try:
            far.ip("link", "set", far.left, "netns", near.name)
            for end, interface, address in ((near, "left", NEAR), (far, "right", FAR)):
                end.ip("addr", "add", f"{address}/24", "dev", interface)
                end.ip("link", "set", interface, "arp", "on", "mtu", "1500", "up")
            yield near, far
        finally:
            subprocess.run(["ip", "netns", "del", near.name], check=True)


def test_nothing_is_lost_in_silence_over_a_wire(
    tmp_path: Path, wire: tuple[Namespace, Namespace]
) -> None:
    """The same between two machines, as it were, with traffic of `penstock send`."""
    near, far = wire
    options = ("--scenario", "steady", "--rate", "2000", "--seconds", "1", "--json")
    command = [sys.executable, "-m", "flows.cli", "send", f"{FAR}:9999", *options]
    with live("--udp", f"{FAR}:9999", cwd=tmp_path, where=far, env=SMALL) as run:
        sent = 0
        for stop in (False, True):
            with halted(run) if stop else _nothing():
                done = subprocess.run(
                    near.execute(command), cwd=ROOT, env=environment(), check=True,
                    capture_output=True, text=True, timeout=PATIENCE_S,
                )  # fmt: skip
            sent += json.loads(done.stdout)["sent"]
        told = run.stop().summary
    assert sent > 3000
    assert adds_up(told, sent) > 1000


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@pytest.mark.parametrize(
    ("address", "code", "says"),
    [
        ("127.0.0.1", 2, "want HOST:PORT"),
        ("127.0.0.1:99999", 2, "0 to 65535"),
        ("192.0.2.1:9999", 1, "not an address of this machine"),
        ("127.0.0.1:{taken}", 1, "the port is in use"),
    ],
)
def test_what_cannot_be_received_on_is_one_line(
    tmp_path: Path, address: str, code: int, says: str
) -> None:
    """The line names the address and the cure, and nothing was written."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        place = address.format(taken=other.getsockname()[1])
        with live("--udp", place, "--sink", "files:out", cwd=tmp_path, sockets=0) as run:
            done = run.end()
    assert done.code == code
    assert says in done.line
    assert f"udp {place}" in done.line
    assert not (tmp_path / "out").exists()


def test_nothing_to_receive_on_is_one_line(tmp_path: Path) -> None:
    """Without an address or an interface there is nothing to run."""
    done = penstock("run", "ingest", cwd=tmp_path)
    assert done.code == 2
    assert "give --udp HOST:PORT or --iface IF" in done.line
