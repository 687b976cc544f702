"""Scores and labels over time as one SVG picture.

Laws:

1. A pixel stands for many packets and shows the highest score among them, kind by kind: nothing
   that alarmed is hidden by what did not.
2. No kind is told by colour alone: each has a mark of its own, and a row of its own below. The
   colours are told apart by colour-blind readers, too.

Source: colours by M. Okabe and K. Ito, "Color Universal Design" (2008).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from core.ranking import kinds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from core.ranking import Detected
    from flows.evaluation import Evaluated

WIDE, HIGH = 920, 340
"""Pixels of the scores; one column of them is drawn for each."""
LEFT, RIGHT, TOP, STRIP = 96, 96, 62, 16
BENIGN, NOTHING = "#8a949e", "#2b2f33"
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKS = (
    "M-3,0a3,3 0 1,0 6,0a3,3 0 1,0 -6,0z",
    "M-2.7,-2.7h5.4v5.4h-5.4z",
    "M0,-3.6L3.4,2.6H-3.4z",
    "M0,-3.9L3.4,0L0,3.9L-3.4,0z",
    "M-3.4,-2.6H3.4L0,3.6z",
)
_LOG_FROM = 50.0
"""Scores whose highest is so many times the median one are drawn on a logarithmic scale."""
_STEPS_S = (
    1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900,
    1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800, 2592000, 31536000,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns of the picture show.

    Attributes:
        kinds: Labels, those of attacks after 0.
        highest: `(kinds, columns) float64`; highest score; NaN where no packet has one.
        present: `(kinds, columns) bool`; whether there is a packet of the kind.
        unscored: `(columns,) bool`; whether a packet has no score.
    """

    kinds: list[int]
    highest: NDArray[np.float64]
    present: NDArray[np.bool_]
    unscored: NDArray[np.bool_]


def columns_of(what: Evaluated, wide: int = WIDE) -> Columns:
    """Sum up a capture by columns; what is looked at together is one of them."""
    size = what.scores.size
    wide = min(wide, size)
    edges = [size * c // wide for c in range(wide + 1)]
    found = [0, *kinds(what.labels)]
    highest = np.full((len(found), wide), np.nan)
    present = np.zeros((len(found), wide), np.bool_)
    unscored = np.zeros(wide, np.bool_)
    for c in range(wide):
        scores = np.asarray(what.scores[edges[c] : edges[c + 1]], np.float64)
        labels = what.labels[edges[c] : edges[c + 1]]
        unscored[c] = np.isnan(scores).any()
        for label in np.unique(labels).tolist():
            k = found.index(label)
            present[k, c] = True
            highest[k, c] = np.fmax.reduce(scores[labels == label])
    return Columns(found, highest, present, unscored)


class Scale:
    """Where a score lies, in pixels below the upper edge.

    Args:
        scores: Scores that must find room; those that are not finite lie on the edges.
    """

    def __init__(self, scores: NDArray[np.float64]) -> None:
        finite = scores[np.isfinite(scores)]
        positive = finite[finite > 0]
        self.is_log = positive.size > 0 and bool(
            finite.min() >= 0 and finite.max() > _LOG_FROM * np.median(finite)
        )
        if self.is_log:
            low, high = math.floor(np.log10(positive.min())), math.ceil(np.log10(positive.max()))
            step = max(1, -(-(high - low) // 6))
            self.low, self.high = float(low), float(max(high, low + 1))
            self.ticks = [(float(k), _power(k)) for k in range(low, int(self.high) + 1, step)]
        else:
            low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
            # Scores that are all alike lie in a range about them.
            step = _nice(max((high - low) / 5, abs(high) * 1e-6) or 1.0)
            self.low = math.floor(low / step) * step
            self.high = max(math.ceil(high / step) * step, self.low + step)
            ticks = self.low + step * np.arange(round((self.high - self.low) / step) + 1)
            self.ticks = [(tick, f"{tick:.6g}") for tick in ticks.tolist()]

    def y(self, score: float) -> float:
        """Return where a score lies, 0 … `HIGH`."""
        if self.is_log:
            score = math.log10(score) if score > 0 else self.low
        share = (score - self.low) / (self.high - self.low)
        return round(HIGH * (1.0 - min(1.0, max(0.0, share))), 1)


def svg(what: Evaluated, begin: int, thresholds: tuple[Detected, ...]) -> str:
    """Draw a capture.

    Args:
        what: It, with scores and labels.
        begin: Number of the first packet that is counted.
        thresholds: Thresholds to draw.
    """
    columns = columns_of(what)
    shown = columns.highest[np.isfinite(columns.highest)]
    scale = Scale(np.append(shown, [t.threshold for t in thresholds]))
    rows = len(columns.kinds) + bool(columns.unscored.any())
    below = TOP + HIGH + 10
    whole_w, whole_h = LEFT + WIDE + RIGHT, below + rows * STRIP + 54
    title = escape(f"Anomaly scores of {what.capture}")
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole_w} {whole_h}" role="img" '
            f'font-family="system-ui,-apple-system,Segoe UI,DejaVu Sans,Arial,sans-serif" '
            f'font-size="12" fill="#1d2126"><title>{title}</title>'
        ),
        f'<rect width="{whole_w}" height="{whole_h}" fill="#fff"/>',
        f'<text x="{LEFT}" y="20" font-size="15" font-weight="600">{title}</text>',
        f'<g transform="translate({LEFT},{TOP})">',
        *_not_counted(begin / what.scores.size, rows),
        *_scores_axis(scale),
        *_marks(columns, scale),
        *_thresholds(thresholds, scale),
        f'<rect width="{WIDE}" height="{HIGH}" fill="none" stroke="#1d2126"/>',
        *_time_axis(what),
        "</g>",
        f'<g transform="translate({LEFT},{below})">',
        *_strips(columns),
        *_packets_axis(what.scores.size, rows * STRIP),
        "</g></svg>",
    ]
    return "\n".join(parts)


def _not_counted(share: float, rows: int) -> Iterator[str]:
    """Shade what is not counted."""
    if share > 0:
        wide = round(WIDE * share, 1)
        yield f'<rect width="{wide}" height="{HIGH + 10 + rows * STRIP}" fill="#eef0f2"/>'
        if wide > 90:
            yield f'<text x="{wide / 2}" y="18" text-anchor="middle" fill="#4a525a">'
            yield "learnt, not counted</text>"


def _scores_axis(scale: Scale) -> Iterator[str]:
    for tick, text in scale.ticks:
        y = scale.y(10.0**tick if scale.is_log else tick)
        yield f'<path d="M0,{y}H{WIDE}" stroke="#d5d9dd"/>'
        yield f'<text x="-8" y="{y + 4}" text-anchor="end">{text}</text>'
    name = "anomaly score, logarithmic" if scale.is_log else "anomaly score"
    yield f'<text transform="translate(-66,{HIGH / 2})rotate(-90)" text-anchor="middle">'
    yield f"{name}; highest of a pixel</text>"


def _marks(columns: Columns, scale: Scale) -> Iterator[str]:
    """Draw benign packets as bars behind the marks of attacks."""
    wide = WIDE / columns.highest.shape[1]
    bars = "".join(
        f"M{c * wide:.1f},{HIGH}V{scale.y(score)}h{wide:.2f}V{HIGH}z"
        for c, score in enumerate(columns.highest[0].tolist())
        if not math.isnan(score)
    )
    yield f'<path d="{bars}" fill="{BENIGN}"/>'
    for k, highest in enumerate(columns.highest[1:].tolist()):
        yield f'<g fill="{_colour(k)}">'
        for c, score in enumerate(highest):
            if not math.isnan(score):
                place = f"{(c + 0.5) * wide:.1f},{scale.y(score)}"
                yield f'<path transform="translate({place})" d="{_mark(k)}"/>'
        yield "</g>"


def _thresholds(thresholds: tuple[Detected, ...], scale: Scale) -> Iterator[str]:
    above = math.inf
    drawn = [t for t in thresholds if math.isfinite(t.threshold)]
    for t, dash in zip(sorted(drawn, key=lambda t: t.threshold), ("8 4", "2 3", "8 3 2 3"),
                       strict=False):  # fmt: skip
        y = scale.y(t.threshold)
        at = above = min(y + 4, above - 13)
        yield f'<path d="M0,{y}H{WIDE}" stroke="#000" stroke-width="1.5"'
        yield f' stroke-dasharray="{dash}"/>'
        yield f'<text x="{WIDE + 6}" y="{at}">{100 * t.fpr_max:g} % FPR</text>'


def _time_axis(what: Evaluated) -> Iterator[str]:
    """Mark times since the first window, where their packets are, above the scores."""
    begin, at_ns = what.windows.begin, what.windows.at_ns
    length_s = float(at_ns[-1] - at_ns[0]) * 1e-9
    step = next((s for s in _STEPS_S if length_s / s <= 12), _STEPS_S[-1])
    unit, divisor = next(
        (u, d) for u, d in (("days", 86400), ("h", 3600), ("min", 60), ("s", 1))
        if length_s >= 2 * d or d == 1
    )  # fmt: skip
    yield f'<text x="{WIDE}" y="-30" text-anchor="end">time since the first packet, {unit}</text>'
    after = -math.inf
    for k in range(int(length_s / step) + 1):
        window = int(np.searchsorted(at_ns, at_ns[0] + int(k * step * 1e9)))
        x = WIDE * int(begin[min(window, begin.size - 1)]) / what.scores.size
        if x >= after + 34:  # where many packets are few seconds, or none
            after = x
            yield f'<path d="M{x:.1f},0v-5" stroke="#1d2126"/>'
            yield f'<text x="{x:.1f}" y="-9" text-anchor="middle">{k * step / divisor:.6g}</text>'


def _strips(columns: Columns) -> Iterator[str]:
    """Show below where packets of each kind are, one row for each, which is the legend as well."""
    wide = WIDE / columns.present.shape[1]
    rows = [(f"label {label}", p) for label, p in zip(columns.kinds, columns.present, strict=True)]
    rows[0] = ("benign", columns.present[0])
    if columns.unscored.any():
        rows.append(("no score", columns.unscored))
    for i, (name, present) in enumerate(rows):
        y = i * STRIP
        is_attack = 0 < i < len(columns.kinds)
        colour = _colour(i - 1) if is_attack else BENIGN if i == 0 else NOTHING
        mark = _mark(i - 1) if is_attack else MARKS[1]
        yield f'<path transform="translate(-14,{y + 7})" d="{mark}" fill="{colour}"/>'
        yield f'<text x="-24" y="{y + 11}" text-anchor="end">{name}</text>'
        yield f'<path d="M0,{y + 14.5}H{WIDE}" stroke="#e3e6e9"/>'
        edges = np.flatnonzero(np.diff(present, prepend=False, append=False)).reshape(-1, 2)
        runs = "".join(
            f"M{a * wide:.1f},{y + 2}h{(b - a) * wide:.2f}v10h{(a - b) * wide:.2f}z"
            for a, b in edges.tolist()
        )
        yield f'<path d="{runs}" fill="{colour}"/>'


def _packets_axis(size: int, y: int) -> Iterator[str]:
    step = _nice(size / 8)
    for k in range(int(size / step) + 1):
        x = round(WIDE * k * step / size, 1)
        yield f'<path d="M{x},{y}v5" stroke="#1d2126"/>'
        yield f'<text x="{x}" y="{y + 18}" text-anchor="middle">{int(k * step):,}</text>'
    yield f'<text x="{WIDE / 2}" y="{y + 38}" text-anchor="middle">packets of the capture</text>'


def _colour(k: int) -> str:
    return COLOURS[k % len(COLOURS)]


def _mark(k: int) -> str:
    return MARKS[k % len(MARKS)]


def _nice(step: float) -> float:
    """Return 1, 2 or 5 times a power of ten, at least as large as a step."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * (1 - 1e-9))


def _power(k: int) -> str:
    """Return a power of ten as people write it."""
    if 0 <= k <= 4:
        return f"{10**k:,}"
    if -3 <= k < 0:
        return f"{10.0**k:g}"
    sign = "−" if k < 0 else ""
    return f'10<tspan dy="-5" font-size="9">{sign}{abs(k)}</tspan>'
