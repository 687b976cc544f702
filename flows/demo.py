"""The demonstration: simulate a capture, replay it as the command line does, show what came out.

    python -m flows.demo

Laws:

1. What is shown was just done, by the same code as `penstock simulate` and `penstock replay`; both
   command lines are printed and give the same records.
2. Only what a former demonstration wrote is removed.
3. What the model missed is shown as missed.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from connectors.settings import load
from core.errors import PenstockError, SinkError
from core.scenario import Kind, Traffic
from core.topics import FINDINGS, TELEMETRY, TELEMETRY_DLQ
from flows.cli import carry_out
from flows.console import say

if TYPE_CHECKING:
    from core.config import Layer
    from flows.simulate import SimulationSummary
    from flows.summary import Summary

FOLDER = Path("build/demo")
PORT, SEED = 9999, 1
DEVICES, RATE_HZ, SECONDS = 300, 1_500.0, 20.0

SETTINGS = """\
# A dam just wide enough for the steady devices: a herd has to queue, and a flooding device is cut.

[dam]
rate_hz = 1800        # frames/s of all devices together, on average
burst = 500           # frames at once
queue_len_max = 1000  # frames that wait for a token; more are dropped
device_rate_hz = 100  # frames/s of one device
"""

LINES_SHOWN, ROWS_SHOWN = 2, 4
"""Records of a topic, and rows of the terminal for each of them; findings are long, so one."""
FINDINGS_SHOWN = 3
"""Findings about nothing that was planted; the others are only counted."""
WIDE = 110
"""Columns of a terminal that has room for more than the strongest evidence."""


@dataclass(frozen=True, slots=True)
class Planted:
    """What the simulator hid in the capture for the model to find.

    Attributes:
        flooding, drifting: Ids of those devices.
        herd: Devices of the herd.
        start_ns: When the capture begins, ns since the epoch.
    """

    flooding: str
    drifting: str
    herd: int
    start_ns: int

    @property
    def labels(self) -> dict[str, str]:
        """Return what a finding about each key should be called."""
        return {"*": "herd", self.flooding: "flood", self.drifting: "drift"}


def planted() -> Planted:
    """Ask the scenario, which is a function of its seed, whom it makes flood and drift."""
    from flows.simulate import START_NS

    rng = np.random.Generator(np.random.PCG64(SEED))
    traffic = Traffic("mixed", DEVICES, RATE_HZ, SECONDS, rng, START_NS)
    plan = traffic.between(0, traffic.end_ns // 10)

    def device_id(device: int) -> str:
        row = int(np.argmax((plan.device == device) & (plan.kind == Kind.WELL_FORMED)))
        at = int(plan.start[row]) + 2
        return plan.arena[at : at + 16].tobytes().rstrip(b"\0").decode()

    herd = traffic.population - DEVICES
    return Planted(device_id(traffic.flooding), device_id(traffic.drifting), herd, START_NS)


def run(folder: Path, out: Console, err: Console) -> Summary:
    """Give the demonstration.

    Args:
        folder: Where the capture, the settings and the records go; made if missing.
        out: Where results are printed.
        err: Where progress is shown, if it is a terminal.

    Returns:
        The summary of the replay.

    Raises:
        PenstockError: A step failed.
    """
    folder = fresh(folder)
    capture, settings, records = folder / "mixed.pcap", folder / "demo.toml", folder / "records"
    penstock = _command()

    out.rule("[bold]1  a capture to work on", align="left")
    _print_command(out, f"{penstock} simulate {capture} --devices {DEVICES} --rate {RATE_HZ:.0f} "
                        f"--seconds {SECONDS:.0f} --seed {SEED}")  # fmt: skip
    with err.status("simulating"):
        truth, made = planted(), _simulate(capture)
    _print_capture(out, made, truth)

    out.rule("[bold]2  replayed through the graph into files", align="left")
    sink = f"files:{records}"
    _print_command(out, f"{penstock} replay {capture} --config {settings} --sink {sink}")
    _compile(err)
    paths = (str(capture),)
    flags: list[Layer] = [("PATH", {"run": {"paths": paths}}), ("--sink", {"run": {"sink": sink}})]
    summary = carry_out(load(str(settings), flags).settings)
    out.print(account(summary), "")

    out.rule("[bold]3  what the model found", align="left")
    found = [msgspec.json.decode(line) for line in lines(records, FINDINGS)]
    print_findings(out, found, truth)

    out.rule("[bold]4  what a consumer of the records sees", align="left")
    _print_topics(out, records, summary)

    out.rule("[bold]5  what to try next", align="left")
    _print_next(out, penstock, folder)
    return summary


def fresh(folder: Path) -> Path:
    """Make a folder free of what a former run left in it, and put the settings there.

    Returns:
        The folder, or a temporary one where it cannot be written.

    Raises:
        SinkError: No folder can be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("mixed.pcap", "demo.toml"):
            (folder / name).unlink(missing_ok=True)
        if (folder / "records").exists():
            shutil.rmtree(folder / "records")
        (folder / "demo.toml").write_text(SETTINGS)
    except OSError:
        try:
            other = Path(tempfile.mkdtemp(prefix="penstock-demo-"))
            (other / "demo.toml").write_text(SETTINGS)
        except OSError as error:
            raise SinkError(
                f"{folder}: {error.strerror}; start the demonstration in a folder that can be "
                "written"
            ) from error
        return other
    return folder


def _command() -> str:
    """Return how the reader can call this installation from the current folder."""
    script = Path(sys.executable).with_name("penstock")
    here = Path.cwd()
    return str(script.relative_to(here)) if script.is_relative_to(here) else "penstock"


def _simulate(capture: Path) -> SimulationSummary:
    from flows.simulate import simulate

    return simulate(
        capture, scenario="mixed", devices=DEVICES, rate_hz=RATE_HZ, seconds=SECONDS, seed=SEED,
        port=PORT,
    )  # fmt: skip


def _compile(err: Console) -> None:
    """Import what holds kernels; show a bar when they have to be compiled first."""
    from core import kernels

    root = Path(kernels.__file__).parent.parent
    sources = [p for floor in ("core", "models", "connectors") for p in (root / floor).glob("*.py")]
    total = sum(p.read_text().count("\n@kernel(") for p in sources)
    text = "compiling kernels, once per installation: up to 30 s"
    columns = (TextColumn("{task.description}"), BarColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(text, total=total, visible=False)

        def tell(name: str) -> None:
            del name
            if bar.disable and not bar.tasks[task].completed:
                err.print(text, soft_wrap=True)
            bar.update(task, advance=1, visible=True)

        kernels.on_compile.append(tell)
        import flows.replay  # noqa: F401  importing it is what compiles

        kernels.on_compile.remove(tell)


def _print_command(out: Console, line: str) -> None:
    out.print(f"[dim]$[/dim] [cyan]{escape(line)}[/cyan]", soft_wrap=True)


def _print_capture(out: Console, made: SimulationSummary, truth: Planted) -> None:
    malformed, other = sum(made.malformed.values()), sum(made.other.values())
    out.print(
        f"{made.packets:,} packets, {made.bytes / 1e6:.1f} MB, {made.seconds:.0f} s of traffic: "
        f"{made.frames:,} device frames, {malformed:,} malformed packets of "
        f"{len(made.malformed)} kinds, {other:,} healthy packets that are no device frames.\n"
        f"{DEVICES} devices report all the time. Hidden among them: [bold]{truth.drifting}[/bold] "
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


def lines(records: Path, topic: str) -> list[bytes]:
    """Return the records of a topic as they lie in its files, in order."""
    files = sorted((records / topic).glob("*.jsonl"))
    return [line for file in files for line in file.read_bytes().splitlines()]


def print_findings(out: Console, found: list[dict[str, Any]], truth: Planted) -> None:
    """Print what was found about whatever was planted, some of the rest, and what was missed.

    Args:
        out: Where to.
        found: Finding records, in order.
        truth: What was planted.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("at", justify="right", no_wrap=True)
    table.add_column("who", no_wrap=True)
    table.add_column("frames", justify="right", no_wrap=True)
    table.add_column("evidence, and how far from normal")
    table.add_column("planted as", no_wrap=True)
    others = [f for f in found if _who(f) not in truth.labels]
    hidden = {id(f) for f in others[FINDINGS_SHOWN:]}
    for finding in (f for f in found if id(f) not in hidden):
        at_s = (finding["start_time"] - truth.start_ns // 10**6) / 1000
        features = finding["evidences"][0]["data"]["features"][: 1 if out.width < WIDE else 2]
        evidence = "; ".join(
            f"{f['feature']} {f['value']:,.4g} {f['unit']}, {f['distance']:+.1f}σ" for f in features
        )
        label = truth.labels.get(_who(finding), "")
        who = "all together" if _who(finding) == "*" else _who(finding)
        table.add_row(f"{at_s:.1f} s", who, f"{finding['count']:,}", evidence, label,
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


def _who(finding: dict[str, Any]) -> str:
    return str(finding["resources"][0]["name"])


def _print_topics(out: Console, records: Path, summary: Summary) -> None:
    out.print(f"JSON lines, one folder for each topic, in [bold]{records}/[/bold]", soft_wrap=True)
    for topic in (t for t in (TELEMETRY, FINDINGS, TELEMETRY_DLQ) if t in summary.delivered):
        count = summary.delivered[topic]
        out.print(f"[bold]{topic}[/bold]  {count:,} records, of which the first:")
        for line in lines(records, topic)[: 1 if topic == FINDINGS else LINES_SHOWN]:
            _print_record(out, line)
        out.print()


def _print_record(out: Console, line: bytes) -> None:
    """Print a record, or as much of it as `ROWS_SHOWN` rows hold."""
    text, width = line.decode(), out.width - 2
    if len(text) > width * ROWS_SHOWN:
        tail = f" … ({len(line):,} bytes)"
        text = text[: width * ROWS_SHOWN - len(tail)] + tail
    for row in JSONHighlighter()(Text(text)).divide(range(width, len(text), width)):
        out.print(Text("  ") + row)


def _print_next(out: Console, penstock: str, folder: Path) -> None:
    capture = folder / "mixed.pcap"
    steps = (
        ("every host instead of devices", f"{penstock} replay {capture} --by host"),
        ("a capture of your own", f"{penstock} replay FILE.pcap --by host"),
        ("another kind of trouble", f"{penstock} simulate flood.pcap --scenario flood"),
        ("a score for each packet", f"{penstock} replay {capture} --scores scores.npy"),
        ("every setting", f"{penstock} config show"),
    )
    for what, line in steps:
        out.print(f"[dim]# {what}[/dim]\n[cyan]{escape(line)}[/cyan]", soft_wrap=True)
    out.print(f"\nCapture, settings and records lie in [bold]{folder}/[/bold]", soft_wrap=True)


def main() -> None:
    """Run the demonstration; the target `make demo`."""
    try:
        run(FOLDER, Console(highlight=False), Console(stderr=True))
    except PenstockError as error:
        say(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
