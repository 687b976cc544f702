"""Replays of the corpus in this process, through the whole graph, with their account checked."""

from __future__ import annotations

import gzip
import signal
from typing import TYPE_CHECKING, NamedTuple

from core.config import decode
from core.reasons import Reason
from core.topics import FINDINGS, FLOWS_DLQ, TELEMETRY, TELEMETRY_DLQ
from flows.replay import replay

if TYPE_CHECKING:
    from pathlib import Path

    from flows.summary import Summary

MODES = ("host", "device")
COMPOSITE = "kitsune-mirai/composite-dev.pcap.gz"


ADVICE = ("no device frames", "too long before others")
"""What is said of a whole replay rather than of one capture."""


class Replayed(NamedTuple):
    """What a replay did, and the lines it had for the user about its captures."""

    summary: Summary
    notices: tuple[str, ...]


def replayed(*paths: Path, by: str, sink: str = "null", scores: str = "") -> Replayed:
    """Replay captures and check that every packet and record is accounted for."""
    run = {"paths": tuple(map(str, paths)), "sink": sink, "scores": scores}
    notices: list[str] = []
    # A replay takes both signals for itself; the next Ctrl-C is meant for pytest again.
    kept = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        summary = replay(decode([("test", {"capture": {"by": by}, "run": run})]), notices.append)
    finally:
        for each, handler in kept.items():
            signal.signal(each, handler)
    check_account(summary)
    about = [line for line in notices if not any(advice in line for advice in ADVICE)]
    at_port = any(Reason[name.upper()] >= Reason.UDP_LENGTH for name in summary.malformed)
    is_elsewhere = bool(summary.ignored) and not summary.frames and not at_port
    assert len(notices) - len(about) == bool(summary.late) + is_elsewhere
    return Replayed(summary, tuple(about))


def check_account(summary: Summary) -> None:
    """Add up packets, frames and records from the summary's own numbers."""
    ignored, malformed = sum(summary.ignored.values()), sum(summary.malformed.values())
    assert summary.packets_in == summary.frames + ignored + malformed
    assert summary.frames == summary.passed + sum(summary.dropped.values())
    assert summary.delivered.get(FINDINGS, 0) == summary.finding_records
    assert summary.rows["unscored"] == 0
    if summary.by == "host":
        assert not summary.ignored
        assert not summary.dropped
        assert summary.delivered.get(FLOWS_DLQ, 0) == malformed
    else:
        assert summary.delivered.get(TELEMETRY, 0) == summary.passed
        assert summary.delivered.get(TELEMETRY_DLQ, 0) == malformed


def inflated(path: Path) -> bytes:
    """Return a capture's bytes, out of gzip."""
    data = path.read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
