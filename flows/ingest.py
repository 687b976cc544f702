"""The ingest graph: captured or live packets to records, on one screen.

    source → decode → frame ─┬→ dam ─┬→ features → score → findings ─┐
         └─ or intake, deal ─┤       └→ telemetry or flows ──────────┼→ sink
                             └→ dead letters ────────────────────────┘

What is live comes with the time, which is dealt to all shards, and with commands. What a topic
holds was decoded by its source, and is only dealt to its shards. Flows that are read back are
scored, and written no second time.

`python -m bytewax.run flows.ingest:flow` builds it from the environment and `penstock.toml`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import bytewax.operators as op
from bytewax.dataflow import Dataflow

from connectors.capture import CaptureSource
from connectors.live import LiveSource
from connectors.scores import ScoresSink
from core.topics import FLOWS
from flows import steps
from flows.dam_step import DamStep
from flows.deal import deal, frame
from flows.flow_step import FlowStep
from flows.intake import take_in

if TYPE_CHECKING:
    from bytewax.operators import KeyedStream

    from core.controls import Retune
    from flows.items import Arrivals
    from flows.run import Run


def build(run: Run) -> Dataflow:
    """Wire the graph of one run.

    Args:
        run: What its steps share.
    """
    flow = Dataflow("penstock_ingest")
    source = run.source()
    if isinstance(source, LiveSource):
        arrivals = op.flat_map("intake", op.input("source", flow, source), take_in(run))
    elif isinstance(source, CaptureSource):
        packets = op.input("source", flow, source)
        decoded = op.map("decode", packets, steps.decode)
        arrivals = op.flat_map("frame", decoded, frame(run))
    else:
        held = op.input("source", flow, source)
        arrivals = op.flat_map("deal", held, deal(run, source.kind))
    rejects = op.filter_map_value("dead_letters", arrivals, lambda a: a.rejects)

    judged: KeyedStream[Arrivals | Retune] = arrivals
    if isinstance(source, LiveSource):
        judged = op.flat_map("told", arrivals, steps.with_commands(run))
    passages = op.stateful_batch("dam", judged, partial(DamStep, run))
    rows = op.stateful_batch("features", passages, partial(steps.FeatureStep, run))
    scored = op.stateful_batch("score", rows, partial(steps.ScoreStep, run))
    findings = op.filter_map_value("findings", scored, lambda s: s.findings)

    records = [findings, rejects]
    if run.settings.capture.by == "device":
        records.append(op.flat_map_value("telemetry", passages, steps.readings(run)))
    elif isinstance(source, CaptureSource | LiveSource) or FLOWS in source.kind.writes:
        records.append(op.stateful_batch("flows", passages, partial(FlowStep, run)))

    op.output("sink", op.merge("records", *records), run.sink())
    if run.scores is not None:
        scores = op.filter_map_value("scores", scored, lambda s: s.scores)
        op.output("scores_file", scores, ScoresSink(run.scores))
    return flow


def __getattr__(name: str) -> Dataflow:
    if name == "flow":
        from flows.hosted import flow_from_environment

        return flow_from_environment()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
