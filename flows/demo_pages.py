"""The pages of the demonstration: what was simulated, accounted for, found and consumed.

Law: every number shown was counted by the run, or by the consumer that read its records back; what
was shortened says how long it is.

Not here: what is run (`flows.demo`).
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
from rich.highlighter import JSONHighlighter
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from core.topics import FINDINGS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from connectors.read_back import Message
    from flows.demo import Planted
    from flows.summary import Summary

MESSAGES_SHOWN, ROWS_SHOWN = 2, 4
"""Messages of a topic, and rows of the terminal for the value of each; of findings one."""
FINDINGS_SHOWN = 3
"""Findings about nothing that was planted; the others are only counted."""
FINDINGS_KEPT = 10_000
"""Findings kept in memory; there are a few."""
WIDE = 110
"""Columns of a terminal that has room for more than the strongest evidence."""
_LABEL = 9
"""Columns of what stands before a line of a message."""


class Consumed:
    """What the consumer that reads the records back has seen, as far as it is shown.

    Attributes:
        records: Messages by topic.
        first: The first messages of each topic, by their time.
        findings: All findings, decoded.
    """

    def __init__(self) -> None:
        self.records: Counter[str] = Counter()
        self.first: dict[str, list[Message]] = {}
        self.findings: list[dict[str, Any]] = []

    def __call__(self, message: Message) -> None:
        """See one message."""
        self.records[message.topic] += 1
        first = self.first.setdefault(message.topic, [])
        shown = 1 if message.topic == FINDINGS else MESSAGES_SHOWN
        if len(first) < shown or _order(message) < _order(first[-1]):
            first[:] = sorted([*first, message], key=_order)[:shown]
        if message.topic == FINDINGS and len(self.findings) < FINDINGS_KEPT:
            self.findings.append(msgspec.json.decode(message.value))


def _order(message: Message) -> tuple[int, int, int]:
    return message.at_ms, message.partition, message.offset


def print_command(out: Console, line: str) -> None:
    """Print a command line that can be copied."""
    out.print(f"[dim]$[/dim] [cyan]{escape(line)}[/cyan]", soft_wrap=True)


def print_capture(out: Console, made: dict[str, Any], truth: Planted, devices: int) -> None:
    """Print what was simulated, and what is hidden in it.

    Args:
        out: Where to.
        made: What `penstock simulate --json` says of it.
        truth: What was planted.
        devices: Devices that report all the time.
    """
    malformed, other = sum(made["malformed"].values()), sum(made["other"].values())
    out.print(
        f"{made['packets']:,} packets, {made['bytes'] / 1e6:.1f} MB, {made['seconds']:.0f} s of "
        f"traffic: {made['frames']:,} device frames, {malformed:,} malformed packets of "
        f"{len(made['malformed'])} kinds, {other:,} healthy packets that are no device frames.\n"
        f"{devices} devices report all the time. Hidden among them: [bold]{truth.drifting}[/bold] "
        f"drifts, [bold]{truth.flooding}[/bold] floods, and a [bold]herd[/bold] of {truth.herd:,} "
        "new devices appears at once.\n"
    )


def account(summary: Summary) -> Table:
    """Return where every packet went, as a table that adds up line by line."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")

    def block(name: str, counts: dict[str, int], style: str, remark: str) -> None:
        rows = [(reason.replace("_", " "), count) for reason, count in counts.items()]
        for reason, count in rows or [("", 0)]:
            table.add_row(name, reason, f"{count:,}", remark, style=style)
            name = remark = ""

    rate = f"{summary.packets_per_s:,.0f} packets/s, {summary.seconds:.2f} s"
    table.add_row("packets in", "", f"{summary.packets_in:,}", rate)
    block("− ignored", summary.ignored, "", "healthy, but not ours")
    block("− malformed", summary.malformed, "yellow", "to the dead-letter topic")
    table.add_row("= frames", "", f"{summary.frames:,}", "all seen by the model, dropped or not")
    block("− dropped", summary.dropped, "red", "by the dam")
    waited = f"at most {summary.queued_max:,} at once had to wait"
    table.add_row("= passed", "", f"{summary.passed:,}", waited, style="green")
    return table


def print_findings(out: Console, found: list[dict[str, Any]], truth: Planted) -> None:
    """Print what was found about whatever was planted, some of the rest, and what was missed.

    Args:
        out: Where to.
        found: Messages about findings; the last one of each speaks for it.
        truth: What was planted.
    """
    found = list({f["finding_info"]["uid"]: f for f in found}.values())
    found = sorted(found, key=lambda f: (f["start_time"], _who(f)))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("at", justify="right", no_wrap=True)
    table.add_column("who", no_wrap=True)
    table.add_column("frames", justify="right", no_wrap=True)
    table.add_column("found as", no_wrap=True)
    table.add_column("evidence, and how far from normal")
    table.add_column("planted as", no_wrap=True)
    others = [f for f in found if _who(f) not in truth.labels]
    hidden = {id(f) for f in others[FINDINGS_SHOWN:]}
    for finding in (f for f in found if id(f) not in hidden):
        at_s = (finding["start_time"] - truth.start_ns // 10**6) / 1000
        features = finding["evidences"][0]["data"]["features"][: 1 if out.width < WIDE else 2]
        evidence = "; ".join(map(_evidence, features))
        label = truth.labels.get(_who(finding), "")
        who = "all together" if _who(finding) == "*" else _who(finding)
        table.add_row(f"{at_s:.1f} s", who, f"{finding['count']:,}",
                      finding["finding_info"]["types"][0], evidence, label,
                      style="bold" if label else "")  # fmt: skip
    out.print(table)
    rest = Counter("of the herd" if _who(f).startswith("new-") else "steady" for f in others)
    if len(others) > FINDINGS_SHOWN:
        kinds = ", ".join(f"{count} {kind}" for kind, count in rest.items())
        out.print(f"[dim]… and {len(others) - FINDINGS_SHOWN} more; {len(others)} in all are about "
                  f"devices with nothing planted: {kinds}[/dim]")  # fmt: skip
    missed = [label for key, label in truth.labels.items() if key not in map(_who, found)]
    if missed:
        out.print(f"[bold red]planted and not found: {', '.join(missed)}[/bold red]")
    out.print()


def _evidence(feature: dict[str, Any]) -> str:
    """Return a feature with how far it is from normal, or what it may be at most."""
    said = f"{feature['feature']} {feature['value']:,.4g} {feature['unit']}"
    if "distance" in feature:
        return f"{said}, {feature['distance']:+.1f}σ"
    return f"{said}, from {feature['threshold']:,.4g} on"


def _who(finding: dict[str, Any]) -> str:
    return str(finding["resources"][0]["name"])


def print_delivery(out: Console, summary: Summary, seen: Consumed) -> None:
    """Print what was delivered beside what the consumer counted."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("topic", style="bold")
    table.add_column("delivered", justify="right")
    table.add_column("consumed", justify="right")
    table.add_column("")
    for topic in sorted(summary.delivered.keys() | seen.records.keys()):
        delivered, consumed = summary.delivered.get(topic, 0), seen.records[topic]
        verdict = "[green]all of them[/green]" if delivered == consumed else "[red]not equal[/red]"
        table.add_row(topic, f"{delivered:,}", f"{consumed:,}", verdict)
    out.print(table)
    if summary.volatile:
        out.print(
            "[dim]volatile: true, because the broker was in this process and is gone now[/dim]"
        )
    out.print()


def print_messages(out: Console, seen: Consumed) -> None:
    """Print the first messages of each topic as their consumer got them."""
    for topic, messages in sorted(seen.first.items()):
        out.print(f"[bold]{topic}[/bold]")
        for message in messages:
            at = datetime.fromtimestamp(message.at_ms / 1000, UTC)
            place = (
                f"partition {message.partition}  offset {message.offset}  "
                f"{at:%Y-%m-%dT%H:%M:%S}.{message.at_ms % 1000:03d}Z"
            )
            key = "none" if message.key is None else _text(message.key)
            headers = [f"{name}={_text(value)}" for name, value in message.headers.items()]
            _print_field(out, "at", [Text(place)])
            _print_field(out, "key", [Text(key)])
            _print_field(out, "headers", [Text(line) for line in _joined(headers, out.width)])
            width = out.width - _LABEL
            value = _value(message.value, width * ROWS_SHOWN)
            _print_field(out, "value", value.divide(range(width, len(value), width)))
            out.print()


def _text(value: bytes) -> str:
    """Return bytes as they are, or in hex when they are no printable text."""
    text = value.decode(errors="replace")
    return text if text.isprintable() and "\ufffd" not in text else f"0x{value.hex()}"


def _value(value: bytes, columns: int) -> Text:
    """Return a JSON value in colour, or as much of it as so many columns hold."""
    text = value.decode(errors="replace")
    if len(text) > columns:
        tail = f" … ({len(value):,} bytes)"
        text = text[: columns - len(tail)] + tail
    return JSONHighlighter()(Text(text))


def _joined(words: list[str], width: int) -> list[str]:
    """Put as many words on a line as there is room for."""
    lines: list[str] = []
    for word in words:
        if lines and _LABEL + len(lines[-1]) + len(word) + 2 <= width:
            lines[-1] += f"  {word}"
        else:
            lines.append(word)
    return lines


def _print_field(out: Console, label: str, lines: Iterable[Text]) -> None:
    """Print what a message has under a name."""
    for line in lines:
        out.print(Text.assemble((f"{label:<{_LABEL}}", "dim"), line))
        label = ""


def print_next(out: Console, penstock: str, capture: str, settings: str) -> None:
    """Print what to try next.

    Args:
        out: Where to.
        penstock: How the reader calls this installation.
        capture: The capture of the demonstration.
        settings: Its settings.
    """
    kafka = "kafka://localhost:19092"
    steps = (
        ("a Kafka that stays, on an object store (once: cp .env.example .env)",
         "docker compose up -d --wait automq"),
        ("the same records there",
         f"{penstock} replay {capture} --config {settings} --sink {kafka}"),
        ("what its topics hold", f"{penstock} topics describe {kafka}"),
        ("every host instead of devices, into files",
         f"{penstock} replay {capture} --by host --sink files:records"),
        ("a capture of your own", f"{penstock} replay FILE.pcap --by host"),
        ("a score for each packet", f"{penstock} replay {capture} --scores scores.npy"),
        ("every setting", f"{penstock} config show"),
    )  # fmt: skip
    for what, line in steps:
        out.print(f"[dim]# {what}[/dim]\n[cyan]{escape(line)}[/cyan]", soft_wrap=True)
