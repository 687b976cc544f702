"""Burst prediction: seconds by hand, whatever the batches; its model is an estimator of River."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from river import linear_model, preprocessing

from models.burst import (
    FEATURES,
    PRIOR,
    SECOND_NS,
    SILENCE_S_MAX,
    VALUE_MAX,
    WARM_S,
    BurstPredictor,
)
from models.logistic import LogisticRegression

RATE = 20


def arrivals(counts: list[int], seed: int = 1, begin_s: int = 1_000) -> NDArray[np.int64]:
    """Return times of so many arrivals in each second."""
    rng = np.random.default_rng(seed)
    parts = [
        np.sort(rng.integers(0, SECOND_NS, n)) + (begin_s + s) * SECOND_NS
        for s, n in enumerate(counts)
    ]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def state_of(predictor: BurstPredictor) -> dict[str, Any]:
    state = dict(vars(predictor))
    model = state.pop("_model")
    return state | {"weights": model.weights.tolist(), "covariance": model.covariance.tolist()}


def bursty(seconds: int) -> list[int]:
    """Return counts a second in which bursts of eight seconds come now and then."""
    return [50 if s % 40 >= 32 else 10 for s in range(seconds)]


COUNTS = st.lists(st.sampled_from([0, 0, 1, 5, 19, 20, 21, 60]), min_size=1, max_size=60)


@given(COUNTS, st.lists(st.integers(0, 400), max_size=12), st.lists(st.integers(0, 70), max_size=8))
def test_neither_batches_nor_ticks_change_anything(
    counts: list[int], cuts: list[int], ticks: list[int]
) -> None:
    """Cut anywhere, and told in between what time it has become, the state is the same."""
    at = arrivals(counts)
    whole, parted = BurstPredictor(), BurstPredictor()
    whole.arrive(at, RATE)
    for part in np.split(at, sorted(min(cut, at.size) for cut in cuts)):
        parted.arrive(part, RATE)
        if parted._second >= 0:
            later = at[at > parted._now_ns]
            for tick in ticks:  # no later arrival is of an earlier time
                now_ns = parted._now_ns + tick * SECOND_NS // 10
                if later.size == 0 or now_ns <= later[0]:
                    parted.tick(now_ns)
    end_ns = (2_000 + len(counts)) * SECOND_NS
    for each in (whole, parted):
        each.tick(end_ns)
    np.testing.assert_equal(state_of(parted), state_of(whole))


def test_any_gap_costs_the_same_and_says_the_same() -> None:
    """A year of silence is learnt as two minutes of it are, in one step or in many."""
    at = arrivals(bursty(100))
    once, often, longer = BurstPredictor(), BurstPredictor(), BurstPredictor()
    for each in (once, often, longer):
        each.arrive(at, RATE)
    year_ns = int(at[-1]) + 365 * 86_400 * SECOND_NS
    for second in range(1, SILENCE_S_MAX + 90):
        often.tick(int(at[-1]) + second * SECOND_NS)
    once.tick(year_ns)
    often.tick(year_ns)
    np.testing.assert_equal(state_of(often), state_of(once))
    longer.tick(2 * year_ns)
    assert longer._learnt == once._learnt == 100 + SILENCE_S_MAX - 1
    assert longer.probability == once.probability < 0.05
    once.arrive(np.array([year_ns + SECOND_NS]), RATE)
    assert once._learnt == longer._learnt


def test_what_is_held_against_what() -> None:
    """By hand: the probability at the end of a second is that of the next; then it is learnt."""
    counts = bursty(120)
    at = arrivals(counts)
    predictor, wanted = BurstPredictor(), 0.0
    scored = bursts = 0
    for s, count in enumerate(counts):
        inside = at[(at >= (1_000 + s) * SECOND_NS) & (at < (1_001 + s) * SECOND_NS)]
        predictor.arrive(inside[:1], RATE)
        assert math.isnan(predictor.probability) == (s <= WARM_S)
        if s < len(counts) - 1 and s > WARM_S:
            scored, bursts = scored + 1, bursts + (count > RATE)
            wanted += (predictor.probability - (count > RATE)) ** 2
        predictor.arrive(inside[1:], RATE)
    assert (predictor.seconds, predictor.bursts) == (scored, bursts)
    assert predictor.squared_error == pytest.approx(wanted)
    told = predictor.totals()
    assert told["burst_ppm_max"] == round(predictor.probability * 1e6)
    assert "burst_ppm_max" not in BurstPredictor().totals()


def test_a_rate_holds_for_the_seconds_that_begin_under_it() -> None:
    """A change within a second counts from the next one on."""
    predictor = BurstPredictor()
    predictor.arrive(arrivals([30, 30]), 20)
    predictor.arrive(np.array([1_002 * SECOND_NS - 1]), 100)
    assert predictor._rate == 20
    predictor.arrive(arrivals([30], begin_s=1_003), 100)
    assert predictor._rate == 100


def test_it_beats_what_needs_no_model() -> None:
    """Bursts that last a while are foreseen better than by their share, or by the last second."""
    counts = bursty(2_000)
    predictor = BurstPredictor()
    predictor.arrive(arrivals(counts), RATE)
    came = np.array(counts[WARM_S + 1 :]) > RATE
    last = np.array(counts[WARM_S:-1]) > RATE
    brier = predictor.squared_error / predictor.seconds
    assert brier < 0.9 * float(np.mean((came * 1.0 - last) ** 2))
    assert brier < 0.3 * float(came.mean() * (1 - came.mean()))


def test_it_goes_on_from_a_pickle_and_does_not_grow() -> None:
    """Restored in mid-second it ends in the same state; an hour is as large as a minute."""
    at = arrivals(bursty(300))
    whole, first = BurstPredictor(), BurstPredictor()
    whole.arrive(at, RATE)
    for part in np.array_split(at, 7):
        first.arrive(part, RATE)
        first = pickle.loads(pickle.dumps(first))
    np.testing.assert_equal(state_of(first), state_of(whole))
    long = BurstPredictor()
    long.arrive(arrivals(bursty(3_600)), RATE)
    assert abs(len(pickle.dumps(long)) - len(pickle.dumps(whole))) < 64


def test_any_classifier_of_river_may_stand_in() -> None:
    """A pipeline of River takes the rows and is asked for probabilities."""
    pipeline: Any = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    predictor = BurstPredictor(lambda: pipeline)
    predictor.arrive(arrivals(bursty(400)), RATE)
    assert 0.0 <= predictor.probability <= 1.0
    assert predictor.squared_error / predictor.seconds < 0.2


def test_rows_are_bounded_and_named() -> None:
    """Whatever arrives, the model gets finite numbers of a known size."""
    for counts in ([10**5], [0, 1, 0], [1] * 40):
        predictor = BurstPredictor()
        predictor.arrive(arrivals(counts), 1)
        predictor.tick(2_000 * SECOND_NS)
        assert tuple(predictor._row) == FEATURES
        assert all(abs(value) <= VALUE_MAX for value in predictor._row.values())


# ---------------------------------------------------------------- the model

CHECKS = """check_repr check_str check_tags check_clone_same_class check_clone_is_idempotent
check_init_default_params_are_not_mutable check_doc check_clone_changes_memory_addresses
check_pickling_supports_roundtrip check_repr_roundtrips_clone check_get_params_matches_signature"""
CHECKS_WITH_DATA = """check_learn_one check_pickling check_shuffle_features_no_impact
check_emerging_features check_disappearing_features check_radically_disappearing_features"""


def test_the_model_is_an_estimator_by_rivers_own_checks() -> None:
    """The battery River holds its own classifiers to, as far as it needs no download."""
    from river import checks

    clf: Any = checks.clf
    common: Any = checks.common
    rng = np.random.default_rng(2)
    rows = [({"a": float(rng.normal()), "b": float(rng.random())}, False) for _ in range(60)]
    data = [(x, x["a"] > x["b"]) for x, _ in rows]

    def made() -> LogisticRegression:
        return LogisticRegression({"": 0.0, "a": 0.0, "b": 0.0})

    for name in CHECKS.split():
        getattr(common, name)(made())
    for name in CHECKS_WITH_DATA.split():
        getattr(common, name)(made(), data)
    clf.check_predict_proba_one(made(), data)
    clf.check_predict_proba_one_binary(made(), data)


@pytest.mark.parametrize("worth", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_unknown(worth: float) -> None:
    """It is as if the feature were absent: its weight stays as it was."""
    one, other = (LogisticRegression({"": 0.0, "a": 0.0, "b": 0.0}) for _ in range(2))
    for i in range(40):
        x: dict[Any, float] = {"a": math.sin(i)}
        one.learn_one(x | {"b": worth}, i % 3 == 0)
        other.learn_one(x, i % 3 == 0)
    assert one.weights.tolist() == other.weights.tolist()
    assert one.weights[2] == 0.0
    assert one.predict_proba_one({"b": worth}) == other.predict_proba_one({})


def test_probabilities_are_those_that_rows_were_drawn_with() -> None:
    """Of rows drawn by a logistic law, its weights are found, and stay where the prior was not."""
    rng = np.random.default_rng(4)
    model = LogisticRegression({"": 0.0, "a": 0.0})
    for a in rng.normal(size=4_000).tolist():
        model.learn_one({"a": a}, bool(rng.random() < 1 / (1 + math.exp(-(2 * a - 1)))))
    assert model.weights.tolist() == pytest.approx([-1.0, 2.0], abs=0.25)
    fresh = LogisticRegression(PRIOR)
    assert 0.02 < fresh.predict_proba_one({"above": 0.0})[True] < 0.2
    assert 0.5 < fresh.predict_proba_one({"above": 1.0})[True] < 0.8


@given(st.lists(st.tuples(st.floats(-1e9, 1e9), st.booleans()), max_size=60))
def test_no_row_breaks_it(rows: list[tuple[float, bool]]) -> None:
    """Extreme values give probabilities, and variances that are none below zero."""
    model = LogisticRegression({"": 0.0, "a": 0.0})
    for a, y in rows:
        model.learn_one({"a": a}, y)
        assert 0.0 <= model.predict_proba_one({"a": -a})[True] <= 1.0
    assert (np.diagonal(model.covariance) > -1e-9).all()
