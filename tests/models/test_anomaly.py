"""Detectors against River itself, and tails against counting."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import proba

from core.errors import SettingError
from models.anomaly import OURS, RIVER, Detector, make_detector
from models.calibration import TailCalibration
from models.gaussian import GaussianDetector
from models.gaussian_kernels import DISTANCE_MAX, SPREAD_MIN
from models.half_space import HalfSpaceTrees

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAMES = ("a", "b", "c")
Gaussian: Any = proba.Gaussian
UNKNOWN = st.sampled_from([math.nan, math.inf, -math.inf])
VALUES = st.floats(-1e3, 1e3) | st.floats(-1.0, 1.0) | st.just(0.5) | UNKNOWN
ROWS = st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1, max_size=40).map(np.array)
CUTS = st.lists(st.integers(0, 40), max_size=5)


def ends(rows: NDArray[np.float64], cuts: list[int]) -> NDArray[np.int64]:
    """Return where groups end; the last one ends with the rows."""
    return np.array(sorted({cut for cut in cuts if 0 < cut < len(rows)} | {len(rows)}))


def as_dict(row: NDArray[np.float64]) -> dict[Any, float]:
    """Return a row as River takes it; unknown values are sometimes absent, sometimes NaN."""
    return {n: v for n, v in zip(NAMES, row.tolist(), strict=True) if n != "c" or math.isfinite(v)}


@given(ROWS)
def test_mean_and_deviation_are_those_of_river(rows: NDArray[np.float64]) -> None:
    """Feature by feature, unknown values left out."""
    detector = GaussianDetector(NAMES, 0)
    detector.learn_many(rows)
    for j in range(len(NAMES)):
        gaussian = Gaussian()
        for value in rows[np.isfinite(rows[:, j]), j].tolist():
            gaussian.update(value)
        count, mean, squares = detector.moments[:, j].tolist()
        assert count == gaussian.n_samples
        if count > 0:
            assert mean == pytest.approx(gaussian.mu, rel=1e-9, abs=1e-9)
        if count > 1:
            assert math.sqrt(squares / (count - 1)) == pytest.approx(
                gaussian.sigma, rel=1e-9, abs=1e-9
            )


@given(ROWS, CUTS)
def test_scores_are_mean_squared_distances_from_what_was_learnt_before_the_group(
    rows: NDArray[np.float64], cuts: list[int]
) -> None:
    """Worked by hand: z-scores of River's Gaussians, unknown ones counting as 1, then learning."""
    warm = 4
    scores, distances = GaussianDetector(NAMES, warm).score_learn_many(rows, ends(rows, cuts))
    gaussians = [Gaussian() for _ in NAMES]
    begin = 0
    for end in ends(rows, cuts).tolist():
        for i in range(begin, end):
            total = 0.0
            for j, (gaussian, value) in enumerate(zip(gaussians, rows[i].tolist(), strict=True)):
                if gaussian.n_samples < 2 or not math.isfinite(value):
                    assert math.isnan(distances[i, j])
                    total += 1.0
                    continue
                z = (value - gaussian.mu) / max(gaussian.sigma, SPREAD_MIN)
                z = max(-DISTANCE_MAX, min(DISTANCE_MAX, z))
                assert distances[i, j] == pytest.approx(z, rel=1e-6, abs=1e-6)
                total += z * z
            if begin < warm:
                assert math.isnan(scores[i])
            else:
                assert scores[i] == pytest.approx(total / 3, rel=1e-6, abs=1e-6)
        for row in rows[begin:end].tolist():
            for gaussian, value in zip(gaussians, row, strict=True):
                if math.isfinite(value):
                    gaussian.update(value)
        begin = end


Ours = GaussianDetector | HalfSpaceTrees
MAKERS: dict[str, Callable[[Sequence[str]], Ours]] = {
    "gaussian": lambda names: GaussianDetector(names, 3),
    "HalfSpaceTrees": lambda names: HalfSpaceTrees(names, 3, 4, 5, seed=9, warm_rows=3),
}
each_of_ours = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


def test_the_battery_holds_all_of_ours() -> None:
    """A detector that takes arrays and is not in it would be held to nothing."""
    assert tuple(MAKERS) == OURS


@each_of_ours
@given(rows=ROWS, cuts=CUTS)
def test_one_by_one_is_as_good_as_many(
    make: Callable[[Sequence[str]], Ours], rows: NDArray[np.float64], cuts: list[int]
) -> None:
    """`score_one` and `learn_one` give the bits of `score_many` and `learn_many`, and of both."""
    one, many, both = (make(NAMES) for _ in range(3))
    begin = 0
    at_once, _ = both.score_learn_many(rows, ends(rows, cuts))
    for end in ends(rows, cuts).tolist():
        group = rows[begin:end]
        wanted = many.score_many(group)
        np.testing.assert_equal([one.score_one(as_dict(row)) for row in group], wanted)
        np.testing.assert_equal(at_once[begin:end], wanted)
        many.learn_many(group)
        for row in group:
            one.learn_one(as_dict(row))
        begin = end
    for other in (many, both):
        np.testing.assert_equal(state_of(other), state_of(one))
        assert other.learnt == one.learnt == len(rows)


def state_of(detector: Ours) -> dict[str, NDArray[Any]]:
    """Return the arrays a detector is made of."""
    state = dict(vars(detector))
    profile = state.pop("profile", None)
    if profile is not None:
        state |= {f"profile.{name}": value for name, value in vars(profile).items()}
    return {name: value for name, value in state.items() if isinstance(value, np.ndarray)}


@given(ROWS, CUTS)
def test_evidence_is_measured_as_scores_are(rows: NDArray[np.float64], cuts: list[int]) -> None:
    """Distances are the same whether their group is learnt after them or not."""
    many, both = GaussianDetector(NAMES, 3), GaussianDetector(NAMES, 3)
    _, distances = both.score_learn_many(rows, ends(rows, cuts))
    begin = 0
    for end in ends(rows, cuts).tolist():
        scores, measured = many.measure_many(rows[begin:end])
        np.testing.assert_equal(distances[begin:end], measured)
        np.testing.assert_equal(many.score_many(rows[begin:end]), scores)
        many.learn_many(rows[begin:end])
        begin = end


@each_of_ours
@given(before=ROWS, after=ROWS, cuts=CUTS)
def test_a_pickled_detector_goes_on_with_the_same_scores(
    make: Callable[[Sequence[str]], Ours], before: NDArray[np.float64],
    after: NDArray[np.float64], cuts: list[int],
) -> None:  # fmt: skip
    """Detector and calibration are themselves after a pickle mid-stream."""
    detector, calibration = make(NAMES), TailCalibration()
    scores, _ = detector.score_learn_many(before, ends(before, cuts))
    calibration.tail_many(scores, ends(before, cuts))
    copies = pickle.loads(pickle.dumps((detector, calibration)))
    found = []
    for model, tails in ((detector, calibration), copies):
        scores, distances = model.score_learn_many(after, ends(after, cuts))
        found.append((scores, distances, tails.tail_many(scores, ends(after, cuts))))
    np.testing.assert_equal(found[0], found[1])


def test_unknown_values_are_neither_evidence_nor_learnt() -> None:
    """NaN and infinities leave the moments as they were, and count as what is expected."""
    detector = GaussianDetector(("a",), 2)
    detector.learn_many(np.array([[1.0], [2.0], [3.0]]))
    before = detector.moments.copy()
    for value in (math.nan, math.inf, -math.inf):
        assert detector.score_one({"a": value}) == 1.0
        detector.learn_one({"a": value})
    assert detector.score_one({}) == 1.0
    assert (detector.moments == before).all()
    assert detector.score_one({"a": 5.0}) == 9.0


def test_warming_is_said_as_warming() -> None:
    """Until `warm_rows` rows are learnt every score is NaN; a group warms as a whole."""
    rows = np.random.default_rng(1).normal(size=(30, 3))
    scores, _ = GaussianDetector(NAMES, 10).score_learn_many(rows, np.array([9, 15, 30]))
    assert np.isnan(scores[:15]).all()
    assert np.isfinite(scores[15:]).all()


CHECKS = """check_repr check_str check_tags check_clone_same_class check_clone_is_idempotent
check_init_default_params_are_not_mutable check_doc check_clone_changes_memory_addresses
check_pickling_supports_roundtrip check_repr_roundtrips_clone check_get_params_matches_signature"""
CHECKS_WITH_DATA = """check_learn_one check_pickling check_shuffle_features_no_impact
check_emerging_features check_disappearing_features check_radically_disappearing_features"""


@each_of_ours
def test_it_is_an_estimator_by_rivers_own_checks(make: Callable[[Sequence[str]], Ours]) -> None:
    """The battery River holds its own detectors to, as far as it needs no download."""
    from river.checks import common

    rng = np.random.default_rng(2)
    data = [({"a": float(rng.normal()), "b": float(rng.random())}, 0) for _ in range(60)]
    for name in CHECKS.split():
        getattr(common, name)(make(("a", "b")))
    for name in CHECKS_WITH_DATA.split():
        getattr(common, name)(make(("a", "b")), data)


def by_hand(rows: NDArray[np.float64], groups: list[int], warm: int, seed: int) -> list[float]:
    """Score rows with River's Half-Space Trees as its documentation does."""
    from river import anomaly, preprocessing

    scaler: Any = preprocessing.MinMaxScaler()
    trees: Any = anomaly.HalfSpaceTrees(seed=seed)
    scores: list[float] = []
    begin = 0
    for end in groups:
        seen = [{n: v for n, v in zip(NAMES, row, strict=True) if not math.isnan(v)}
                for row in rows[begin:end].tolist()]  # fmt: skip
        ready = begin >= warm
        scores += [trees.score_one(scaler.transform_one(x)) if ready else math.nan for x in seen]
        for x in seen:
            scaler.learn_one(x)
            trees.learn_one(scaler.transform_one(x))
        begin = end
    return scores


def test_half_space_trees_are_those_of_river() -> None:
    """Score then learn, group by group, in two calls, equals a loop over River's own objects."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(700, 3))
    rows[rng.random(rows.shape) < 0.1] = np.nan
    groups = [*range(20, 700, 20), 700]
    detector = make_detector("HalfSpaceTrees", NAMES, 100, 11)
    first, _ = detector.score_learn_many(rows[:400], np.array([g for g in groups if g <= 400]))
    detector = pickle.loads(pickle.dumps(detector))
    after = np.array([g - 400 for g in groups if g > 400])
    rest, distances = detector.score_learn_many(rows[400:], after)
    wanted = by_hand(rows, groups, 100, 11)
    np.testing.assert_equal(np.concatenate([first, rest]), wanted)
    assert len(set(wanted[400:])) > 100
    assert np.isfinite(distances[~np.isnan(rows[400:])]).all()


@pytest.mark.parametrize("name", [*OURS, *RIVER])
def test_every_detector_of_the_list_ranks_the_odd_above_the_usual(name: str) -> None:
    """Each can be built by name and scores every row after warming, unknown values or not."""
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(400, 3))
    rows[300::10] += 12.0
    rows[5::7, 1] = np.nan
    detector: Detector = make_detector(name, NAMES, 50, 1)
    scores, _ = detector.score_learn_many(rows, np.arange(10, 401, 10))
    assert np.isnan(scores[:50]).all()
    assert np.isfinite(scores[50:]).all()
    odd = np.zeros(400, np.bool_)
    odd[300::10] = True
    # OneClassSVM of river separates by a line through the origin; it is only asked to score.
    if name != "OneClassSVM":
        assert np.median(scores[odd]) > np.median(scores[50:][~odd[50:]])


@each_of_ours
@pytest.mark.parametrize("worth", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_unknown(make: Callable[[Sequence[str]], Ours], worth: float) -> None:
    """NaN and infinities leave the state and the scores as an absent feature would."""
    rows = np.random.default_rng(6).random((40, 3))
    one, other = make(NAMES), make(NAMES)
    for row in rows.tolist():
        x: dict[Any, float] = dict(zip(NAMES, row, strict=True))
        absent = {name: value for name, value in x.items() if name != "b"}
        np.testing.assert_equal(one.score_one(x | {"b": worth}), other.score_one(absent))
        one.learn_one(x | {"b": worth})
        other.learn_one(absent)
    np.testing.assert_equal(state_of(one), state_of(other))


@each_of_ours
def test_memory_does_not_grow_with_what_was_learnt(make: Callable[[Sequence[str]], Ours]) -> None:
    """A detector of ten rows and one of ten thousand pickle to the same size, but for counters."""
    rows = np.random.default_rng(7).normal(size=(10_000, 3))
    few, many = make(NAMES), make(NAMES)
    few.learn_many(rows[:10])
    many.learn_many(rows)
    assert abs(len(pickle.dumps(many)) - len(pickle.dumps(few))) < 64


def test_half_space_trees_wait_for_a_row_that_says_something() -> None:
    """Rows without any value make no trees, and are learnt as rows all the same."""
    detector = HalfSpaceTrees(NAMES, 3, 4, 5, seed=9)
    detector.learn_many(np.full((7, 3), np.nan))
    assert (detector.learnt, detector.planted) == (7, False)
    assert detector.score_one({"a": 1.0}) == 0.0
    detector.learn_one({"b": 1.0})
    assert detector.planted
    assert set(detector.feature.ravel().tolist()) <= {0, 1}


def test_an_unknown_detector_names_the_known_ones() -> None:
    """The refusal is one line for the user."""
    with pytest.raises(SettingError, match=r"'HalfSpaceTree' is unknown.*gaussian, HalfSpaceTrees"):
        make_detector("HalfSpaceTree", NAMES, 1, 1)


def test_river_anomaly_is_imported_only_where_it_is_named() -> None:
    """A second of import is not spent on a detector that nobody asked for."""
    code = (
        "import sys; from models.anomaly import make_detector; make_detector('gaussian', ['a'], 1,"
        " 1); assert 'river.base' in sys.modules; assert 'river.anomaly' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


SCORES = st.lists(
    st.floats(0.0, 1e6) | st.sampled_from([0.0, math.nan, 1.0, 2.0**-16, 1e-9]), min_size=1,
    max_size=40,
).map(np.array)  # fmt: skip


def step(score: float) -> int:
    """Return an eighth of an octave; beyond the scale, its first or last step."""
    return 0 if score <= 2.0**-16 else min(511, int((math.log2(score) + 16.0) * 8.0))


@given(SCORES, CUTS)
def test_tails_are_what_counting_gives(scores: NDArray[np.float64], cuts: list[int]) -> None:
    """The share of scores of earlier groups in the same bin or above, with this one."""
    calibration = TailCalibration()
    groups = ends(scores, cuts)
    tails = np.concatenate([
        calibration.tail_many(part, np.array([len(part)]))
        for part in np.split(scores, groups[:-1])
    ])  # fmt: skip
    np.testing.assert_equal(TailCalibration().tail_many(scores, groups), tails)
    earlier: list[float] = []
    begin = 0
    for end in groups.tolist():
        known = scores[begin:end][np.isfinite(scores[begin:end])].tolist()
        for score, tail in zip(scores[begin:end].tolist(), tails[begin:end].tolist(), strict=True):
            if math.isnan(score):
                assert math.isnan(tail)
                continue
            above = sum(step(other) >= step(score) for other in earlier)
            assert tail == (above + 1) / (len(earlier) + 1)
        earlier += known
        begin = end
