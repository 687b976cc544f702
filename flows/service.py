"""What surrounds a live run: who is told how it is, and how its settings are read again.

Laws:

1. It is ready when every part of the source has looked for packets; the sink answered before that.
2. Nobody but the workers says that it is alive (`connectors.supervisor`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from connectors.signals import reload_on_hangup
from connectors.supervisor import Supervisor
from core.controls import Retune
from flows.reload import Reload
from flows.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.sections import Settings


@contextmanager
def in_service(run: Run, reread: Callable[[], Settings]) -> Iterator[None]:
    """Tell the supervisor of a run, and reload on SIGHUP, until it is over.

    Args:
        run: A live run whose graph is not built yet.
        reread: Reads the settings again, from the same places.
    """
    supervisor = Supervisor()
    parts = run.source().list_parts()
    awaited = set(parts)

    def look(part: str) -> None:
        if run.stopping.is_set():
            supervisor.stopping()
            return
        awaited.discard(part)
        if not awaited:
            supervisor.ready()
            supervisor.alive(part, len(parts))

    def checked() -> Settings:
        settings = reread()
        asked = Run(settings, lambda _: None)  # which refuses what cannot be run
        # What is suppressed is a file of its own, and may be another one under the same name.
        run.suppressions = asked.suppressions
        return settings

    def suppressed() -> str:
        return f"{len(run.suppressions)} suppressions" if len(run.suppressions) else ""

    run.on_look = look
    # The rate of a dam that a snapshot brings back is that of the run before.
    dam = run.settings.dam
    if run.recovers and run.settings.dam_is_on:
        run.commands.append(Retune(rate_hz=dam.rate_hz, burst=dam.burst))
    restore = reload_on_hangup(
        Reload(run.settings, checked, run.commands.append, supervisor, run.notify, suppressed)
    )
    try:
        yield
    finally:
        restore()
        supervisor.close()
