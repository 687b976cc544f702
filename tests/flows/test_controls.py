"""Commands travel beside the packets: the rate of the dam changes while the flow runs."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.batches import FrameBatch
from core.controls import Retune
from core.dam import Dam
from core.reasons import REASONS
from flows.dam_step import RETUNES_MAX, DamStep
from flows.items import Arrivals, Passage
from flows.run import Run
from flows.simulate import START_NS
from flows.steps import with_commands
from tests.flows.runs import settings

SLOW = {"rate_hz": 100, "burst": 20, "queue_len_max": 50, "queue_bytes_max": 1 << 20}
SECOND_NS = 1_000_000_000


def frames(at_ns: list[int], first: int = 0) -> FrameBatch:
    """Return frames without bodies at these times, numbered."""
    n = len(at_ns)
    columns: dict[str, Any] = {k: np.zeros(n, t) for k, t in FrameBatch.COLUMNS.items()}
    columns["at_ns"][:] = columns["clock_ns"][:] = at_ns
    columns["index"][:] = np.arange(first, first + n)
    return FrameBatch(np.zeros(0, np.uint8), **columns)


def arrivals(at_ns: list[int], first: int = 0) -> Arrivals:
    return Arrivals(frames(at_ns, first), np.zeros(REASONS, np.int64), None)


def a_run(said: list[str], **sections: dict[str, Any]) -> Run:
    return Run(settings(Path("unread.pcap"), **({"dam": SLOW} | sections)), said.append)


def left(passages: list[Passage]) -> tuple[list[int], list[int]]:
    """Return the marks of all arrivals, and the numbers of released frames in order."""
    marks = [mark for p in passages for mark in p.marks.tolist()]
    out = [i for p in passages if p.released is not None for i in p.released.index.tolist()]
    return marks, out


@given(
    gaps_ms=st.lists(st.integers(-5, 40), min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    commands=st.lists(st.tuples(st.integers(-100, 900), st.integers(1, 2_000)), max_size=4),
)
def test_a_rate_holds_from_its_packet_time_on(
    gaps_ms: list[int], cuts: list[int], commands: list[tuple[int, int]]
) -> None:
    """Wherever batches are cut, a dam that was retuned between two frames gives the same."""
    times = (np.cumsum(gaps_ms) * 10**6 + START_NS).tolist()
    due = [Retune(rate_hz=rate, burst=30, at_ns=START_NS + ms * 10**6) for ms, rate in commands]

    dam = Dam(**SLOW)
    marks: list[int] = []
    out: list[int] = []
    waiting = sorted(due, key=lambda c: c.at_ns)
    for n, at_ns in enumerate(times):
        while waiting and waiting[0].at_ns <= max(times[: n + 1]):
            command = waiting.pop(0)
            judged = dam.retune(command.rate_hz, command.burst, command.at_ns)
            out += judged.released.index.tolist() if judged.released is not None else []
        judged = dam.arrive(frames([at_ns], n))
        marks += judged.marks.tolist()
        out += judged.released.index.tolist() if judged.released is not None else []
    judged = dam.drain()
    out += judged.released.index.tolist() if judged.released is not None else []

    step = DamStep(a_run([]), None)
    passages = [p for command in due for p in step.take(command)]
    bounds = sorted({0, len(times), *(c for c in cuts if c < len(times))})
    for first, last in pairwise(bounds):
        passages += step.take(arrivals(times[first:last], first))
    passages += step.end()
    assert left(passages) == (marks, out)
    assert step.totals()["rate_hz"] == dam.rate_hz


def test_a_command_of_the_past_holds_at_once() -> None:
    """A late command does not rewrite what passed; frames it makes room for leave with it."""
    step = DamStep(a_run([]), None)
    marks, out = left(list(step.take(arrivals([START_NS] * 40))))
    assert (marks.count(0), marks.count(1)) == (20, 20)
    assert out == list(range(20))
    assert list(step.take(Retune(rate_hz=1_000_000, burst=50))) == []
    _, out = left(list(step.take(arrivals([START_NS + SECOND_NS], 40))))
    assert out == list(range(20, 41))


def test_commands_survive_a_snapshot() -> None:
    """What waits for its time is part of the state, and so is the rate."""
    run = {"recovery": "unused"}
    step = DamStep(a_run([], run=run), None)
    list(step.take(Retune(rate_hz=70, burst=5)))
    list(step.take(arrivals([START_NS])))
    list(step.take(Retune(rate_hz=7, burst=5, at_ns=START_NS + SECOND_NS)))
    again = DamStep(a_run([], run=run), step.snapshot())
    assert again.totals()["rate_hz"] == 70
    list(again.take(arrivals([START_NS + 2 * SECOND_NS], 1)))
    assert again.totals()["rate_hz"] == 7
    assert again.totals()["frames"] == 2


def test_commands_are_bounded_and_said() -> None:
    """One command too many, and a command to a dam that is off, are refused with a line each."""
    said: list[str] = []
    step = DamStep(a_run(said), None)
    for n in range(RETUNES_MAX + 1):
        assert list(step.take(Retune(rate_hz=7, burst=5, at_ns=START_NS + n))) == []
    assert len(said) == 1
    off = DamStep(a_run(said, capture={"by": "host"}), None)
    assert list(off.take(Retune(rate_hz=7, burst=5))) == []
    assert "dam is off" in said[1]


@pytest.mark.parametrize(
    "change", [{"rate_hz": 0}, {"rate_hz": 1_000_001}, {"burst": 0}, {"at_ns": -1}]
)
def test_impossible_rates_are_refused(change: dict[str, int]) -> None:
    """A command that no dam can obey cannot be made."""
    with pytest.raises(ValueError, match=f"{next(iter(change))}: want"):
        Retune(**({"rate_hz": 1, "burst": 1} | change))


def test_what_a_run_is_told_reaches_each_shard_once() -> None:
    """It comes before what arrives next; of two the last one counts."""
    run = a_run([], run={"shards": 2})
    step, arrived = with_commands(run), ("0001", arrivals([START_NS]))
    assert list(step(arrived)) == [arrived]
    for rate in (1, 2):
        run.commands.append(Retune(rate_hz=rate, burst=5))
    told = Retune(rate_hz=2, burst=5)
    assert list(step(arrived)) == [("0000", told), ("0001", told), arrived]
    assert list(step(arrived)) == [arrived]
