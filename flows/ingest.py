"""The ingest graph: captured packets to records, on one screen.

    source → decode → frame ─┬→ dam ─┬→ features → score → findings ─┐
                             │       └→ telemetry or flows ──────────┼→ sink
                             └→ dead letters ────────────────────────┘

`python -m bytewax.run flows.ingest:flow` builds it from the environment and `penstock.toml`.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

import bytewax.operators as op
from bytewax.dataflow import Dataflow

from connectors.scores import ScoresSink
from flows import steps

if TYPE_CHECKING:
    from flows.run import Run


def build(run: Run) -> Dataflow:
    """Wire the graph of one run."""
    flow = Dataflow("penstock_ingest")
    packets = op.input("source", flow, run.source())
    decoded = op.map("decode", packets, steps.decode)
    arrivals = op.flat_map("frame", decoded, steps.frame(run))
    rejects = op.filter_map_value("dead_letters", arrivals, lambda a: a.rejects)

    passages = op.stateful_batch("dam", arrivals, partial(steps.DamStep, run))
    rows = op.stateful_batch("features", passages, partial(steps.FeatureStep, run))
    scored = op.stateful_batch("score", rows, partial(steps.ScoreStep, run))
    findings = op.filter_map_value("findings", scored, lambda s: s.findings)

    if run.settings.capture.by == "device":
        records = op.flat_map_value("telemetry", passages, steps.readings)
    else:
        records = op.stateful_batch("flows", passages, partial(steps.FlowStep, run))

    op.output("sink", op.merge("records", records, findings, rejects), run.sink())
    if run.scores is not None:
        scores = op.map_value("scores", scored, lambda s: s.scores)
        op.output("scores_file", scores, ScoresSink(run.scores))
    return flow


def _from_environment() -> Dataflow:
    """Build the graph for `bytewax.run`, which offers no hook before or after."""
    from connectors.metrics import publish, serve
    from connectors.settings import load
    from connectors.signals import stop_on_signals
    from core.errors import PenstockError, UsageError
    from flows.run import Run

    try:
        settings = load().settings
        if settings.run.scores:
            raise UsageError("run.scores: scores are written by `penstock replay` only; unset it")
        run = Run(settings, notify=lambda line: print(line, file=sys.stderr))
        stop_on_signals(run.stopping)
        publish(run.ledger)
        serve(settings.metrics.host, settings.metrics.port)
        return build(run)
    except PenstockError as error:
        print(f"penstock: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def __getattr__(name: str) -> Dataflow:
    if name == "flow":
        return _from_environment()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
