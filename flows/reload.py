"""Settings read again while a run goes on.

Laws:

1. A file that is refused changes nothing, and the line says why.
2. What can change does (`LIVE`), for every shard from its next packet on; whatever else is
   different is named, and waits for a restart.
3. The layers are those of the start: what a flag or a variable says, no file changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from core.controls import Retune
from core.errors import PenstockError
from core.sections import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from connectors.supervisor import Supervisor

LIVE = ("dam.rate_hz", "dam.burst")
READ = ("findings.suppress",)
"""What is in force as soon as it was read (`flows.service`)."""


class Reload:
    """What SIGHUP calls.

    Args:
        settings: Those of the start.
        read: Reads them again, from the same places, and checks them.
        give: Takes a command for every shard.
        supervisor: Is told when it begins and that it is done.
        notify: Is told in one line what came of it.
        more: Says what else was read again, if anything.
    """

    def __init__(
        self,
        settings: Settings,
        read: Callable[[], Settings],
        give: Callable[[Retune], None],
        supervisor: Supervisor,
        notify: Callable[[str], None],
        more: Callable[[], str] = lambda: "",
    ) -> None:
        self._in_force, self._read, self._give = settings, read, give
        self._supervisor, self._notify, self._more = supervisor, notify, more

    def __call__(self) -> None:
        """Read the settings, and change what can be changed."""
        self._supervisor.reloading()
        try:
            self._notify(self._carry_out())
        except PenstockError as error:
            self._notify(f"not reloaded, everything stays as it was: {error}")
        finally:
            self._supervisor.reloaded()

    def _carry_out(self) -> str:
        asked, before = self._read(), self._in_force
        changed = differences(before, asked)
        live = [name for name in changed if name in LIVE]
        parts = []
        if live:
            dam = msgspec.structs.replace(
                before.dam, rate_hz=asked.dam.rate_hz, burst=asked.dam.burst
            )
            self._in_force = msgspec.structs.replace(before, dam=dam)
            values = [
                f"{name} = {_value(asked, name)} (was {_value(before, name)})" for name in live
            ]
            parts.append(", ".join(values) + ("" if before.dam_is_on else " (the dam is off)"))
            if before.dam_is_on:
                self._give(Retune(rate_hz=dam.rate_hz, burst=dam.burst))
        if more := self._more():
            parts.append(more)
        if rest := [name for name in changed if name not in LIVE + READ]:
            parts.append(f"needs a restart: {', '.join(rest)}")
        return f"reloaded: {'; '.join(parts) or 'nothing changed'}"


def differences(before: Settings, after: Settings) -> list[str]:
    """Return the dotted names of settings that are not the same, in order."""
    return [
        f"{section}.{key}"
        for section in Settings.__struct_fields__
        for key in getattr(before, section).__struct_fields__
        if getattr(getattr(before, section), key) != getattr(getattr(after, section), key)
    ]


def _value(settings: Settings, name: str) -> int:
    section, _, key = name.partition(".")
    value: int = getattr(getattr(settings, section), key)
    return value
