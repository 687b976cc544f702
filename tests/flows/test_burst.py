"""The burst probability in the graph: what the dam was shown, in batches or after a restart."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
from prometheus_client.registry import CollectorRegistry

from connectors import metrics
from flows.dam_step import DamStep
from flows.simulate import START_NS
from models.burst import SECOND_NS, WARM_S
from tests.flows.test_controls import SLOW, a_run, arrivals

SECONDS = 90


def times() -> list[int]:
    """Return arrivals of a minute and a half: 40 in a second, and 160 in every tenth."""
    rng = np.random.default_rng(1)
    parts = [
        START_NS + s * SECOND_NS + np.sort(rng.integers(0, SECOND_NS, 160 if s % 10 == 9 else 40))
        for s in range(SECONDS)
    ]
    return [int(at) for at in np.concatenate(parts)]


def told(step: DamStep) -> dict[str, int]:
    return {name: count for name, count in step.totals().items() if name.startswith("burst")}


def published(step: DamStep) -> dict[str, float]:
    """Return what a scrape says of bursts."""
    registry = CollectorRegistry()
    step._count()
    metrics.publish(step.run.ledger, registry)
    return {
        sample.name: sample.value
        for family in registry.collect()
        for sample in family.samples
        if "burst" in sample.name
    }


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_batches_and_restarts_change_nothing(size: int) -> None:
    """In batches of any size, restored from its state in the middle, a shard says the same."""
    at = times()
    whole = DamStep(a_run([]), None)
    list(whole.take(arrivals(at)))
    step = DamStep(a_run([]), None)
    for i, begin in enumerate(range(0, len(at), size)):
        list(step.take(arrivals(at[begin : begin + size])))
        if i == 3:
            after = DamStep(a_run([]), None)
            after.restore(pickle.loads(pickle.dumps(step.state())))
            step = after
    assert told(step) == told(whole)
    assert told(whole)["burst_seconds"] == SECONDS - 1 - WARM_S - 1
    assert told(whole)["bursts"] == 5


def test_a_scrape_tells_the_probability() -> None:
    """Between 0 and 1 once it is known, and with what its Brier score is made of."""
    step = DamStep(a_run([]), None)
    assert math.isnan(published(step)["penstock_burst_probability"])
    list(step.take(arrivals(times())))
    said = published(step)
    assert 0.0 < said["penstock_burst_probability"] < 1.0
    brier = said["penstock_burst_squared_error_total"] / said["penstock_burst_seconds_total"]
    assert 0.0 < brier < 0.2
    assert said["penstock_bursts_total"] == 5


def test_without_a_dam_there_is_nothing_to_exceed() -> None:
    """Where nothing is limited no probability is said."""
    dam: dict[str, Any] = SLOW | {"enabled": False}
    step = DamStep(a_run([], dam=dam), None)
    list(step.take(arrivals(times())))
    assert told(step) == {}
    assert math.isnan(published(step)["penstock_burst_probability"])
