"""Carrying out a run in this process: recovery store, engine, progress, summary."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

# What `bytewax.run` and `bytewax.recovery` call; neither can be called without a command line.
from bytewax._bytewax import cli_main, init_db_dir
from bytewax.recovery import (
    InconsistentPartitionsError,
    MissingPartitionsError,
    NoPartitionsError,
    RecoveryConfig,
)

from connectors.clock import monotonic_ns
from connectors.engine_store import claim_store, unsound
from connectors.metrics import publish, serve
from connectors.recording import Recording
from connectors.scores import ScoresFile
from connectors.signals import stop_on_signals
from core.errors import PenstockError, RunError, SinkError, SourceError
from core.reasons import Reason
from flows.ingest import build
from flows.keeper import PICKLE_ERRORS
from flows.run import Run
from flows.service import in_service
from flows.watching import open_evidence

if TYPE_CHECKING:
    from bytewax.dataflow import Dataflow

    from connectors.read_back import OnRecord
    from core.sections import Settings
    from flows.summary import Summary

REFRESH_S = 0.1
NOTHING_LEFT = "nothing was left to do: this is the account of the runs before"
_STORE_ERRORS = (InconsistentPartitionsError, MissingPartitionsError, NoPartitionsError)

_UNDELIVERABLE = Reason.UNDELIVERABLE.name.lower()

Progress = Callable[[int, int, int], None]
"""Called now and then with bytes of the files consumed, bytes in all, and packets read."""


def replay(
    settings: Settings,
    notify: Callable[[str], None],
    progress: Progress | None = None,
    on_record: OnRecord | None = None,
    reread: Callable[[], Settings] | None = None,
) -> Summary:
    """Replay captures as the settings say, until they end or a signal does.

    Args:
        settings: All settings.
        notify: Called with one line for the user.
        progress: Called about ten times a second from another thread.
        on_record: Shown each message that is read back from the embedded broker.
        reread: Reads the settings again when SIGHUP asks for it; of a live run only.

    Returns:
        What was done.

    Raises:
        PenstockError: The run could not start, or could not go on.
    """
    run = Run(settings, notify, on_record=on_record)
    with ExitStack() as undo:
        recovery = _recovery_store(settings.run.recovery)
        if recovery is not None:
            undo.callback(claim_store(Path(settings.run.recovery)))
        if settings.run.scores:
            run.scores = ScoresFile(Path(settings.run.scores))
            undo.callback(run.scores.abandon)
        if settings.run.evidence:
            run.evidence = open_evidence(run)
            undo.callback(run.evidence.close)
        if run.is_live and settings.run.record:
            run.recording = Recording(Path(settings.run.record))
            undo.callback(run.recording.close)
        undo.callback(serve(settings.metrics.host, settings.metrics.port))
        undo.callback(publish(run.ledger).withdraw)
        undo.callback(stop_on_signals(run.stopping))
        undo.callback(run.close)
        if reread is not None:
            undo.enter_context(in_service(run, reread))
        flow = build(run)
        begun_ns = monotonic_ns()
        run.warm_up()
        with _reporting(run, progress):
            _execute(flow, settings.run.epoch_s, recovery)
        run.verify()
        run.close()
        summary = run.summary((monotonic_ns() - begun_ns) * 1e-9)
        if not summary.adds_up:
            raise RunError(f"packets do not add up; please report this capture: {summary!r}")
        if run.scores is not None:
            run.scores.finish(summary.packets_in)
    _advise(run, summary)
    return summary


def _advise(run: Run, summary: Summary) -> None:
    """Say what a reader of the summary would otherwise have to guess."""
    total = run.ledger.total()
    if summary.kernel_dropped and total["joined"]:
        run.notify(
            "the kernel dropped messages of several datagrams, which it counts as one: "
            f"kernel_dropped ({summary.kernel_dropped:,}) is less than what was sent and not "
            "received; with udp.gro = false it is exact"
        )
    if summary.lost:
        lost = ", ".join(f"{count:,} of {topic}" for topic, count in summary.lost.items())
        cure = "" if summary.live else "; with --recovery the next run would deliver them"
        run.notify(f"records were LOST: {lost}{cure}")
    elif summary.interrupted:
        ways = "the same command goes on there" if run.recovers else "start it again for the rest"
        run.notify(f"interrupted after {summary.packets_in:,} packets; {ways}")
    elif summary.live:
        pass
    elif summary.packets_in and summary.packets_in == total["packets_resumed"]:
        run.notify(NOTHING_LEFT)
    elif summary.ignored.keys() - {_UNDELIVERABLE} and not summary.frames + _at_our_port(summary):
        port = run.settings.capture.port
        run.notify(f"no device frames to UDP port {port}; name another --port, or use --by host")
    if summary.late:
        run.notify(
            f"{summary.late:,} frames were stamped too long before others to be scored: captures "
            "that overlap in time are better replayed one by one"
        )


def _at_our_port(summary: Summary) -> int:
    """Return the malformed packets of which it is known that they were sent to our port."""
    counts = summary.malformed.items()
    return sum(count for name, count in counts if Reason[name.upper()] >= Reason.UDP_LENGTH)


def _execute(flow: Dataflow, epoch_s: float, recovery: RecoveryConfig | None) -> None:
    """Run the engine and raise what failed in a step as the error it was."""
    try:
        cli_main(flow, epoch_interval=timedelta(seconds=epoch_s), recovery_config=recovery)
    except _STORE_ERRORS as error:
        raise _damaged(recovery, error) from error
    except (RuntimeError, ValueError, OSError) as error:
        known = cause(error)
        if known is None and "Sqlite" in str(error):
            known = _damaged(recovery, error)
        raise known or _unforeseen(error) from error
    except PICKLE_ERRORS as error:  # which the engine lets through
        known = _unforeseen(error) if recovery is None else _damaged(recovery, error)
        raise known from error


def _damaged(recovery: RecoveryConfig | None, error: Exception) -> RunError:
    folder = Path(recovery.db_dir if recovery is not None else "recovery")
    if "DiskFull" in str(error):  # of SQLite, which leaves the store as it was
        return SinkError(
            f"{folder}: {os.strerror(errno.ENOSPC)}; free space there, and the same command goes on"
        )
    return unsound(folder, str(error))


def cause(error: BaseException) -> PenstockError | None:
    """Return the error of ours that the engine wrapped others round, if there is one."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, PenstockError):
        seen = seen.__cause__ or seen.__context__
    return seen


def _unforeseen(error: BaseException) -> RunError:
    """Name the first error of a chain that holds none of ours, and what it led to."""
    first = error
    while first.__cause__ is not None:
        first = first.__cause__
    what = f"{type(first).__name__}: {first}"
    return RunError(f"the run failed: {what}" + (f" ({error})" if first is not error else ""))


def _recovery_store(folder: str) -> RecoveryConfig | None:
    """Open the folder of snapshots, making an empty store in it the first time."""
    if not folder:
        return None
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not any(path.glob("part-*.sqlite3")):
            _make_store(path)
    except (OSError, RuntimeError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise SourceError(f"{folder}: {why}; give --recovery a folder that can be written") from (
            error
        )
    return RecoveryConfig(path)


def _make_store(folder: Path) -> None:
    """Make an empty store beside and move it into its place, so that a crash leaves no half of one.

    Raises:
        OSError: There is no room for it.
    """
    with TemporaryDirectory(dir=folder, prefix=".new-") as beside:
        init_db_dir(Path(beside), 1)
        # SQLite had no room to put its journal into the store, and tells nobody.
        if any(Path(beside).glob("*-wal")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for part in Path(beside).glob("part-*.sqlite3"):
            part.rename(folder / part.name)


@contextmanager
def _reporting(run: Run, progress: Progress | None) -> Iterator[None]:
    """Report progress from a thread of its own while the engine runs."""
    if progress is None:
        yield
        return
    done = threading.Event()

    def report() -> None:
        while not done.wait(REFRESH_S):
            total = run.ledger.total()
            progress(total["file_bytes"], total["file_bytes_all"], total["packets_in"])

    thread = threading.Thread(target=report, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
