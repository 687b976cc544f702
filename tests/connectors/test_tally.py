"""The tally: never more than arrived, and exact when nothing is under way."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from connectors.tally import Tally


def statistics(topic: str, acked: dict[str, int]) -> str:
    parts = {number: {"partition": int(number), "acked_msgid": n} for number, n in acked.items()}
    whole = {
        "name": "penstock#producer-1",
        "topics": {topic: {"topic": topic, "partitions": parts}},
    }
    return msgspec.json.encode(whole).decode()


def test_partitions_are_added_up_under_our_names() -> None:
    """Partition -1 holds what has none yet, and is no partition."""
    tally = Tally({"theirs": "ours"}.__getitem__)
    assert not tally.learn()
    tally.hear(statistics("theirs", {"0": 5, "1": 7, "-1": 100}))
    assert tally.page() == {}
    assert tally.learn()
    assert tally.page() == {"delivered.ours": 12}
    assert not tally.learn()


# What happens to one message after another: acknowledged, failed, or failed and then reported.
EVENTS = st.lists(st.sampled_from(["ack", "fail", "retry", "statistics"]), max_size=60)


@given(EVENTS)
def test_it_is_a_lower_bound_until_it_is_exact(events: list[str]) -> None:
    """Whatever fails and is reported, no more is counted than was delivered; it never falls."""
    tally = Tally(str)
    answered = arrived = seen = 0
    for event in events:
        if event == "statistics":
            tally.hear(statistics("t", {"0": answered}))
            tally.learn()
            assert seen <= tally.delivered["t"] <= arrived
            seen = tally.delivered["t"]
            continue
        tally.accepted["t"] += 1
        tally.moved["t"] += 1
        answered += 1
        arrived += event != "fail"
        if event != "ack":
            tally.fall("t", 1)
        if event == "fail":
            tally.gone["t"] += 1
        elif event == "retry":
            tally.arrive("t", 1)
    tally.settle()
    assert tally.page().get("delivered.t", 0) == arrived
    assert tally.missing == 0
    tally.write_off()
    assert "lost.t" not in tally.page()


def test_what_nothing_was_heard_of_is_written_off() -> None:
    """What is neither delivered nor gone is lost, so that the sum is that of the accepted."""
    tally = Tally(str)
    tally.accepted.update(t=10, u=2)
    tally.arrive("t", 4)
    tally.learn()
    tally.gone["t"] += 1
    assert tally.missing == 7
    tally.write_off()
    assert tally.page() == {"delivered.t": 4, "lost.t": 5, "lost.u": 2}
    assert tally.missing == 0
