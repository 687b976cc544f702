"""The summary of a run: the ledger as one record, and as a table for people."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from core.plain import plain
from core.topics import FINDINGS, FLOWS_DLQ, TELEMETRY, TELEMETRY_DLQ

if TYPE_CHECKING:
    from rich.table import Table

    from connectors.ledger import Ledger


class Files(msgspec.Struct, frozen=True, kw_only=True):
    """Capture files: read (also in part), of these truncated, and not readable at all.

    Of a topic they are its partitions.
    """

    read: int
    truncated: int
    unreadable: int


class Snapshots(msgspec.Struct, frozen=True, kw_only=True):
    """What it took to save the state.

    Attributes:
        bytes_max: Most bytes of one worker and epoch.
        over_bound: How many were larger than is meant for an epoch.
        stalled_s: Seconds that steps stood still for it, of all workers.
        held_s: Seconds that the source waited because no more changes fitted into the next.
    """

    bytes_max: int
    over_bound: int
    stalled_s: float
    held_s: float


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a run did; every packet is in it once.

    Attributes:
        by: `device` or `host`.
        files: Capture files by outcome.
        packets_in: Packets read, after the capture filter.
        filtered: Packets the capture filter rejected.
        ignored: Healthy packets that are no frames, by reason.
        malformed: Packets that do not decode, by reason.
        frames: `packets_in` less ignored and malformed.
        passed: Frames delivered.
        dropped: Frames the dam dropped, by reason; `frames = passed + Σ dropped`.
        held: Frames that wait in the dam of a run that was stopped and can be resumed; else 0.
        queued_max: Most frames that waited at once.
        rows: Feature rows `scored`, `warming`, and `unscored`.
        late: Frames that count in no row, because they were stamped too long before others.
        findings: Findings opened.
        finding_records: Messages about them: opened, updated, closed.
        findings_muted: Findings that were not told, because they are suppressed.
        findings_suppressed: Sightings over the limit of a window, which opened no finding.
        delivered: Records that arrived where the sink puts them, by topic.
        dead_lettered: Records the brokers refused and that went to a dead-letter topic instead, by
            the topic they were meant for.
        lost: Records that were accepted and could not be delivered, likewise.
        live: Whether packets came by themselves, from sockets.
        kernel_dropped: Packets that reached its sockets and that the kernel dropped; where it had
            joined datagrams, messages (`udp.gro`).
        ring_dropped: Packets received and dropped for want of room, at the end of a live run.
        volatile: Whether what was delivered is gone with the run, as in the embedded broker.
        snapshots: What it took to save the state; nothing without recovery.
        seconds: From the first read to the last delivery.
        packets_per_s: Packets read in these seconds, `packets_in` unless the run was resumed.
        interrupted: Whether a signal ended it before its input did.
        failed: Whether what it received from failed, so that it ended before it was told to.
    """

    by: str
    files: Files
    packets_in: int
    filtered: int
    ignored: dict[str, int]
    malformed: dict[str, int]
    frames: int
    passed: int
    dropped: dict[str, int]
    held: int
    queued_max: int
    rows: dict[str, int]
    late: int
    findings: int
    finding_records: int
    findings_muted: int
    findings_suppressed: int
    delivered: dict[str, int]
    dead_lettered: dict[str, int]
    lost: dict[str, int]
    live: bool
    kernel_dropped: int
    ring_dropped: int
    volatile: bool
    snapshots: Snapshots | None
    seconds: float
    packets_per_s: float
    interrupted: bool
    failed: bool

    @property
    def adds_up(self) -> bool:
        """Whether every packet was accounted for, and what was to be delivered was."""
        malformed, by_device = sum(self.malformed.values()), self.by == "device"
        known = self.frames + sum(self.ignored.values()) + malformed
        dead_letters = TELEMETRY_DLQ if by_device else FLOWS_DLQ
        return (
            self.packets_in == known
            and self.frames == self.passed + sum(self.dropped.values()) + self.held
            and self._accepted(dead_letters) == malformed
            and (not by_device or self._accepted(TELEMETRY) == self.passed)
            and self._accepted(FINDINGS) == self.finding_records
        )

    def _accepted(self, topic: str) -> int:
        """Return the records of a topic that the sink was given, whatever became of them."""
        return sum(c.get(topic, 0) for c in (self.delivered, self.dead_lettered, self.lost))

    @property
    def read_anything(self) -> bool:
        """Whether a capture was read: to its end, or until a signal stopped the run.

        What is live was listened to, whatever came.
        """
        return bool(self.live or self.files.read or self.packets_in or self.filtered)


def summarise(
    ledger: Ledger, by: str, seconds: float, *, interrupted: bool = False, volatile: bool = False,
    live: bool = False,
) -> Summary:  # fmt: skip
    """Add up the ledger of a run.

    Args:
        ledger: Its ledger, after the last delivery.
        by: `device` or `host`.
        seconds: How long it took.
        interrupted: Whether a signal ended it before its input did.
        volatile: Whether what was delivered is gone with the run.
        live: Whether packets came by themselves.
    """
    total = ledger.total()
    fresh = total["packets_in"] - total["packets_resumed"]
    return Summary(
        by=by,
        files=Files(
            read=total["files_read"] + (total["files_open"] if interrupted else 0),
            truncated=total["files_truncated"],
            unreadable=total["files_unreadable"],
        ),
        packets_in=total["packets_in"],
        filtered=total["filtered"],
        ignored=_named(total, "ignored"),
        malformed=_named(total, "malformed"),
        frames=total["frames"],
        passed=total["passed"],
        dropped=_named(total, "dropped"),
        held=total["queue_depth"],
        queued_max=total["queued_max"],
        rows={
            "scored": total["rows_scored"],
            "warming": total["rows_warming"],
            "unscored": sum(_named(total, "unscored").values()),
        },
        late=total["late"],
        findings=total["findings"],
        finding_records=total["finding_records"],
        findings_muted=total["findings_muted"],
        findings_suppressed=total["findings_suppressed"],
        delivered=_named(total, "delivered"),
        dead_lettered=_named(total, "dead_lettered"),
        lost=_named(total, "lost"),
        live=live,
        kernel_dropped=total["kernel_dropped"],
        ring_dropped=total["ring_dropped"],
        volatile=volatile,
        snapshots=_snapshots(total),
        seconds=round(seconds, 3),
        packets_per_s=round(fresh / seconds, 1) if seconds > 0 else 0.0,
        interrupted=interrupted,
        failed=bool(total["sources_failed"]),
    )


def _snapshots(total: Counter[str]) -> Snapshots | None:
    if not total["snapshot_bytes_max"]:
        return None
    return Snapshots(
        bytes_max=total["snapshot_bytes_max"],
        over_bound=total["snapshots_over_bound"],
        stalled_s=round(total["snapshot_stall_ns"] * 1e-9, 3),
        held_s=round(total["snapshot_held_ns"] * 1e-9, 3),
    )


def _named(total: Counter[str], prefix: str) -> dict[str, int]:
    """Return the counts under a prefix that are not zero, by name."""
    head = prefix + "."
    return {n.removeprefix(head): c for n, c in sorted(total.items()) if n.startswith(head) and c}


def table(summary: Summary, sink: str | None = None, *, of_topic: bool = False) -> Table:
    """Return the summary as a table of two columns.

    Args:
        summary: What a run did.
        sink: Where its records lie, if they were kept.
        of_topic: Whether it read a topic, whose partitions are its files.
    """
    from rich.table import Table
    from rich.text import Text

    files = summary.files
    rows = [
        *[("partitions read" if of_topic else "files read", files.read)][: not summary.live],
        *[("  of these cut short", files.truncated)][: files.truncated],
        *[("files not readable", files.unreadable)][: files.unreadable],
        *[("rejected by the filter", summary.filtered)][: summary.filtered],
        *[("dropped by the kernel", summary.kernel_dropped)][: summary.live],
        *[("dropped by the ring", summary.ring_dropped)][: summary.live],
        ("packets in", summary.packets_in),
        *((f"  ignored: {n}", c) for n, c in summary.ignored.items()),
        *((f"  malformed: {n}", c) for n, c in summary.malformed.items()),
        ("frames", summary.frames),
        ("  passed", summary.passed),
        *((f"  dropped: {n}", c) for n, c in summary.dropped.items()),
        *[("  held for the resumed run", summary.held)][: summary.held],
        ("queued at most", summary.queued_max),
        *((f"rows {n}", c) for n, c in summary.rows.items() if c),
        *[("frames too late to be scored", summary.late)][: summary.late],
        ("findings", summary.findings),
        *[("  told in messages", summary.finding_records)][: summary.finding_records],
        *[("  not told: suppressed", summary.findings_muted)][: summary.findings_muted],
        *[("  not told: too many", summary.findings_suppressed)][: summary.findings_suppressed],
        *((f"→ {n}", c) for n, c in summary.delivered.items()),
        *((f"  dead letters of {n}", c) for n, c in summary.dead_lettered.items()),
        *((f"  LOST of {n}", c) for n, c in summary.lost.items()),
    ]
    how = "live" if summary.live else "replay"
    grid = Table(title=f"{how} by {summary.by}", show_header=False, title_justify="left")
    grid.add_column()
    grid.add_column(justify="right")
    for name, value in rows:
        grid.add_row(name, f"{value:,}")
    if (saved := summary.snapshots) is not None:
        grid.add_row("bytes of a snapshot at most", f"{saved.bytes_max:,}")
        grid.add_row("seconds stood still for snapshots", f"{saved.stalled_s:,.3f}")
        if saved.held_s:
            grid.add_row("seconds waited for room in one", f"{saved.held_s:,.3f}")
    grid.add_row("seconds", f"{summary.seconds:,.3f}")
    grid.add_row("packets/s", f"{summary.packets_per_s:,.0f}")
    if sink is None:
        sink = "a broker now gone, read back" if summary.volatile else "nowhere: null sink"
    grid.add_row("records in", Text(plain(sink), overflow="fold"))
    return grid
