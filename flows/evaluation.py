"""The figures of `penstock evaluate`: counted, and as a table for people.

Laws:

1. Counted are the packets from `--train-until` on; without it, from the first that has a score.
2. What has no score is counted with the others (`core.ranking`), and said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from core.errors import RunError
from core.plain import plain
from core.ranking import Separation, separate
from models.false_alarms import FalseAlarmRate, FalseAlarms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from connectors.capture_windows import Windows
    from core.sections import Settings
    from flows.summary import Summary

FPRS = (0.01, 0.001)
"""False-positive rates at which the true-positive rate is reported."""
CONFIGURED = (0.01, 0.005, 0.001, 0.0001)
"""False-alarm rates that are held against what they come to, beside the threshold in force."""
_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What is evaluated.

    Attributes:
        capture: Its name.
        scores: `(n,) float32`; NaN where there is none.
        labels: `(n,)`; 0 is benign.
        windows: When packets happen.
        train_until: Packets that are not counted; 0 = those before the first score.
    """

    capture: str
    scores: NDArray[np.float32]
    labels: NDArray[np.integer]
    windows: Windows
    train_until: int


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """How well the scores of a capture tell its labels.

    Attributes:
        capture: Its name.
        by: `device` or `host`.
        detector: Name of the detector.
        packets: Packets of the capture.
        counted_from: Number of the first packet that is counted, from 0.
        counted: Packets from there on.
        benign: Benign packets among these.
        unscored: Share of these that have no score.
        unscored_benign: Share of the benign ones that have none.
        attacks: All attacks together, then each kind; see `core.ranking`.
        false_alarms: What configured rates came to; see `models.false_alarms`.
        findings: Findings of the whole replay.
        seconds: How long the replay took.
        packets_per_s: Packets of the replay in each of them.
    """

    capture: str
    by: str
    detector: str
    packets: int
    counted_from: int
    counted: int
    benign: int
    unscored: float
    unscored_benign: float
    attacks: tuple[Separation, ...]
    false_alarms: tuple[FalseAlarmRate, ...]
    findings: int
    seconds: float
    packets_per_s: float


def measure(what: Evaluated, settings: Settings, summary: Summary) -> Evaluation:
    """Count what the scores of a replay tell.

    Args:
        what: The capture with scores and labels.
        settings: Those of the replay.
        summary: What the replay did.

    Raises:
        RunError: There is nothing to count.
    """
    begin = what.train_until or first_scored(what.scores)
    if begin == what.scores.size:
        raise RunError(
            f"{what.capture}: no packet has a score: the capture ended while the model was "
            "warming, or holds nothing to analyse; lower anomaly.warm_rows, or see --by and --port"
        )
    scores, labels = what.scores[begin:], what.labels[begin:]
    is_benign = labels == 0
    benign = int(np.count_nonzero(is_benign))
    if benign in (0, labels.size):
        raise RunError(
            f"{what.capture}: the {labels.size:,} packets counted, from {begin:,} on, are all "
            f"{'benign' if benign else 'attacks'}; count from an earlier one with --train-until"
        )
    unknown = np.isnan(scores)
    return Evaluation(
        capture=what.capture,
        by=settings.capture.by,
        detector=settings.anomaly.detector,
        packets=what.scores.size,
        counted_from=begin,
        counted=labels.size,
        benign=benign,
        unscored=float(unknown.mean()),
        unscored_benign=float(unknown[is_benign].mean()),
        attacks=tuple(separate(scores, labels, FPRS)),
        false_alarms=false_alarms(what, begin, settings.anomaly.threshold),
        findings=summary.findings,
        seconds=summary.seconds,
        packets_per_s=summary.packets_per_s,
    )


def first_scored(scores: NDArray[np.float32]) -> int:
    """Return the number of the first packet that has a score; when none has, how many there are."""
    for begin in range(0, scores.size, _CHUNK):
        known = np.flatnonzero(~np.isnan(scores[begin : begin + _CHUNK]))
        if known.size:
            return begin + int(known[0])
    return int(scores.size)


def false_alarms(what: Evaluated, begin: int, threshold: float) -> tuple[FalseAlarmRate, ...]:
    """Return what configured rates, and the threshold in force, come to on benign packets.

    Args:
        what: The capture with scores and labels.
        begin: Number of the first packet that is counted; those before are learnt.
        threshold: `anomaly.threshold`.
    """
    counted = FalseAlarms(sorted({*CONFIGURED, threshold}, reverse=True))
    first, size = what.windows.begin, what.scores.size
    # Whole windows, a good many of them together.
    cuts = np.unique(np.searchsorted(first, np.arange(0, size + _CHUNK, _CHUNK)))
    for low, high in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        start, end = int(first[low]), int(first[high]) if high < first.size else size
        number = np.arange(start, end)
        counted.add(
            what.scores[start:end],
            np.searchsorted(first, number, side="right"),
            what.labels[start:end] == 0,
            number >= begin,
        )
    return counted.rates()


Figures = tuple[str, list[str], list[list[str]]]
"""A table: its title, the heads of its columns, and its rows."""


def figures(done: Evaluation) -> list[Figures]:
    """Return the figures as tables of text."""
    facts = [
        ["packets", f"{done.packets:,}"],
        ["counted", f"{done.counted:,}"],
        ["from packet", f"{done.counted_from:,}"],
        ["benign", f"{done.benign:,}"],
        ["without a score", percent(done.unscored)],
        ["benign, without a score", percent(done.unscored_benign)],
        ["findings", f"{done.findings:,}"],
        ["seconds", f"{done.seconds:,.3f}"],
        ["packets/s", f"{done.packets_per_s:,.0f}"],
    ]
    attacks = [
        ["all" if each.label is None else f"label {each.label}", f"{each.packets:,}",
         percent(each.unscored / each.packets), f"{each.auc:.5f}",
         *(percent(at.tpr) for at in each.at)]
        for each in done.attacks
    ]  # fmt: skip
    alarms = [
        [f"{100 * rate.configured:g} %", percent(rate.rows), percent(rate.packets)]
        for rate in done.false_alarms
    ]
    found = [f"TPR at {100 * rate:g} %" for rate in FPRS]
    title = f"{plain(done.capture)} by {done.by}, {done.detector}"
    return [
        (title, ["", ""], facts),
        ("attacks against benign packets",
         ["attack", "packets", "no score", "AUC", *found], attacks),
        ("false alarms, on benign traffic", ["configured", "of rows", "of packets"], alarms),
    ]  # fmt: skip


def as_text(done: Evaluation) -> str:
    """Return the figures as tables for a terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    with console.capture() as text:
        for title, head, rows in figures(done):
            console.print(title, markup=False, highlight=False)
            table = Table(show_header=any(head))
            for i, name in enumerate(head):
                table.add_column(name, justify="right" if i else "left")
            for row in rows:
                table.add_row(*row)
            console.print(table)
    return text.get().rstrip("\n")


def percent(share: float) -> str:
    """Return a share as people read it: to three digits, and never rounded to all or nothing."""
    if math.isnan(share):
        return "none"
    for digits in (2, 3, 4):
        text = f"{100 * share:.{digits}f}"
        if float(text) not in (0.0, 100.0) or share in (0.0, 1.0):
            break
    else:
        text = "< 0.0001" if share < 0.5 else "> 99.9999"
    return f"{text} %"
