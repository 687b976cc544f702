"""What surrounds a live run: who is told how it is, and how its settings are read again.

Laws:

1. It is ready when every part of the source receives; the sink answered before that.
2. Nobody but the workers says that it is alive (`connectors.supervisor`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from connectors.commands import CommandSource
from connectors.signals import reload_on_hangup
from connectors.supervisor import Supervisor
from core.controls import Retune
from flows.reload import Reload
from flows.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.sections import Settings


@contextmanager
def in_service(run: Run, reread: Callable[[], Settings]) -> Iterator[CommandSource]:
    """Tell the supervisor of a run, and reload on SIGHUP, until it is over.

    Args:
        run: A live run.
        reread: Reads the settings again, from the same places.

    Yields:
        Where the commands of the run come from.
    """
    supervisor = Supervisor()
    # A part writes its page when it has begun to receive.
    awaited = {f"source/{part}" for part in run.source().list_parts()}

    def look(worker: int, workers: int) -> None:
        if awaited:
            awaited.difference_update({page for page in awaited if run.ledger.page(page)})
            if awaited:
                return
            supervisor.ready()
        supervisor.alive(worker, workers)

    def checked() -> Settings:
        settings = reread()
        Run(settings, lambda _: None)  # which refuses what cannot be run
        return settings

    controls = CommandSource(run.stopping, look, supervisor.stopping)
    # The rate of a dam that a snapshot brings back is that of the run before.
    dam = run.settings.dam
    if run.recovers and run.settings.dam_is_on:
        controls.give(Retune(rate_hz=dam.rate_hz, burst=dam.burst))
    restore = reload_on_hangup(Reload(run.settings, checked, controls.give, supervisor, run.notify))
    try:
        yield controls
    finally:
        restore()
        supervisor.close()
