"""The command line: `penstock replay | run | evaluate | simulate | send | config | topics …`.

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
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import PenstockError, RunError, UsageError
from flows import options
from flows.carry import carry_out, show
from flows.console import put, refused, say
from flows.evaluate import evaluate
from flows.kafka_cli import dlq_app, topics_app
from flows.live import run_app

if TYPE_CHECKING:
    from types import TracebackType

    from core.config import Layer

# Typer may carry a copy of click inside itself: the base of its errors has no public name.
_TYPED_WRONG: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="penstock",
    help="Packets in, records out: decode, rate-limit, score and deliver traffic.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing what renders it takes longer than all the rest
)
config_app = typer.Typer(
    help="Show or check settings.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(config_app, name="config")
app.add_typer(run_app, name="run")
app.add_typer(topics_app, name="topics")
app.add_typer(dlq_app, name="dlq")
app.command()(evaluate)


def _version(asked: bool) -> None:
    if asked:
        put(f"penstock {version()}")
        raise typer.Exit


def version() -> str:
    """Return the version of this installation, or of the clone this file lies in.

    Raises:
        RunError: It is neither.
    """
    import tomllib
    from importlib import metadata

    project = Path(__file__).resolve().parent.parent / "pyproject.toml"
    try:  # a clone first: what is installed beside it may be another version
        about = tomllib.loads(project.read_text())["project"]
        if about["name"] == "penstock":
            return str(about["version"])
    except (OSError, ValueError, KeyError):
        pass
    try:
        return metadata.version("penstock")
    except metadata.PackageNotFoundError:
        raise RunError("the version is unknown: neither installed nor a clone") from None


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
        list[str],
        typer.Argument(metavar="PATH…", help="Captures, folders, -, or kafka://HOST:PORT/TOPIC."),
    ],
    by: options.By = None,
    port: options.Port = None,
    datagrams: options.Format = None,
    json_key: options.JsonKey = None,
    rate: options.Rate = None,
    burst: options.Burst = None,
    bpf: options.Filter = None,
    speed: Annotated[str | None, typer.Option(help="max, or times capture time.")] = None,
    sink: options.Sink = None,
    recovery: Annotated[
        str | None, typer.Option(help="Folder of snapshots: resume there after a crash.")
    ] = None,
    scores: Annotated[
        str | None, typer.Option(help="Write one float32 a packet to this .npy file.")
    ] = None,
    evidence: Annotated[
        str | None, typer.Option(metavar="DIR", help="Write the packets of findings there.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail when any capture could not be read.")
    ] = False,
    config: options.Config = None,
    as_json: options.Json = False,
) -> None:
    """Replay captures or a topic, and account for each packet."""
    flags: list[Layer] = [("PATH", {"run": {"paths": tuple(paths)}})]
    flags += options.layers(
        by=by, port=port, format=datagrams, json_key=json_key, filter=bpf, rate=rate, burst=burst,
        sink=sink, recovery=recovery, scores=scores, evidence=evidence,
        strict=strict or None,
    )  # fmt: skip
    if speed is not None:
        flags.append(("--speed", {"capture": {"speed": _speed(speed)}}))
    from connectors.settings import load

    settings = load(config, flags).settings
    summary = carry_out(settings)
    show(summary, settings.run, as_json=as_json)
    if not summary.read_anything and not summary.files.unreadable and not summary.interrupted:
        say("nothing was read: no captures in the paths given")
    unreadable = settings.run.strict and summary.files.unreadable
    failed = not summary.read_anything or unreadable or summary.lost
    raise typer.Exit(1 if failed else 0)


def _speed(text: str) -> float:
    """Return what `--speed` means to `capture.speed`, where 0 stands for max."""
    if text == "max":
        return 0.0
    try:
        speed = float(text)
    except ValueError:
        raise UsageError(f"--speed: {text!r} is not a number; give one, or max") from None
    if speed == 0:
        raise UsageError("--speed: nothing would be read at 0; give more, or max")
    return speed


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(metavar="OUT.pcap", help="Capture to write.")],
    scenario: options.Scenario = "mixed",
    devices: options.Devices = 300,
    rate: options.TrafficRate = 1500.0,
    seconds: Annotated[float, typer.Option(help="Length of the capture.")] = 20.0,
    seed: Annotated[int, typer.Option(help="The same seed writes the same capture.")] = 1,
    port: Annotated[int, typer.Option(help="UDP port the devices send to.")] = 9999,
    as_json: options.Json = False,
) -> None:
    """Write a capture of simulated device traffic."""
    import msgspec

    from flows.simulate import simulate as write

    done = write(
        out, scenario=scenario, devices=devices, rate_hz=rate, seconds=seconds, seed=seed, port=port
    )
    if as_json:
        put(msgspec.json.encode(done).decode())
    else:
        put(f"{out}: {done.packets:,} packets of {done.devices:,} devices, {done.bytes:,} bytes")


@app.command()
def send(
    to: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Where to; IPv6 as [::1]:9999.")],
    scenario: options.Scenario = "mixed",
    devices: options.Devices = 300,
    rate: options.TrafficRate = 1500.0,
    seconds: Annotated[float, typer.Option(help="How long to send.")] = 20.0,
    seed: Annotated[int, typer.Option(help="The same seed sends the same payloads.")] = 1,
    sources: Annotated[
        int, typer.Option(help="Sockets, and so ports, that devices are spread over.")
    ] = 1,
    gso: Annotated[
        bool, typer.Option("--gso", help="Hand over datagrams of one length together: cheaper.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Send simulated device traffic as UDP datagrams."""
    import threading

    import msgspec

    from connectors.signals import stop_on_signals
    from core.endpoint import parse
    from flows.send import send as carry

    endpoint, stopping = parse(to), threading.Event()
    restore = stop_on_signals(stopping)
    try:
        done = carry(
            endpoint, scenario=scenario, devices=devices, rate_hz=rate, seconds=seconds, seed=seed,
            sources=sources, gso=gso, stopping=stopping, notify=say,
        )  # fmt: skip
    finally:
        restore()
    if as_json:
        put(msgspec.json.encode(done).decode())
    else:
        put(done.line())
    raise typer.Exit(1 if done.unsent and not done.sent else 0)


@config_app.command("show")
def config_show(
    file: Annotated[str | None, typer.Argument(help="TOML file; else as a run finds it.")] = None,
) -> None:
    """Print every setting as it is in force, and where it comes from."""
    from connectors.settings import load
    from core.config import render_toml

    loaded = load(file)
    put(render_toml(loaded.settings, loaded.origins).rstrip("\n"))


@config_app.command("check")
def config_check(file: Annotated[str, typer.Argument(help="TOML file to check.")]) -> None:
    """Check a file of settings."""
    from connectors.settings import load

    load(file, env={})
    put(f"{file}: ok")


def main() -> None:
    """Run the command line; the entry point `penstock`."""
    sys.excepthook = _last_words
    try:
        # Not `app(…)`, which would put an excepthook of its own in the place of ours.
        code = typer.main.get_command(app)(prog_name="penstock", standalone_mode=False)
    except PenstockError as error:
        say(str(error))
        code = error.exit_code
    except _TYPED_WRONG as error:
        code = _explain(error)
    except OSError as error:  # help, which Typer prints; whatever else fails has a name by now
        failure = refused(error)
        say(str(failure))
        code = failure.exit_code
    except (typer.Abort, KeyboardInterrupt):
        code = 130  # as shells have it for SIGINT
    sys.exit(code if isinstance(code, int) else 0)


def _last_words(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Say in one line that the engine gave up, as it does when the disk of its store is full."""
    if kind.__name__ == "PanicException":  # of Rust, which offers no class to name
        text = " ".join(str(error).split())
        say(f"the engine failed: {text}; is there room and right to write where --recovery points?")
    else:
        sys.__excepthook__(kind, error, trace)


def _explain(error: Exception) -> int:
    """Say what was typed wrong, or print the help that stands for a missing command."""
    context = getattr(error, "ctx", None)
    text = getattr(error, "format_message", error.__str__)()
    if "\n" in text:
        sys.stderr.write(f"{text}\n")
    else:
        command = context.command_path if context is not None else "penstock"
        say(f"{text.rstrip('.')}; see {command} --help")
    return UsageError.exit_code


if __name__ == "__main__":
    main()
