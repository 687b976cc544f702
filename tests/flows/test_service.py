"""A live run as a service: systemd is told, SIGHUP changes rates, and it has a pidfile."""

from __future__ import annotations

import os
import re
import signal
import socket
import urllib.request
from pathlib import Path

import pytest

from core.topics import TELEMETRY
from tests.flows.lives import LiveRun, frames, live
from tests.flows.runs import PATIENCE_S, penstock, wait_until
from tests.kafka.ports import Port

HERE = ("--udp", "127.0.0.1:0", "--sink", "null")


def listener(path: Path) -> socket.socket:
    """Return the end of systemd of a notify socket."""
    ours = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.bind(str(path))
    ours.settimeout(PATIENCE_S)
    return ours


def told(ours: socket.socket, until: str) -> list[str]:
    """Return what is told, one entry for pings in a row, up to something."""
    found: list[str] = []
    while not found or found[-1] != until:
        state = re.sub(r"\d{6,}", "…", ours.recv(4096).decode())
        if found[-1:] != [state]:
            found.append(state)
    return found


def hung_up(run: LiveRun, text: str) -> None:
    """Send SIGHUP and wait for a line that says this."""
    run.process.send_signal(signal.SIGHUP)
    wait_until(run.process, lambda: any(text in line for line in run._lines))


def test_systemd_is_told(tmp_path: Path) -> None:
    """Ready when it receives, alive while it looks, reloading, ready again, and stopping."""
    with listener(tmp_path / "notify") as ours:
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        with live(*HERE, cwd=tmp_path, env=env) as run:
            first = told(ours, "WATCHDOG=1")
            assert first[0] == "READY=1"
            assert told(ours, "WATCHDOG=1") == ["WATCHDOG=1"]
            hung_up(run, "reloaded: nothing changed")
            assert told(ours, "READY=1")[-2:] == ["RELOADING=1\nMONOTONIC_USEC=…", "READY=1"]
            assert told(ours, "WATCHDOG=1") == ["WATCHDOG=1"]
            done = run.stop(signal.SIGTERM)
            assert told(ours, "STOPPING=1")[-1] == "STOPPING=1"
        assert done.code == 0
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            ours.recv(4096)


def test_a_run_that_cannot_receive_is_not_ready(tmp_path: Path) -> None:
    """A port in use is one line, and systemd is told nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken, \
            listener(tmp_path / "notify") as ours:  # fmt: skip
        taken.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        done = penstock("run", "ingest", "--udp", where, "--sink", "null", cwd=tmp_path, **env)
        assert done.code == 1
        assert "the port is in use" in done.line
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            ours.recv(4096)


@pytest.mark.parametrize("shards", [1, 3])
def test_a_lower_rate_drops_what_comes_after(tmp_path: Path, shards: int) -> None:
    """Every shard gets it from SIGHUP on; a file that is wrong leaves it as it is."""
    port = Port()
    port.close()
    number = port.address.rpartition(":")[2]
    file = tmp_path / "penstock.toml"
    wide = f"[run]\nshards = {shards}\n[metrics]\nport = {number}\n[dam]\nqueue_len_max = 0\n"
    file.write_text(f"{wide}rate_hz = 1000000\nburst = 1000000\n")

    def rate_hz() -> float:
        url = f"http://127.0.0.1:{number}/metrics"
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as page:
            text = page.read().decode()
        found = re.search(r"^penstock_rate_limit (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    devices = [f"dev-{i}" for i in range(20)]
    with live(*HERE, cwd=tmp_path) as run:
        run.send(*[frame for device in devices for frame in frames(20, device)])
        wait_until(run.process, lambda: rate_hz() == 1_000_000 * shards)
        file.write_text(f"{wide}rate_hz = 0\n")
        hung_up(run, "not reloaded, everything stays as it was: penstock.toml: dam.rate_hz")
        file.write_text(f"{wide}rate_hz = 1\nburst = 2\n[kafka]\nlinger_ms = 7\n")
        hung_up(run, "reloaded: dam.rate_hz = 1 (was 1000000), dam.burst = 2 (was 1000000); "
                     "needs a restart: kafka.linger_ms")  # fmt: skip
        wait_until(run.process, lambda: rate_hz() == shards)
        run.send(*[frame for device in devices for frame in frames(20, device, first=20)])
        done = run.stop()
    summary = done.summary
    assert summary["frames"] == 800
    dropped = summary["dropped"]["queue_full"]
    assert summary["delivered"][TELEMETRY] == 800 - dropped
    # Of the second half a few pass: the burst of each shard, and what its rate earns meanwhile.
    assert 300 < dropped < 400


def test_a_second_run_with_the_same_pidfile(tmp_path: Path) -> None:
    """It is refused in one line that says who runs; the file goes with the first one."""
    path = tmp_path / "penstock.pid"
    with live(*HERE, "--pidfile", path, cwd=tmp_path) as run:
        assert path.read_text() == f"{run.process.pid}\n"
        second = penstock("run", "ingest", *HERE, "--pidfile", path, cwd=tmp_path)
        assert second.code == 1
        assert f"{path}: process {run.process.pid} runs with it" in second.line
        os.kill(int(path.read_text()), signal.SIGTERM)
        assert run.end().code == 0
    assert not path.exists()


def test_rates_of_a_reload_outlive_a_restart(tmp_path: Path) -> None:
    """With recovery on, the next run has the rate of its settings, whatever the last one had."""
    file = tmp_path / "penstock.toml"
    recovering = (*HERE, "--recovery", "state")
    file.write_text("[dam]\nrate_hz = 500\nqueue_len_max = 0\n")
    with live(*recovering, cwd=tmp_path) as run:
        run.send(*frames(5))
        file.write_text("[dam]\nrate_hz = 1\nburst = 1\nqueue_len_max = 0\n")
        hung_up(run, "reloaded: dam.rate_hz = 1 (was 500), dam.burst")
        assert run.stop().code == 0
    with live(*recovering, cwd=tmp_path) as run:
        run.send(*frames(30, first=5))
        done = run.stop()
    assert done.code == 0, done.err
    assert done.summary["frames"] == 35
    assert done.summary["dropped"]["queue_full"] > 20
