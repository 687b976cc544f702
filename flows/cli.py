"""The command line: `penstock replay | simulate | config | --version`.

Laws:

1. Results go to standard output, everything else to standard error. `--json` prints exactly one
   object.
2. An error is one line with its cause and its cure. Exit 2: what was asked is wrong; exit 1: it
   failed.
3. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.errors import PenstockError

if TYPE_CHECKING:
    from core.config import Layer
    from flows.summary import Summary

app = typer.Typer(
    name="penstock",
    help="Packets in, records out: decode, rate-limit, score and deliver captured traffic.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Show or check settings.", no_args_is_help=True)
app.add_typer(config_app, name="config")


def say(line: str) -> None:
    """Print one line for the user on standard error."""
    print(f"penstock: {line}", file=sys.stderr, flush=True)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"penstock {version('penstock')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


@app.command()
def replay(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH…", help="Captures, folders, - for standard input.")
    ],
    by: Annotated[str | None, typer.Option(help="Who is analysed: device or host.")] = None,
    port: Annotated[int | None, typer.Option(help="UDP port of device frames.")] = None,
    rate: Annotated[str | None, typer.Option(help="Frames/s the dam passes, or off.")] = None,
    burst: Annotated[int | None, typer.Option(help="Frames the dam passes at once.")] = None,
    bpf: Annotated[
        str | None, typer.Option("--filter", help="Packets to keep, as tcpdump has it.")
    ] = None,
    speed: Annotated[str | None, typer.Option(help="max, or times capture time.")] = None,
    sink: Annotated[str | None, typer.Option(help="null or files:DIR.")] = None,
    recovery: Annotated[
        str | None, typer.Option(help="Folder of snapshots: resume there after a crash.")
    ] = None,
    scores: Annotated[
        str | None, typer.Option(help="Write one float32 a packet to this .npy file.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail when any capture could not be read.")
    ] = False,
    config: Annotated[str | None, typer.Option(help="TOML file of settings.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Replay captured packets through the graph, and say what became of each."""
    flags: list[Layer] = [("PATH", {"run": {"paths": tuple(paths)}})]
    _flag(flags, "--by", "capture", "by", by)
    _flag(flags, "--port", "capture", "port", port)
    _flag(flags, "--filter", "capture", "filter", bpf)
    _flag(flags, "--burst", "dam", "burst", burst)
    _flag(flags, "--sink", "run", "sink", sink)
    _flag(flags, "--recovery", "run", "recovery", recovery)
    _flag(flags, "--scores", "run", "scores", scores)
    _flag(flags, "--strict", "run", "strict", strict or None)
    if speed is not None:
        _flag(flags, "--speed", "capture", "speed", _number("--speed", speed, "max", 0.0))
    if rate == "off":
        flags.append(("--rate", {"dam": {"enabled": False}}))
    elif rate is not None:
        number = int(_number("--rate", rate, "off", 0))
        flags.append(("--rate", {"dam": {"enabled": True, "rate_hz": number}}))
    summary = run_replay(config, flags, quiet=as_json)
    show(summary, as_json=as_json)
    failed = summary.files.unreadable and (strict or not summary.files.read)
    raise typer.Exit(1 if failed or not summary.files.read else 0)


def run_replay(config: str | None, flags: list[Layer], *, quiet: bool) -> Summary:
    """Load settings and kernels, then replay with a progress bar unless quiet."""
    from connectors.settings import load

    settings = load(config, flags).settings
    engine = _load_engine()
    if quiet or not sys.stderr.isatty():
        return engine.replay(settings, say)
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def progress(done: int, total: int, packets: int) -> None:
            bar.update(
                task, completed=done, total=total or None, description=f"{packets:,} packets"
            )

        return engine.replay(settings, say, progress)


def _load_engine() -> Any:
    """Import what runs a flow; say so when kernels have to be compiled first."""
    from core import kernels

    told: list[str] = []

    def tell(name: str) -> None:
        if not told:
            say("compiling kernels, once per installation: up to 30 s")
        told.append(name)

    kernels.on_compile.append(tell)
    from flows import replay as engine

    return engine


def show(summary: Summary, *, as_json: bool) -> None:
    """Print a summary on standard output."""
    import msgspec

    if as_json:
        print(msgspec.json.encode(summary).decode())
        return
    from rich.console import Console

    from flows.summary import table

    Console().print(table(summary))


def _flag(flags: list[Layer], flag: str, section: str, name: str, value: object) -> None:
    if value is not None:
        flags.append((flag, {section: {name: value}}))


def _number(flag: str, text: str, word: str, meaning: float) -> float:
    """Return a number, or what a word stands for."""
    from core.errors import UsageError

    if text == word:
        return meaning
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{flag}: {text!r} is not a number; give one, or {word}") from None


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(metavar="OUT.pcap", help="Capture to write.")],
    scenario: Annotated[
        str, typer.Option(help="steady, herd, flood, malformed, drift or mixed.")
    ] = "mixed",
    devices: Annotated[int, typer.Option(help="Devices that report.")] = 300,
    rate: Annotated[float, typer.Option(help="Frames/s of all devices together.")] = 1500.0,
    seconds: Annotated[float, typer.Option(help="Length of the capture.")] = 20.0,
    seed: Annotated[int, typer.Option(help="The same seed writes the same capture.")] = 1,
    port: Annotated[int, typer.Option(help="UDP port the devices send to.")] = 9999,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written.")] = False,
) -> None:
    """Write a capture of simulated device traffic."""
    import msgspec

    from flows.simulate import simulate as write

    done = write(
        out, scenario=scenario, devices=devices, rate_hz=rate, seconds=seconds, seed=seed, port=port
    )
    if as_json:
        print(msgspec.json.encode(done).decode())
    else:
        print(f"{out}: {done.packets:,} packets of {done.devices:,} devices, {done.bytes:,} bytes")


@config_app.command("show")
def config_show(
    file: Annotated[str | None, typer.Argument(help="TOML file; else as a run finds it.")] = None,
) -> None:
    """Print every setting as it is in force, and where it comes from."""
    from connectors.settings import load
    from core.config import render_toml

    loaded = load(file)
    print(render_toml(loaded.settings, loaded.origins), end="")


@config_app.command("check")
def config_check(file: Annotated[str, typer.Argument(help="TOML file to check.")]) -> None:
    """Check a file of settings."""
    from connectors.settings import load

    load(file, env={})
    print(f"{file}: ok")


def main() -> None:
    """Run the command line; the entry point `penstock`."""
    try:
        app()
    except PenstockError as error:
        say(str(error))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
