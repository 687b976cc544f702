"""Time goes on when no packets come: what waits is released, in every shard, on every worker."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path
from urllib.request import urlopen

from core.topics import TELEMETRY
from tests.flows.lives import followed, frames, live
from tests.flows.runs import HOSTED, PATIENCE_S, counts, start, wait_until

SLOW = ("--rate", "20", "--burst", "1", "--sink", "files:out")


def test_a_queue_is_released_without_packets(tmp_path: Path) -> None:
    """Frames that had to wait are delivered in time, though nothing comes after them."""
    fast = {"PENSTOCK_RUN_EPOCH_S": "0.05", "PENSTOCK_RUN_SHARDS": "3"}
    with live("--udp", "127.0.0.1:0", *SLOW, cwd=tmp_path, env=fast) as run:
        for device in range(6):
            run.send(*frames(3, f"dev-{device}"))
        out = tmp_path / "out"
        wait_until(run.process, lambda: out.exists() and counts(out).get(TELEMETRY) == 18)
        told = run.stop().summary
    assert told["queued_max"] > 0
    assert told["delivered"][TELEMETRY] == 18


def test_a_window_closes_without_packets(tmp_path: Path) -> None:
    """Rows are scored when their window is over, not when the next packet comes."""
    fast = {"PENSTOCK_METRICS_PORT": str(_free(socket.SOCK_STREAM))}
    with live("--udp", "127.0.0.1:0", cwd=tmp_path, env=fast) as run:
        run.send(*frames(3, "dev-a"), *frames(3, "dev-b"))
        url = f"http://127.0.0.1:{fast['PENSTOCK_METRICS_PORT']}/metrics"
        # More of them where a window ended in between.
        wait_until(run.process, lambda: _number("penstock_rows_warming_total", url) >= 2)
        assert run.stop().summary["rows"]["warming"] >= 2


def test_parts_share_a_port(tmp_path: Path) -> None:
    """Two parts on two workers receive what several senders send, all of it."""
    port = _free(socket.SOCK_DGRAM)
    given = {
        "PENSTOCK_UDP_ADDRESSES": f"127.0.0.1:{port}",
        "PENSTOCK_UDP_PARTS": "2",
        "PENSTOCK_RUN_SHARDS": "4",
        "PENSTOCK_RUN_SINK": "files:out",
    }
    with followed(start([*HOSTED, "-w", "2"], tmp_path, given), sockets=2) as run:
        for device in range(20):
            run.send(*frames(5, f"dev-{device}"))
        done = run.stop(signal.SIGTERM)
    assert done.code == 0, done.err
    told = done.summary
    assert told["packets_in"] + told["kernel_dropped"] == 100
    assert counts(tmp_path / "out")[TELEMETRY] == told["packets_in"] == 100


def _number(metric: str, url: str) -> float:
    """Return what a metric is now."""
    with urlopen(url, timeout=PATIENCE_S) as answer:
        found = re.search(rf"^{metric} (.*)$", answer.read().decode(), re.MULTILINE)
    assert found
    return float(found[1])


def _free(kind: int) -> int:
    """Return a port that nobody uses now."""
    with socket.socket(socket.AF_INET, kind) as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])
