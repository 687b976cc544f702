"""From scores to findings: which rows are anomalous enough to tell somebody.

Laws:

1. A finding about a key needs two things: a tail probability of at most `threshold`, and one
   feature at least `DISTANCE_MIN` standard deviations from its mean, so that quiet traffic, which
   also has a highest score, is left alone. No score can be that rare before `1 / threshold` rows
   were scored, so there is no such finding earlier.
2. An episode is told once. It begins with a finding, and ends when the key was calm, all features
   within `DISTANCE_CALM`, in `CALM_ROWS` rows in a row, or said nothing for `EPISODE_IDLE_NS`.
3. At most `findings_per_window_max` findings a window; the rest is counted, not written, and is
   told in a later window if it lasts.
4. The population as a whole is judged beside the keys: a herd of new devices makes none of them
   strange, but their number is. It is told when the keys remembered grow by `HERD_GROWTH_MIN` in
   one window, `DISTANCE_MIN` beyond what they used to grow by.
5. The window in which input ended is scored and tells nothing: half a window has half the rate.

Nothing here depends on how rows were cut into batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from core.findings import Evidence, Finding
from core.host import key_text
from core.names import text_of
from models.anomaly import OURS, Detector, make_detector
from models.calibration import TailCalibration
from models.features import NAMES, POPULATION_NAMES, UNITS, natural
from models.gaussian import GaussianDetector
from models.window_kernels import GROWTH, NEW

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.sections import AnomalySettings
    from models.features import RowBatch

DISTANCE_MIN = 8.0
"""Features are means and counts of few packets, whose tails are rather those of a Laplace than of a
Gaussian distribution: exp(-8 √2), or one value in 80,000, lies this far out by chance."""
DISTANCE_CALM = 3.0
CALM_ROWS = 3
EPISODE_IDLE_NS = 300_000_000_000
EPISODES_MAX = 16_384
"""Keys remembered as being in an episode; beyond that the one seen longest ago is forgotten."""
EVIDENCE_MAX = 3

HERD_KEYS_MIN = 20
"""Fewer new keys than this in one window are no herd, however unusual."""
HERD_GROWTH_MIN = 0.5
HERD_IDLE_NS = 5_000_000_000
"""New keys that keep coming with shorter pauses than this are one herd."""
DISCOVERY_WINDOWS = 3
"""While the keys that were there all along are met for the first time, growth means nothing."""
HERD_WARM_WINDOWS = 6


@dataclass(slots=True)
class Judgement:
    """What became of a batch of rows.

    Attributes:
        scores: `(m,) float64`; NaN while warming or unscored.
        findings: What is to be told: of keys in the order of the rows, then of the population.
        suppressed: Findings left out by law 3.
        warming: Rows that came before enough were learnt; other scores of NaN are failures.
    """

    scores: NDArray[np.float64]
    findings: list[Finding] = field(default_factory=list)
    suppressed: int = 0
    warming: int = 0


class Judge:
    """The detectors of one shard and the episodes that go on.

    Args:
        settings: See `AnomalySettings`.
        is_device: Whether keys are device ids rather than addresses.

    Raises:
        SettingError: There is no such detector.
    """

    def __init__(self, settings: AnomalySettings, *, is_device: bool) -> None:
        self._settings, self._is_device = settings, is_device
        self._detector: Detector = make_detector(
            settings.detector, NAMES, settings.warm_rows, settings.seed
        )
        self._calibration = TailCalibration()
        # Key → the window of its last row that was not calm, and how many calm ones followed.
        self._episodes: dict[tuple[int, int], tuple[int, int]] = {}
        self._told = (-1, 0)  # a window, and the findings told of it
        self._population = _Population()

    @property
    def by_group(self) -> bool:
        """Whether rows are to be judged group by group.

        A detector that is not ours may fail at any row; the groups beside it must not fall with it,
        or what is scored would depend on how batches were cut.
        """
        return self._settings.detector not in OURS or type(self).judge is not Judge.judge

    def judge(self, rows: RowBatch) -> Judgement:
        """Score rows, learn them, and say what is to be told."""
        begin = np.concatenate([[0], rows.group_end[:-1]])
        cold = begin + self._detector.learnt < self._settings.warm_rows
        warming = int((rows.group_end - begin)[cold].sum())
        scores, distances = self._detector.score_learn_many(rows.features, rows.group_end)
        tails = self._calibration.tail_many(scores, rows.group_end)
        # fmax, unlike max, passes over what is unknown; a NaN tail compares as false.
        strongest = np.fmax.reduce(np.abs(distances), axis=1, initial=0.0)
        hot = (strongest >= DISTANCE_MIN) & (tails <= self._settings.threshold)
        judgement = Judgement(scores, warming=warming)
        if rows.partial:
            return judgement
        for row, window in self._concerned(rows, hot):
            key = (int(rows.key_hi[row]), int(rows.key_lo[row]))
            if not self._is_new(key, window, bool(hot[row]), float(strongest[row])):
                continue
            told = self._told[1] if self._told[0] == window else 0
            if told == self._settings.findings_per_window_max:
                judgement.suppressed += 1
                continue
            self._told = (window, told + 1)
            self._note(key, window, 0)
            judgement.findings.append(
                self._finding(rows, row, scores[row], tails[row], distances[row])
            )
        for group, tail, score, distance in self._population.judge(rows):
            judgement.findings.append(self._herd(rows, group, tail, score, distance))
        return judgement

    def _concerned(self, rows: RowBatch, hot: NDArray[np.bool_]) -> list[tuple[int, int]]:
        """Return row and window of everything hot, and of every key in an episode."""
        low = np.fromiter((k[1] for k in self._episodes), np.uint64, len(self._episodes))
        watched = np.concatenate([low, rows.key_lo[hot]])
        if watched.size == 0:
            return []
        chosen = np.flatnonzero(np.isin(rows.key_lo, watched))
        window = rows.window_ns[np.searchsorted(rows.group_end, chosen, side="right")]
        return list(zip(chosen.tolist(), window.tolist(), strict=True))

    def _is_new(self, key: tuple[int, int], window: int, hot: bool, strongest: float) -> bool:
        """Follow the episode of a key, if any, by one row; tell whether one is to begin (law 2)."""
        known = self._episodes.get(key)
        if known is None or window - known[0] > EPISODE_IDLE_NS:
            self._episodes.pop(key, None)
            return hot
        if hot or strongest > DISTANCE_CALM:
            self._note(key, window, 0)
        elif known[1] + 1 == CALM_ROWS:
            del self._episodes[key]
        else:
            self._note(key, known[0], known[1] + 1)
        return False

    def _note(self, key: tuple[int, int], window: int, calm: int) -> None:
        self._episodes.pop(key, None)
        self._episodes[key] = (window, calm)
        if len(self._episodes) > EPISODES_MAX:
            del self._episodes[next(iter(self._episodes))]

    def _finding(
        self, rows: RowBatch, row: int, score: float, tail: float, distance: NDArray[np.float64]
    ) -> Finding:
        order = np.argsort(-np.abs(np.nan_to_num(distance)), kind="stable")[:EVIDENCE_MAX]
        evidence = tuple(
            Evidence(
                feature=NAMES[j],
                value=round(natural(j, float(rows.features[row, j])), 3),
                unit=UNITS[j],
                distance=round(float(distance[j]), 2),
            )
            for j in order.tolist()
            if np.isfinite(distance[j])
        )
        key = key_text(
            int(rows.key_hi[row]), int(rows.key_lo[row]), is_device=self._is_device,
            name=text_of(rows.names[row]) if rows.names.size else b"",
        )  # fmt: skip
        first = evidence[0]
        return Finding(
            rule="anomalous_key",
            title=f"{key}: {first.feature} is {first.value:g} {first.unit}, "
            f"{first.distance:+.1f} σ from normal",
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

    def _herd(
        self, rows: RowBatch, group: int, tail: float, score: float, distance: float
    ) -> Finding:
        begin = int(rows.group_end[group - 1]) if group else 0
        members = slice(begin, int(rows.group_end[group]))
        count = round(math.expm1(rows.population[group, NEW]))
        growth = Evidence(
            feature=POPULATION_NAMES[GROWTH],
            value=round(100.0 * math.expm1(rows.population[group, GROWTH]), 1),
            unit="% more keys",
            distance=round(distance, 2),
        )
        return Finding(
            rule="thundering_herd",
            title=f"{count} keys never seen before within one window",
            key="*",
            is_device=self._is_device,
            source=int(rows.source[begin]),
            ordinal=int(rows.ordinal[begin]),
            first_ns=int(rows.first_ns[members].min()),
            last_ns=int(rows.last_ns[members].max()),
            packets=int(rows.count[members].sum()),
            score=round(score, 4),
            tail=tail,
            evidence=(growth,),
        )

    def snapshot(self) -> dict[str, Any]:
        """Return the models and episodes themselves: whoever keeps them must pickle them."""
        return {
            "detector": self._detector,
            "calibration": self._calibration,
            "episodes": self._episodes,
            "told": self._told,
            "population": self._population,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self._detector = state["detector"]
        self._calibration = state["calibration"]
        self._episodes = state["episodes"]
        self._told = state["told"]
        self._population = state["population"]


class _Population:
    """How fast the keys remembered used to grow, and the herd that is going on, if any."""

    def __init__(self) -> None:
        self._growth = GaussianDetector(("growth",), HERD_WARM_WINDOWS)
        self._calibration = TailCalibration()
        self._groups = 0
        self._herd_ns: int | None = None

    def judge(self, rows: RowBatch) -> list[tuple[int, float, float, float]]:
        """Return group, tail, score and distance of each herd that begins.

        The windows of a herd are not learnt, or the next one would seem normal.
        """
        growth = rows.population[:, [GROWTH]]
        growth[: max(DISCOVERY_WINDOWS - self._groups, 0)] = np.nan
        self._groups += len(growth)
        large = (rows.population[:, NEW] >= math.log1p(HERD_KEYS_MIN)) & (
            growth[:, 0] >= math.log1p(HERD_GROWTH_MIN)
        )
        found = []
        begin = 0
        for group in np.flatnonzero(large).tolist():
            self._take(growth[begin:group])
            scores, distances = self._growth.measure_many(growth[group : group + 1])
            score, distance = float(scores[0]), float(distances[0, 0])
            window = int(rows.window_ns[group])
            if not math.isnan(score) and distance >= DISTANCE_MIN:
                if self._herd_ns is None or window - self._herd_ns > HERD_IDLE_NS:
                    tail = float(self._calibration.tail_many(scores, np.array([1]))[0])
                    found.append((group, tail, score, distance))
                self._herd_ns = window
            else:
                self._take(growth[group : group + 1])
            begin = group + 1
        self._take(growth[begin:])
        return found

    def _take(self, growth: NDArray[np.float64]) -> None:
        """Learn the growth of ordinary windows."""
        each = np.arange(1, len(growth) + 1)
        scores, _ = self._growth.score_learn_many(growth, each)
        self._calibration.tail_many(scores, each)
