"""Options that several commands share, and what options mean as settings.

Typer reads them from the signatures of commands: `by: options.By = None`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Option

from core.errors import UsageError

if TYPE_CHECKING:
    from core.config import Layer

By = Annotated[str | None, Option(help="Who is analysed: device or host.")]
Port = Annotated[int | None, Option(help="UDP port of device frames.")]
Format = Annotated[
    str | None, Option("--format", help="What datagrams are: frame, json, syslog or raw.")
]
JsonKey = Annotated[str | None, Option(help="Member of JSON datagrams that is their key, as a.b.")]
Rate = Annotated[str | None, Option(help="Frames/s the dam passes, or off.")]
Burst = Annotated[int | None, Option(help="Frames the dam passes at once.")]
Filter = Annotated[str | None, Option("--filter", help="Packets to keep, as tcpdump has it.")]
Sink = Annotated[str | None, Option(help="null, files:DIR, kafka://HOST:PORT, or embedded.")]
Config = Annotated[str | None, Option(help="TOML file of settings.")]
Json = Annotated[bool, Option("--json", help="Print one JSON object.")]
Scenario = Annotated[str, Option(help="steady, herd, flood, malformed, drift or mixed.")]
Devices = Annotated[int, Option(help="Devices that report.")]
TrafficRate = Annotated[float, Option(help="Frames/s of all devices together.")]

# The section of each setting that an option of its name sets.
_SECTIONS = {
    "by": "capture", "port": "capture", "format": "capture", "json_key": "capture",
    "filter": "capture", "burst": "dam", "sink": "run", "recovery": "run", "record": "run",
    "evidence": "run",
    "scores": "run", "strict": "run",
}  # fmt: skip


def layers(*, rate: str | None, **given: object) -> list[Layer]:
    """Return what options say as layers of settings, each under the option as it is typed.

    Args:
        rate: As `Rate`.
        given: Settings by name; `None` says nothing.

    Raises:
        UsageError: The rate is none.
    """
    found: list[Layer] = [
        (f"--{name.replace('_', '-')}", {_SECTIONS[name]: {name: value}})
        for name, value in given.items()
        if value is not None
    ]
    return found if rate is None else [*found, ("--rate", {"dam": _rate(rate)})]


def _rate(text: str) -> dict[str, object]:
    """Return what `--rate` means to the dam."""
    if text == "off":
        return {"enabled": False}
    try:
        return {"enabled": True, "rate_hz": int(text)}
    except ValueError:
        raise UsageError(f"--rate: {text!r} is not a whole number; give one, or off") from None
