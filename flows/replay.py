"""Carrying out a run in this process: recovery store, engine, progress, summary."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from bytewax._bytewax import cli_main, init_db_dir
from bytewax.recovery import RecoveryConfig

from connectors.capture import PAGE
from connectors.clock import monotonic_ns
from connectors.metrics import publish, serve
from connectors.scores import ScoresFile
from connectors.signals import stop_on_signals
from core.errors import PenstockError, RunError, SourceError
from flows.ingest import build
from flows.run import Run
from flows.summary import Summary, summarise

if TYPE_CHECKING:
    from core.config import Settings

REFRESH_S = 0.1

Progress = Callable[[int, int, int], None]
"""Called now and then with bytes of the files consumed, bytes in all, and packets read."""


def replay(
    settings: Settings, notify: Callable[[str], None], progress: Progress | None = None
) -> Summary:
    """Replay captures as the settings say, until they end or a signal does.

    Args:
        settings: All settings.
        notify: Called with one line for the user.
        progress: Called about ten times a second from another thread.

    Returns:
        What was done.

    Raises:
        PenstockError: The run could not start, or could not go on.
    """
    run = Run(settings, notify)
    recovery = _recovery_store(settings.run.recovery)
    if settings.run.scores:
        run.scores = ScoresFile(Path(settings.run.scores))
    collector = None
    try:
        serve(settings.metrics.host, settings.metrics.port)
        collector = publish(run.ledger)
        stop_on_signals(run.stopping)
        flow = build(run)
        begun = monotonic_ns()
        with _reporting(run, progress):
            _execute(
                lambda: cli_main(
                    flow,
                    epoch_interval=timedelta(seconds=settings.run.epoch_s),
                    recovery_config=recovery,
                )
            )
        seconds = (monotonic_ns() - begun) * 1e-9
        summary = summarise(run.ledger, settings.capture.by, seconds)
        if run.scores is not None:
            run.scores.finish(summary.packets_in)
    except BaseException:
        if run.scores is not None:
            run.scores.abandon()
        raise
    finally:
        if collector is not None:
            collector.withdraw()
    if not summary.adds_up:
        raise RunError("packets do not add up; please report this capture: " + repr(summary))
    return summary


def _execute(main: Callable[[], None]) -> None:
    """Run the engine and raise what failed in a step as the error it was."""
    try:
        main()
    except PenstockError:
        raise
    except (RuntimeError, ValueError, OSError) as error:
        raise _cause(error) from error


def _cause(error: BaseException) -> PenstockError:
    """Find our own error under those that Bytewax wrapped round it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, PenstockError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return RunError(f"the run failed: {type(error).__name__}: {error}")


def _recovery_store(folder: str) -> RecoveryConfig | None:
    """Open the folder of snapshots, making an empty store in it the first time."""
    if not folder:
        return None
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not any(path.glob("part-*.sqlite3")):
            init_db_dir(path, 1)
    except (OSError, RuntimeError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise SourceError(f"{folder}: {why}; give --recovery a folder that can be written") from (
            error
        )
    return RecoveryConfig(path)


@contextmanager
def _reporting(run: Run, progress: Progress | None) -> Iterator[None]:
    """Report progress from a thread of its own while the engine runs."""
    if progress is None:
        yield
        return
    done = threading.Event()

    def report() -> None:
        while not done.wait(REFRESH_S):
            page = run.ledger.page(PAGE)
            progress(page.get("file_bytes", 0), page.get("file_bytes_all", 0),
                     page.get("packets_in", 0))  # fmt: skip

    thread = threading.Thread(target=report, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
