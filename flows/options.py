"""Options that several commands share, and what they mean as settings.

Typer reads them from the signatures of commands: `datagrams: FormatOption = None`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from core.config import Layer

FormatOption = Annotated[
    str | None,
    typer.Option("--format", help="What datagrams are: frame, json, syslog or raw."),
]
JsonKeyOption = Annotated[
    str | None,
    typer.Option("--json-key", help="Member of JSON datagrams that is their key, as a.b."),
]


def payload_flags(datagrams: str | None, json_key: str | None) -> list[Layer]:
    """Return what is asked for as layers of settings.

    Args:
        datagrams: As `FormatOption`.
        json_key: As `JsonKeyOption`.
    """
    asked = (("--format", "format", datagrams), ("--json-key", "json_key", json_key))
    return [(flag, {"capture": {name: value}}) for flag, name, value in asked if value is not None]
