"""A run inside `python -m bytewax.run flows.ingest:flow`, which starts and ends it.

The engine offers no hook before a run or after it, so what `penstock replay` does there is hung on
the process: the first error of ours becomes one line, and a run that ended well leaves its summary
on standard output.

Laws:

1. Settings come from `penstock.toml` and the environment. State is saved if and only if the engine
   was given a folder for it (`-r`), which therefore decides, not `run.recovery`.
2. In a cluster of processes each has counted its own part only, and prints no summary. Elsewhere
   a run whose packets do not add up says so.
"""

from __future__ import annotations

import argparse
import atexit
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec

from connectors.clock import monotonic_ns
from connectors.engine_store import claim_store
from connectors.metrics import publish, serve
from connectors.settings import load
from connectors.signals import stop_on_signals
from core.errors import PenstockError, UsageError
from flows.console import put, say
from flows.ingest import build
from flows.replay import cause
from flows.run import Run

if TYPE_CHECKING:
    from types import TracebackType

    from bytewax.dataflow import Dataflow

    from core.config import Layer


def flow_from_environment() -> Dataflow:
    """Build the graph; end the process with one line when it cannot be built."""
    try:
        settings = load(flags=_engine_layers()).settings
        if settings.run.scores:
            raise UsageError("run.scores: scores are written by `penstock replay` only; unset it")
        if settings.run.evidence:
            raise UsageError("run.evidence: written by `penstock replay` and `run` only; unset it")
        if settings.run.record:
            raise UsageError("run.record: recordings are written by `penstock run` only; unset it")
        if settings.run.sink == "embedded" and _in_cluster():
            raise UsageError(
                "run.sink: each process of a cluster would have an embedded broker of its own; "
                "name kafka://HOST:PORT or files:DIR"
            )
        run = Run(settings, say)
        store = Path(settings.run.recovery)
        if run.recovers and store.is_dir() and not _in_cluster():
            claim_store(store)
        flow = build(run)
        serve(settings.metrics.host, settings.metrics.port)
    except PenstockError as error:
        say(str(error))
        sys.exit(error.exit_code)
    publish(run.ledger)
    stop_on_signals(run.stopping)
    failed = _explain_errors()
    atexit.register(_summarise, run, monotonic_ns(), failed)
    run.warm_up()
    return flow


def _engine_option(short: str, long: str, variable: str) -> str | None:
    """Return an option of the command line of `bytewax.run`, as it finds it; `None` if not set."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(short, long, dest="asked", default=os.environ.get(variable))
    asked: str | None = parser.parse_known_args(sys.argv[1:])[0].asked
    return asked


def _in_cluster() -> bool:
    """Tell whether this process is one of several that share the run."""
    many = _engine_option("-a", "--addresses", "BYTEWAX_ADDRESSES")
    return bool(many or os.environ.get("BYTEWAX_HOSTFILE_PATH"))


def _engine_layers() -> list[Layer]:
    """Return what the command line of `bytewax.run` says about recovery, if that is what runs."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None or spec.name != "bytewax.run":
        return []
    folder = _engine_option("-r", "--recovery-directory", "BYTEWAX_RECOVERY_DIRECTORY")
    if folder:
        return [("-r", {"run": {"recovery": folder}})]
    if load().settings.run.recovery:
        raise UsageError(
            "run.recovery: bytewax.run takes this folder as -r, with -s and -b; unset it"
        )
    return []


def _explain_errors() -> list[BaseException]:
    """Print an error of ours as one line, and nothing for those that follow from it.

    Returns:
        A list that receives every error that was printed.
    """
    told: list[BaseException] = []
    usual = sys.excepthook

    def explain(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        known = cause(error)
        if known is None and not (told and isinstance(error, RuntimeError)):
            told.append(error)
            usual(kind, error, trace)
        elif known is not None and not told:
            told.append(known)
            say(str(known))

    sys.excepthook = explain
    return told


def _summarise(run: Run, begun_ns: int, failed: list[BaseException]) -> None:
    try:
        if not failed:
            run.verify()
    except PenstockError as error:
        say(str(error))
        _end_badly()
    finally:
        run.close()
    if failed or _in_cluster():
        return
    summary = run.summary((monotonic_ns() - begun_ns) * 1e-9)
    if summary.adds_up:
        put(msgspec.json.encode(summary).decode())
        if not summary.read_anything or summary.lost:
            _end_badly()
    else:
        say(f"packets do not add up; please report this capture: {summary!r}")


def _end_badly() -> NoReturn:
    """End the process as failed: the engine ended well, and only here is it known to be wrong."""
    sys.stdout.flush()
    os._exit(1)
