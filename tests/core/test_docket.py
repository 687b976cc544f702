"""The docket: one finding for each key and rule, opened, told now and then, and closed once."""

from __future__ import annotations

import pickle
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from core.docket import Docket
from core.findings import CLOSE, CREATE, UPDATE, Finding
from core.sighting import Evidence, Sighting

SECOND_NS = 1_000_000_000


def sighting(second: int, key: str = "pump", rule: str = "flood", **changes: Any) -> Sighting:
    """Return what was seen of a key in a window of a second."""
    at_ns = second * SECOND_NS
    fields: dict[str, Any] = {
        "rule": rule, "title": "t", "key": key, "is_device": True, "source": 1, "ordinal": second,
        "first_ns": at_ns, "last_ns": at_ns + SECOND_NS - 1, "packets": 5, "window_ns": at_ns,
        "evidence": (Evidence(feature="rate", value=2.0, unit="packets/s", threshold=1.0),),
    }  # fmt: skip
    return Sighting(**(fields | changes))


def docket(**settings: int) -> Docket:
    """Return an empty docket."""
    rules = {"quiet_s": 60, "update_s": 60, "open_max": 100, "per_window_max": 100}
    return Docket(**(rules | settings), window_ns=SECOND_NS)


def activities(told: list[Finding]) -> list[int]:
    """Return what was told."""
    return [each.activity for each in told]


def test_an_hour_of_attack_is_told_some_sixty_times() -> None:
    """Opened, then at most once in a minute, then closed; whatever happened is counted."""
    cases = docket()
    told = cases.take((sighting(second) for second in range(3600)), 3600 * SECOND_NS)
    told += cases.take([], 9000 * SECOND_NS)
    assert activities(told) == [CREATE, *[UPDATE] * 59, CLOSE]
    assert len({each.uid for each in told}) == 1
    assert [each.number for each in told] == list(range(61))
    last = told[-1]
    assert (last.sightings, last.packets) == (3600, 5 * 3600)
    assert (last.first_ns, last.last_ns) == (0, 3600 * SECOND_NS - 1)
    assert (last.ended, last.at_ns) == ("quiet", 3660 * SECOND_NS)
    assert len(cases) == 0


def test_quiet_closes_and_a_later_sighting_opens_another() -> None:
    """A minute less a window goes on; a minute does not, and the identity is another one."""
    cases = docket()
    told = cases.take([sighting(0), sighting(60)], 0)
    assert activities(told) == [CREATE, UPDATE]
    told += cases.take([sighting(121)], 0)
    assert activities(told) == [CREATE, UPDATE, CLOSE, CREATE]
    assert told[0].uid == told[2].uid != told[3].uid


def test_keys_and_rules_have_findings_of_their_own() -> None:
    """What is open of one says nothing about another."""
    told = docket().take([sighting(0), sighting(0, "valve"), sighting(0, rule="two_senders")], 0)
    assert activities(told) == [CREATE] * 3
    assert len({each.uid for each in told}) == 3


def test_what_is_not_worth_a_finding_keeps_one_going() -> None:
    """Weak sightings open nothing, and put off the end of what is open."""
    cases = docket()
    weak = [sighting(second, opens=False) for second in range(0, 200, 50)]
    assert cases.take(weak, 0) == []
    told = cases.take([sighting(200), sighting(250, opens=False)], 300 * SECOND_NS)
    assert activities(told) == [CREATE]
    assert cases.next_ns == 311 * SECOND_NS


def test_the_one_not_seen_for_longest_makes_room() -> None:
    """It is closed, with the reason, and nothing is ever open beyond the bound."""
    cases = docket(open_max=2)
    told = cases.take([sighting(0, "a"), sighting(1, "b"), sighting(2, "a"), sighting(3, "c")], 0)
    assert [(each.key, each.activity, each.ended) for each in told] == [
        ("a", CREATE, ""), ("b", CREATE, ""), ("b", CLOSE, "evicted"), ("c", CREATE, ""),
    ]  # fmt: skip
    assert len(cases) == 2


def test_the_strongest_sighting_speaks_for_all() -> None:
    """Evidence and title are those of the window that says most."""
    strong = Evidence(feature="rate", value=9.0, unit="packets/s", threshold=1.0)
    seen = [sighting(0), sighting(1, title="worse", evidence=(strong,)), sighting(2)]
    cases = docket()
    cases.take(seen, 0)
    (closed,) = cases.finish()
    assert (closed.strongest.title, closed.strongest.evidence) == ("worse", (strong,))
    assert (closed.ended, closed.ordinal) == ("input_end", 0)


SEEN = st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abcd"), st.booleans()), max_size=60)


@given(SEEN, st.sets(st.integers(0, 60)))
def test_cuts_looks_and_restarts_change_nothing(
    steps: list[tuple[int, str, bool]], cuts: set[int]
) -> None:
    """In one go, or in pieces with a snapshot between: the same messages in the same order."""
    seen, second = [], 0
    for gap, key, opens in steps:
        second += gap
        seen.append(sighting(second, key, opens=opens))
    rules = {"quiet_s": 2, "update_s": 3, "open_max": 3, "per_window_max": 2}
    whole, pieces = docket(**rules), docket(**rules)
    want = [*whole.take(seen, second * SECOND_NS), *whole.finish()]
    found: list[Finding] = []
    for at, each in enumerate(seen):
        found += pieces.take([each], each.window_ns)
        if at in cuts:
            saved, pieces = pickle.dumps(pieces.snapshot()), docket(**rules)
            pieces.restore(pickle.loads(saved))
            found += pieces.take([], each.window_ns)
    found += [*pieces.take([], second * SECOND_NS), *pieces.finish()]
    assert found == want
    assert pieces.suppressed == whole.suppressed
    by_uid: dict[str, list[int]] = {}
    for message in found:
        by_uid.setdefault(message.uid, []).append(message.activity)
    assert all(told[0] == CREATE and told[-1] == CLOSE for told in by_uid.values())
    assert all(Counter(told)[CREATE] == Counter(told)[CLOSE] == 1 for told in by_uid.values())
