"""From scores to sightings: which rows are anomalous enough to tell somebody.

Laws:

1. A sighting of a key that opens a finding needs two things: a tail probability of at most
   `threshold`, and one feature at least `DISTANCE_MIN` standard deviations from its mean, so that
   quiet traffic, which also has a highest score, is left alone. No score can be that rare before
   `1 / threshold` rows were scored, so there is no such sighting earlier.
2. An episode begins with such a sighting, and ends when the key was calm, all features within
   `DISTANCE_CALM`, in `CALM_ROWS` rows in a row, or said nothing for `EPISODE_IDLE_NS`. All rows in
   it that are not calm are sightings.
3. The population as a whole is judged beside the keys: a herd of new devices makes none of them
   strange, but their number is. It is seen when the keys remembered grow by `HERD_GROWTH_MIN` in
   one window, `DISTANCE_MIN` beyond what they used to grow by.
4. The window in which input ended is scored and tells nothing: half a window has half the rate.

Nothing here depends on how rows were cut into batches. What is told of sightings is decided in
`core.docket`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from core.host import key_text
from core.names import text_of
from core.rules import ANOMALOUS_KEY, THUNDERING_HERD
from core.sighting import Evidence, Sighting
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
DISCOVERY_WINDOWS = 3
"""While the keys that were there all along are met for the first time, growth means nothing."""
HERD_WARM_WINDOWS = 6


@dataclass(slots=True)
class Judgement:
    """What became of a batch of rows.

    Attributes:
        scores: `(m,) float64`; NaN while warming or unscored.
        sightings: What was seen, window by window: of keys in the order of the rows, then of the
            population.
        warming: Rows that came before enough were learnt; other scores of NaN are failures.
    """

    scores: NDArray[np.float64]
    sightings: list[Sighting] = field(default_factory=list)
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
        self._population = _Population()

    @property
    def by_group(self) -> bool:
        """Whether rows are to be judged group by group.

        A detector that is not ours may fail at any row; the groups beside it must not fall with it,
        or what is scored would depend on how batches were cut.
        """
        return self._settings.detector not in OURS or type(self).judge is not Judge.judge

    def judge(self, rows: RowBatch) -> Judgement:
        """Score rows, learn them, and say what was seen."""
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
            opens = bool(hot[row])
            if self._goes_on(key, window, opens, float(strongest[row])):
                judgement.sightings.append(
                    self._sighting(
                        rows, row, window, opens, scores[row], tails[row], distances[row]
                    )
                )
        for group, tail, score, distance in self._population.judge(rows):
            judgement.sightings.append(self._herd(rows, group, tail, score, distance))
        judgement.sightings.sort(key=lambda s: s.window_ns)
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

    def _goes_on(self, key: tuple[int, int], window: int, hot: bool, strongest: float) -> bool:
        """Follow the episode of a key, if any, by one row; tell whether it is of one (law 2)."""
        known = self._episodes.get(key)
        if known is not None and window - known[0] > EPISODE_IDLE_NS:
            del self._episodes[key]
            known = None
        if hot or (known is not None and strongest > DISTANCE_CALM):
            self._note(key, window, 0)
            return True
        if known is not None:
            if known[1] + 1 == CALM_ROWS:
                del self._episodes[key]
            else:
                self._note(key, known[0], known[1] + 1)
        return False

    def _note(self, key: tuple[int, int], window: int, calm: int) -> None:
        self._episodes.pop(key, None)
        self._episodes[key] = (window, calm)
        if len(self._episodes) > EPISODES_MAX:
            del self._episodes[next(iter(self._episodes))]

    def _sighting(
        self, rows: RowBatch, row: int, window_ns: int, opens: bool, score: float, tail: float,
        distance: NDArray[np.float64],
    ) -> Sighting:  # fmt: skip
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
        return Sighting(
            rule=ANOMALOUS_KEY,
            title=f"{key}: {first.feature} is {first.value:g} {first.unit}, "
            f"{first.distance:+.1f} σ from normal",
            key=key,
            key_hi=int(rows.key_hi[row]),
            key_lo=int(rows.key_lo[row]),
            is_device=self._is_device,
            source=int(rows.source[row]),
            ordinal=int(rows.ordinal[row]),
            first_ns=int(rows.first_ns[row]),
            last_ns=int(rows.last_ns[row]),
            packets=int(rows.count[row]),
            window_ns=window_ns,
            opens=opens,
            score=round(float(score), 4),
            tail=float(tail),
            evidence=evidence,
        )

    def _herd(
        self, rows: RowBatch, group: int, tail: float, score: float, distance: float
    ) -> Sighting:
        begin = int(rows.group_end[group - 1]) if group else 0
        members = slice(begin, int(rows.group_end[group]))
        count = round(math.expm1(rows.population[group, NEW]))
        growth = Evidence(
            feature=POPULATION_NAMES[GROWTH],
            value=round(100.0 * math.expm1(rows.population[group, GROWTH]), 1),
            unit="% more keys",
            distance=round(distance, 2),
        )
        return Sighting(
            rule=THUNDERING_HERD,
            title=f"{count} keys never seen before within one window",
            key="*",
            is_device=self._is_device,
            source=int(rows.source[begin]),
            ordinal=int(rows.ordinal[begin]),
            first_ns=int(rows.first_ns[members].min()),
            last_ns=int(rows.last_ns[members].max()),
            packets=int(rows.count[members].sum()),
            window_ns=int(rows.window_ns[group]),
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
            "population": self._population,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self._detector = state["detector"]
        self._calibration = state["calibration"]
        self._episodes = state["episodes"]
        self._population = state["population"]


class _Population:
    """How fast the keys remembered used to grow."""

    def __init__(self) -> None:
        self._growth = GaussianDetector(("growth",), HERD_WARM_WINDOWS)
        self._calibration = TailCalibration()
        self._groups = 0

    def judge(self, rows: RowBatch) -> list[tuple[int, float, float, float]]:
        """Return group, tail, score and distance of each window with a herd.

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
            if not math.isnan(score) and distance >= DISTANCE_MIN:
                tail = float(self._calibration.tail_many(scores, np.array([1]))[0])
                found.append((group, tail, score, distance))
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
