"""The judge on simulated traffic: what was planted is found once, and little else."""

from __future__ import annotations

import functools
import math
import pickle
from collections import Counter

import numpy as np
import pytest

from core.docket import Docket
from core.findings import CREATE, Finding, encode
from core.scenario import Traffic
from core.sections import AnomalySettings
from models.features import NAMES, RowBatch, WindowFeatures
from models.judge import CALM_ROWS, EPISODE_IDLE_NS, Judge
from tests.frames import SECOND_NS, parts, traffic_frames

START_NS = 1_700_000_000 * SECOND_NS
DEVICES, RATE_HZ = 200, 800.0


def traffic(scenario: str, seconds: float, seed: int) -> Traffic:
    """Return a scenario."""
    return Traffic(scenario, DEVICES, RATE_HZ, seconds, np.random.default_rng(seed), START_NS)


def name(source: Traffic, device: int) -> str:
    """Return the id of a device."""
    one = source.between(0, source.end_ns)
    at = int(one.start[(one.device == device) & (one.kind == 0)][0])
    return bytes(one.arena[at + 2 : at + 18]).split(b"\0")[0].decode()


def rows_of(source: Traffic, cuts: tuple[int, ...] = ()) -> list[RowBatch]:
    """Return the closed rows of a scenario."""
    windows = WindowFeatures(
        window_ns=SECOND_NS, keys_max=4096, key_idle_s=300, seed=1, track=False
    )
    found = [
        windows.update(part) for frames in traffic_frames(source) for part in parts(frames, cuts)
    ]
    return [rows for rows in [*found, windows.finish()] if rows is not None]


def docket(**settings: int) -> Docket:
    """Return an empty docket."""
    rules = {"quiet_s": 60, "update_s": 60, "open_max": 100, "per_window_max": 100}
    return Docket(**(rules | settings), window_ns=SECOND_NS)


def opened(told: list[Finding]) -> list[Finding]:
    """Return the findings that begin."""
    return [each for each in told if each.activity == CREATE]


@functools.cache
def findings_of(scenario: str, seconds: float, seed: int) -> tuple[Finding, ...]:
    """Return what the judge finds in a scenario."""
    judge = Judge(AnomalySettings(), is_device=True)
    told = judged(rows_of(traffic(scenario, seconds, seed)), judge)[0]
    return tuple(opened(told))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_steady_traffic_of_a_minute_gives_no_finding(seed: int) -> None:
    """48,000 reports of 200 devices, 11,000 rows scored, and nothing to tell."""
    judge = Judge(AnomalySettings(), is_device=True)
    found, scores = judged(rows_of(traffic("steady", 60.0, seed)), judge)
    assert found == []
    assert np.isfinite(scores).sum() > 11_000


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_flooding_device_is_told_once_by_its_rate(seed: int) -> None:
    """While the flood lasts, and for nothing but what the flood changes."""
    source = traffic("flood", 30.0, seed)
    (found,) = findings_of("flood", 30.0, seed)
    assert (found.rule, found.key) == ("anomalous_key", name(source, source.flooding))
    assert found.strongest.evidence[0].feature in ("rate", "rate_shift", "gap_mean")
    assert {"rate", "rate_shift"} & {e.feature for e in found.strongest.evidence}
    assert found.strongest.strength > 20.0
    assert 0 <= found.first_ns - (START_NS + 21 * SECOND_NS) < 2 * SECOND_NS
    assert found.packets > 100
    assert 0.0 < (found.strongest.tail or 0.0) <= AnomalySettings().threshold


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_drifting_device_is_told_once_by_its_size(seed: int) -> None:
    """Its bodies grow from some fifty bytes; it is found before they are ten times as long."""
    source = traffic("drift", 60.0, seed)
    (found,) = findings_of("drift", 60.0, seed)
    assert (found.rule, found.key) == ("anomalous_key", name(source, source.drifting))
    assert found.strongest.evidence[0].feature in ("size_mean", "size_shift")
    assert found.strongest.evidence[0].unit in ("bytes", "times its own past")
    assert 50.0 < max(e.value for e in found.strongest.evidence if e.unit == "bytes") < 500.0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_herd_is_told_once_by_the_growth_of_the_population(seed: int) -> None:
    """Six new devices for each known one within two windows: none is strange, their number is."""
    (found,) = findings_of("herd", 30.0, seed)
    assert (found.rule, found.key) == ("thundering_herd", "*")
    (growth,) = found.strongest.evidence
    assert growth.feature == "growth"
    assert growth.unit == "% more keys"
    assert 250.0 < growth.value < 600.0
    assert found.strongest.strength >= 8.0
    assert found.packets > 3 * DEVICES
    assert 0 <= found.first_ns - (START_NS + 10 * SECOND_NS) < 2 * SECOND_NS


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_everything_at_once_is_told_apart(seed: int) -> None:
    """Flood, drift and herd in one capture give three findings, each once."""
    source = traffic("mixed", 40.0, seed)
    found = findings_of("mixed", 40.0, seed)
    planted = {name(source, source.flooding), name(source, source.drifting), "*"}
    assert Counter(f.key for f in found) == Counter(planted)
    assert len({f.uid for f in found}) == 3


def judged(
    rows: list[RowBatch], judge: Judge, cases: Docket | None = None
) -> tuple[list[Finding], list[float]]:
    """Return what is told of rows, and their scores."""
    cases = docket() if cases is None else cases
    results = [judge.judge(batch) for batch in rows]
    scores = [score for result in results for score in result.scores.tolist()]
    told = [cases.take(r.sightings, 0) for r in results]
    return [each for some in told for each in some], scores


def records(found: list[Finding]) -> list[bytes]:
    """Return findings as they are delivered."""
    batch = encode(found)
    return [] if batch is None else batch.value_list()


def test_how_arrivals_were_cut_changes_nothing() -> None:
    """Scores in order, and findings byte for byte, from large batches and from small ones."""
    source = traffic("mixed", 30.0, 5)
    whole = judged(rows_of(source), Judge(AnomalySettings(), is_device=True))
    small = judged(
        rows_of(source, tuple(range(0, 100_000, 777))), Judge(AnomalySettings(), is_device=True)
    )
    np.testing.assert_equal(small[1], whole[1])
    assert records(small[0]) == records(whole[0]) != []


def test_a_snapshot_goes_on_as_if_nothing_had_happened() -> None:
    """Pickled in the middle of a flood, the judge neither forgets nor repeats itself."""
    rows = rows_of(traffic("mixed", 30.0, 6))
    for middle in (3, len(rows) // 2, len(rows) - 1):
        first, other = (Judge(AnomalySettings(), is_device=True) for _ in range(2))
        cases, others = docket(), docket()
        judged(rows[:middle], first, cases)
        other.restore(pickle.loads(pickle.dumps(first.snapshot())))
        others.restore(pickle.loads(pickle.dumps(cases.snapshot())))
        found = [judged(rows[middle:], *each) for each in ((first, cases), (other, others))]
        np.testing.assert_equal(found[0][1], found[1][1])
        assert records(found[0][0]) == records(found[1][0])


KEYS = 50


def batch(window: int, odd: dict[int, float], rng: np.random.Generator) -> RowBatch:
    """Return one window of rows, of which some lie so many deviations out."""
    features = rng.normal(size=(KEYS, len(NAMES)))
    for key, distance in odd.items():
        features[key, 1] = distance
    ones = np.ones(KEYS, np.int64)
    return RowBatch(
        features=features, key_hi=np.zeros(KEYS, np.uint64),
        key_lo=0xFFFF_0A00_0000 + np.arange(KEYS, dtype=np.uint64), count=ones,
        first_ns=ones * window * SECOND_NS, last_ns=ones * window * SECOND_NS,
        source=np.zeros(KEYS, np.uint64), ordinal=np.arange(KEYS) + KEYS * window,
        group_end=np.array([KEYS]), window_ns=np.array([window * SECOND_NS]),
        population=np.array([[math.log1p(KEYS), 0.0, 0.0]]),
        packet_index=np.zeros(0, np.int64), packet_row=np.zeros(0, np.int64),
    )  # fmt: skip


def seen(plan: list[dict[int, float]]) -> list[list[tuple[str, bool]]]:
    """Judge 40 windows of noise and then a plan; return who is seen, and whether it opens."""
    rng = np.random.default_rng(9)
    judge = Judge(AnomalySettings(warm_rows=200, threshold=0.01), is_device=False)
    for window in range(40):
        assert not judge.judge(batch(window, {}, rng)).sightings
    results = [judge.judge(batch(40 + i, odd, rng)) for i, odd in enumerate(plan)]
    return [[(s.key, s.opens) for s in r.sightings] for r in results]


def test_an_episode_is_seen_until_it_is_calm() -> None:
    """Rows that are not calm are of it; it ends after three calm ones, or never began."""
    far, middling, calm = {7: 25.0}, {7: 7.0}, {7: 0.0}
    found = seen([middling, far, far, middling, *[calm] * CALM_ROWS, middling, {7: 40.0}])
    opens, goes_on = ("10.0.0.7", True), ("10.0.0.7", False)
    calm_rows: list[list[tuple[str, bool]]] = [[]] * CALM_ROWS
    assert found == [[], [opens], [opens], [goes_on], *calm_rows, [], [opens]]


def test_a_key_long_silent_is_in_no_episode() -> None:
    """Silence is not calm, but for five minutes it is as good."""
    rng = np.random.default_rng(9)
    judge = Judge(AnomalySettings(warm_rows=200, threshold=0.01), is_device=False)
    for window in range(40):
        judge.judge(batch(window, {}, rng))
    assert judge.judge(batch(40, {7: 25.0}, rng)).sightings
    silence = EPISODE_IDLE_NS // SECOND_NS
    assert judge.judge(batch(40 + silence, {7: 7.0}, rng)).sightings
    assert not judge.judge(batch(41 + 2 * silence, {7: 7.0}, rng)).sightings


def test_a_window_tells_so_much_and_the_rest_is_told_later() -> None:
    """Two findings a window of five; those left out are counted, and not forgotten."""
    rng = np.random.default_rng(9)
    judge = Judge(AnomalySettings(warm_rows=200, threshold=0.01), is_device=False)
    cases, odd = docket(per_window_max=2), dict.fromkeys(range(10, 15), 60.0)
    plan: list[dict[int, float]] = [*({} for _ in range(40)), odd, odd, odd]
    results = [judge.judge(batch(window, each, rng)) for window, each in enumerate(plan)]
    found = [opened(cases.take(result.sightings, 0)) for result in results]
    assert [len(each) for each in found[40:]] == [2, 2, 1]
    assert cases.suppressed == 3 + 1
    assert sorted(f.key for each in found for f in each) == [f"10.0.0.{i}" for i in range(10, 15)]


def test_warming_rows_are_never_told() -> None:
    """While scores are NaN, and before one can be as rare as asked, nothing is told of a key."""
    rng = np.random.default_rng(9)
    judge = Judge(AnomalySettings(warm_rows=100, threshold=0.01), is_device=False)
    for window in range(3):
        result = judge.judge(batch(window, {3: 30.0}, rng))
        assert not result.sightings
        assert np.isnan(result.scores).all() == (window < 2)
