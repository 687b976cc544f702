"""From scores to findings: which rows are anomalous enough to tell somebody.

Laws:

1. A finding needs two things: a tail probability of at most `threshold`, and one feature at least
   `DISTANCE_MIN` standard deviations from its mean, so that quiet traffic, which also has a
   highest score, is left alone.
2. A key is reported when it becomes anomalous, not again in each window it stays so.
3. At most `findings_per_window_max` findings a window; the rest is counted, not written.

The population as a whole is judged beside the keys: a herd of new devices makes none of them
strange, but their number is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from core.findings import Evidence, Finding
from core.host import key_text
from models.anomaly import Detector, GaussianDetector, TailCalibration, make_detector
from models.features import NAMES, POPULATION_NAMES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.config import AnomalySettings
    from models.features import RowBatch

DISTANCE_MIN = 6.0
EVIDENCE_MAX = 3
HERD_KEYS_MIN = 20
"""Fewer new keys than this in one window are no herd, however unusual."""
HERD_WARM_WINDOWS = 3
QUIET_NS = 2_000_000_000
"""A key that was not anomalous for this long is told again when it becomes so."""
FLAGGED_MAX = 65_536
"""Keys remembered as being anomalous right now."""


@dataclass(slots=True)
class Judgement:
    """What became of a batch of rows.

    Attributes:
        scores: `(m,) float64`; NaN while warming or unscored.
        findings: What is to be told, in the order of the rows.
        suppressed: Findings left out by law 3.
    """

    scores: NDArray[np.float64]
    findings: list[Finding] = field(default_factory=list)
    suppressed: int = 0


class Judge:
    """The detectors of one shard and what they have flagged."""

    def __init__(self, settings: AnomalySettings, *, is_device: bool) -> None:
        """Make the detectors that the settings name.

        Args:
            settings: See `AnomalySettings`.
            is_device: Whether keys are device ids rather than addresses.

        Raises:
            SettingError: There is no such detector.
        """
        self._settings, self._is_device = settings, is_device
        self._detector: Detector = make_detector(
            settings.detector, NAMES, settings.warm_rows, settings.seed
        )
        self._population = GaussianDetector(POPULATION_NAMES, HERD_WARM_WINDOWS)
        self._calibration = TailCalibration()
        self._flagged: dict[tuple[int, int], int] = {}

    def judge(self, rows: RowBatch) -> Judgement:
        """Score rows, learn them, and say what is to be told."""
        scores, distances = self._detector.score_learn_many(rows.features, rows.group_end)
        tails = self._calibration.tail_many(scores, rows.group_end)
        judgement = Judgement(scores)
        # fmax, unlike max, passes over what is unknown; a NaN tail compares as false.
        strong = np.fmax.reduce(np.abs(distances), axis=1, initial=0.0) >= DISTANCE_MIN
        hot = np.flatnonzero(strong & (tails <= self._settings.threshold))
        group_of = np.searchsorted(rows.group_end, hot, side="right")
        told: dict[int, int] = {}
        pending = [(int(g), int(i)) for g, i in zip(group_of, hot, strict=True)]
        for group, row in pending:
            window = int(rows.window_ns[group])
            if self._is_new(rows, row, window):
                told[group] = told.get(group, 0) + 1
                if told[group] > self._settings.findings_per_window_max:
                    judgement.suppressed += 1
                    continue
                judgement.findings.append(
                    self._finding(rows, row, scores[row], tails[row], distances[row])
                )
        judgement.findings.extend(self._herds(rows))
        return judgement

    def _is_new(self, rows: RowBatch, row: int, window: int) -> bool:
        """Tell whether a key was not anomalous in the window before; law 2."""
        key = (int(rows.key_hi[row]), int(rows.key_lo[row]))
        before = self._flagged.pop(key, None)
        self._flagged[key] = window
        if len(self._flagged) > FLAGGED_MAX:
            self._flagged.pop(next(iter(self._flagged)))
        return before is None or before < window - QUIET_NS

    def _finding(
        self, rows: RowBatch, row: int, score: float, tail: float, distance: NDArray[np.float64]
    ) -> Finding:
        order = np.argsort(-np.abs(np.nan_to_num(distance)), kind="stable")[:EVIDENCE_MAX]
        evidence = tuple(
            Evidence(
                feature=NAMES[j],
                value=round(float(rows.features[row, j]), 4),
                distance=round(float(distance[j]), 2),
            )
            for j in order.tolist()
            if np.isfinite(distance[j])
        )
        key = key_text(int(rows.key_hi[row]), int(rows.key_lo[row]), is_device=self._is_device)
        strongest = evidence[0]
        return Finding(
            rule="anomalous_key",
            title=f"{key}: {strongest.feature} is {strongest.distance:+.1f} σ from normal",
            key=key,
            is_device=self._is_device,
            source=int(rows.source[row]),
            ordinal=int(rows.ordinal[row]),
            first_ns=int(rows.first_ns[row]),
            last_ns=int(rows.last_ns[row]),
            packets=int(rows.count[row]),
            score=round(float(score), 4),
            tail=float(tail),
            evidence=evidence,
        )

    def _herds(self, rows: RowBatch) -> list[Finding]:
        """Judge each window's number of new keys against the windows before it."""
        ends = np.arange(1, len(rows.group_end) + 1)
        scores, distances = self._population.score_learn_many(rows.population, ends)
        found = []
        least = np.log1p(HERD_KEYS_MIN)
        for g in np.flatnonzero(np.isfinite(scores) & (rows.population[:, 1] >= least)).tolist():
            distance = float(distances[g, 1])
            if not distance >= DISTANCE_MIN:
                continue
            begin = int(rows.group_end[g - 1]) if g else 0
            last = int(rows.group_end[g]) - 1
            count = round(float(np.expm1(rows.population[g, 1])))
            new = Evidence(
                feature="new_keys",
                value=round(float(rows.population[g, 1]), 4),
                distance=round(distance, 2),
            )
            found.append(
                Finding(
                    rule="thundering_herd",
                    title=f"{count} keys never seen before within one window",
                    key="*",
                    is_device=self._is_device,
                    source=int(rows.source[begin]),
                    ordinal=int(rows.ordinal[begin]),
                    first_ns=int(rows.first_ns[begin]),
                    last_ns=int(rows.last_ns[begin : last + 1].max()),
                    packets=int(rows.count[begin : last + 1].sum()),
                    score=round(float(scores[g]), 4),
                    tail=0.0,
                    evidence=(new,),
                )
            )
        return found

    def snapshot(self) -> dict[str, Any]:
        """Return the models and flags themselves: whoever keeps them must copy or pickle them."""
        return {
            "detector": self._detector,
            "population": self._population,
            "calibration": self._calibration,
            "flagged": self._flagged,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self._detector = state["detector"]
        self._population = state["population"]
        self._calibration = state["calibration"]
        self._flagged = state["flagged"]
