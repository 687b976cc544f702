"""What systemd is told, on a real socket of the kind it listens to."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.clock import monotonic_ns
from connectors.supervisor import PINGS, Supervisor


class Listener:
    """The end of systemd."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        """Return what came since the last time."""
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return found


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    """Yield a socket to be told, with a name of either kind."""
    name = f"@penstock-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    found = Listener(name)
    yield found
    found.socket.close()


def test_the_life_of_a_run(listener: Listener) -> None:
    """Ready once, reloading with the time of systemd's clock, ready again, stopping once."""
    told = Supervisor({"NOTIFY_SOCKET": listener.address})
    for _ in range(2):
        told.ready()
    assert listener.heard() == ["READY=1"]
    before_us = monotonic_ns() // 1_000
    told.reloading()
    told.reloaded()
    reloading, ready = listener.heard()
    state, _, at_us = reloading.partition("\nMONOTONIC_USEC=")
    assert (state, ready) == ("RELOADING=1", "READY=1")
    assert before_us <= int(at_us) <= monotonic_ns() // 1_000
    for _ in range(2):
        told.stopping()
    assert listener.heard() == ["STOPPING=1"]
    told.close()
    told.reloaded()
    assert listener.heard() == []


def test_a_ping_means_that_every_part_looked(listener: Listener) -> None:
    """One that hangs ends the pings; the others do not speak for it."""
    now_ns = 10**12
    told = Supervisor(
        {"NOTIFY_SOCKET": listener.address, "WATCHDOG_USEC": "4000000"}, lambda: now_ns
    )
    for _ in range(3):
        told.alive("a", 2)
    assert listener.heard() == []
    told.alive("b", 2)
    assert listener.heard() == ["WATCHDOG=1"]
    step_ns = 4_000_000_000 // PINGS
    for part in "abab":
        told.alive(part, 2)
    assert listener.heard() == []
    now_ns += step_ns
    told.alive("a", 2)
    assert listener.heard() == ["WATCHDOG=1"]
    now_ns += 10 * step_ns
    told.alive("a", 2)
    assert listener.heard() == []
    told.close()


@pytest.mark.parametrize("env", [{}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "0"},
                                 {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}])  # fmt: skip
def test_no_pings_that_nobody_waits_for(listener: Listener, env: dict[str, str]) -> None:
    """Without a watchdog, or with one for another process, there are none."""
    told = Supervisor({"NOTIFY_SOCKET": listener.address} | env)
    told.alive("a", 1)
    assert listener.heard() == []
    told.close()


@pytest.mark.parametrize("address", ["", "vsock:2:1", "/nowhere/notify", "/" + "x" * 200])
def test_a_supervisor_that_is_not_there(address: str) -> None:
    """Nothing is sent, and nothing fails."""
    told = Supervisor({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000"})
    told.ready()
    told.alive("a", 1)
    told.stopping()
    told.close()


def test_one_that_does_not_read_is_not_waited_for(listener: Listener) -> None:
    """A full socket keeps no run from going on."""
    told = Supervisor({"NOTIFY_SOCKET": listener.address})
    for _ in range(10_000):
        told.reloaded()
    assert 0 < len(listener.heard()) < 10_000
    told.close()
