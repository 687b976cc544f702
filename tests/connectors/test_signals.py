"""Signals: the first ends the sources and drains, the second kills."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from connectors.signals import stop_on_signals
from tests import captures as make
from tests.captures import SECOND_NS, Packet

if TYPE_CHECKING:
    from collections.abc import Callable

WAITER = """
import signal, sys, threading
from connectors.signals import stop_on_signals
stopping = threading.Event()
before = signal.getsignal(signal.SIGINT)
restore = stop_on_signals(stopping)
print("ready", flush=True)
while not stopping.wait(0.05):
    pass
print("stopping", flush=True)
if sys.argv[1] == "drain":
    restore()
    print(signal.getsignal(signal.SIGINT) is before, flush=True)
else:
    while True:
        signal.pause()
"""


INSIDE = """
import signal, threading
from connectors.signals import stop_on_signals
stopping = threading.Event()
stop_on_signals(stopping)
with stopping._cond:  # as in the middle of a wait
    signal.raise_signal(signal.SIGTERM)
print(stopping.wait(60), flush=True)
"""


HANGUP = """
import signal, threading
from connectors.signals import reload_on_hangup
lock, calls = threading.Lock(), []
def reload():
    with lock:
        calls.append(threading.active_count())
        done.release()
done = threading.Semaphore(0)
restore = reload_on_hangup(reload)
with lock:  # as in the middle of what a reload is to change
    signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGHUP)
print(done.acquire(timeout=60) and done.acquire(timeout=60), len(calls), flush=True)
restore()
print(signal.getsignal(signal.SIGHUP) is signal.SIG_DFL, flush=True)
"""


def started(code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_signal_in_the_middle_of_a_wait() -> None:
    """Whoever waits for the event holds its lock at moments, at which a signal may come."""
    with started(INSIDE) as process:
        try:
            assert process.wait(60) == 0
            assert line(process) == "True"
        finally:
            process.kill()


def test_each_hangup_is_a_call() -> None:
    """Whatever it interrupts, one call follows the other, and the old handler comes back."""
    with started(HANGUP) as process:
        try:
            assert process.wait(60) == 0
            assert [line(process), line(process)] == ["True 2", "True"]
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_drains(number: signal.Signals) -> None:
    """The event is set, the program goes on to its own end, and old handlers come back."""
    with started(WAITER, "drain") as process:
        assert line(process) == "ready"
        process.send_signal(number)
        assert [line(process), line(process)] == ["stopping", "True"]
        assert process.wait(60) == 0


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_kills(first: signal.Signals, second: signal.Signals) -> None:
    """Whichever two come, the second ends a program that does not end by itself."""
    with started(WAITER, "hang") as process:
        assert line(process) == "ready"
        process.send_signal(first)
        assert line(process) == "stopping"
        process.send_signal(second)
        assert process.wait(60) == -second


def test_only_the_main_thread_listens() -> None:
    """In another thread nothing is installed, and nothing raised."""
    before = signal.getsignal(signal.SIGINT)
    done: list[object] = []

    def install() -> None:
        stop_on_signals(threading.Event())()
        done.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=install)
    thread.start()
    thread.join()
    assert done == [before]


def replaying(*arguments: str) -> subprocess.Popen[str]:
    code = "import sys; from flows.cli import main; sys.argv[0] = 'penstock'; main()"
    return started(code, "replay", *arguments, "--json")


def wait_until(true: Callable[[], bool]) -> None:
    """Look again and again until something is true; the test's own time limit bounds it."""
    pause = threading.Event()
    while not true():
        pause.wait(0.01)


def listens(pid: int) -> bool:
    """Tell whether a process handles SIGTERM itself."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.split("SigCgt:")[1].split()[0], 16) >> (signal.SIGTERM - 1) & 1)


def paced(path: Path) -> int:
    """Write packets of which the first are due at once and the last in an hour."""
    some = make.packets(300)
    last = Packet(some[0].at_ns + 3600 * SECOND_NS, b"late", 4)
    path.write_bytes(make.pcap([Packet(some[0].at_ns, p.data, 60) for p in some] + [last]))
    return len(some)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_replay_drains_and_adds_up(tmp_path: Path, number: signal.Signals) -> None:
    """A paced replay that is told to stop reports what it has read, all of it delivered."""
    count = paced(tmp_path / "f")
    sink = tmp_path / "out"
    with replaying(str(tmp_path / "f"), "--speed", "1", "--sink", f"files:{sink}") as process:
        wait_until(lambda: any(p.stat().st_size for p in sink.glob("*/*")))
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    summary = json.loads(out)
    assert summary["packets_in"] == count, err
    assert sum(summary["delivered"].values()) == count
    assert "Traceback" not in err
    assert process.returncode == 0


def test_waiting_for_standard_input_ends_with_a_signal() -> None:
    """A replay whose input is open and silent ends on a signal, and says that nothing was read."""
    with replaying("-", "--sink", "null") as process:
        wait_until(lambda: listens(process.pid))
        process.send_signal(signal.SIGTERM)
        code = process.wait(120)
        assert process.stderr is not None
        err = process.stderr.read()
    assert "interrupted after 0 packets" in err
    assert "Traceback" not in err
    assert code == 1
