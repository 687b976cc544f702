"""The demonstration: simulate a capture, replay it into Kafka, show what came out.

    python -m flows.demo

The broker is librdkafka's mock cluster in this process (`--sink embedded`), so that nothing has to
be installed; everything is read back from it by an ordinary consumer.

Laws:

1. What is shown was just done, by the same code as `penstock simulate` and `penstock replay`; both
   command lines are printed and give the same records.
2. Only what a former demonstration wrote is removed.
3. What the model missed is shown as missed, and what did not arrive as not arrived.

Not here: how it is shown (`flows.demo_pages`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from connectors.settings import load
from core.errors import PenstockError, RunError, SinkError
from core.scenario import Kind, Traffic
from flows.carry import carry_out
from flows.console import say
from flows.demo_pages import (
    Consumed,
    account,
    print_capture,
    print_command,
    print_delivery,
    print_findings,
    print_messages,
    print_next,
)

if TYPE_CHECKING:
    from core.config import Layer
    from flows.summary import Summary

FOLDER = Path("build/demo")
DEVICES, RATE_HZ, SECONDS, SEED = 300, 1_500.0, 20.0, 1
START_NS = 1_767_225_600_000_000_000
"""When a simulated capture begins. `flows.simulate` has it too, and takes long to import."""

SETTINGS = """\
# A dam just wide enough for the steady devices: a herd has to queue, and a flooding device is cut.

[dam]
rate_hz = 1800        # frames/s of all devices together, on average
burst = 500           # frames at once
queue_len_max = 1000  # frames that wait for a token; more are dropped
device_rate_hz = 100  # frames/s of one device
"""


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
        folder: Where the capture and the settings go; made if missing.
        out: Where results are printed.
        err: Where progress is shown, if it is a terminal.

    Returns:
        The summary of the replay.

    Raises:
        PenstockError: A step failed.
    """
    folder = fresh(folder)
    capture, settings = folder / "mixed.pcap", folder / "demo.toml"
    penstock = _command()

    out.rule("[bold]1  a capture to work on", align="left")
    simulate = ["simulate", str(capture), "--devices", str(DEVICES), "--rate", f"{RATE_HZ:.0f}",
                "--seconds", f"{SECONDS:.0f}", "--seed", str(SEED)]  # fmt: skip
    print_command(out, " ".join([penstock, *simulate]))
    with _running(simulate) as simulation:
        # Importing what the replay needs takes as long as simulating what it reads.
        _compile(err)
        truth = planted()
        with err.status("simulating"):
            made = _result(simulation)
    print_capture(out, made, truth, DEVICES)

    out.rule("[bold]2  replayed through the graph into Kafka", align="left")
    print_command(out, f"{penstock} replay {capture} --config {settings} --sink embedded")
    paths, seen = (str(capture),), Consumed()
    flags: list[Layer] = [
        ("PATH", {"run": {"paths": paths}}), ("--sink", {"run": {"sink": "embedded"}})
    ]  # fmt: skip
    summary = carry_out(load(str(settings), flags).settings, seen)
    out.print(account(summary), "")

    out.rule("[bold]3  what the model found", align="left")
    print_findings(out, seen.findings, truth)

    out.rule("[bold]4  what a consumer of the topics sees", align="left")
    print_delivery(out, summary, seen)
    print_messages(out, seen)

    out.rule("[bold]5  what to try next", align="left")
    print_next(out, penstock, str(capture), str(settings))
    out.print(f"\nCapture and settings lie in [bold]{folder}/[/bold]", soft_wrap=True)
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


@contextmanager
def _running(arguments: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run our command line in a process of its own, which ends with the block at the latest."""
    root = str(Path(__file__).parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(  # noqa: S603  this interpreter, and arguments of our own
        [sys.executable, "-m", "flows.cli", *arguments, "--json"],
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def _result(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Wait for a command, and return the object it prints."""
    text, complaint = process.communicate()
    if process.returncode:
        raise RunError(complaint.decode(errors="replace").strip().removeprefix("penstock: "))
    made: dict[str, Any] = msgspec.json.decode(text)
    return made


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
        import flows.replay  # noqa: F401  importing it brings along the kernels

        kernels.load_kernels()
        kernels.on_compile.remove(tell)


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
