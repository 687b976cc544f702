"""The ledger: pages replaced, sums and maxima, many writers."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from connectors.ledger import Ledger

TOTALS = st.dictionaries(st.sampled_from(["a", "b", "c_max"]), st.integers(0, 2**70))


def test_a_page_is_replaced_and_copied() -> None:
    """A page is what its writer said last, and nobody else's to change."""
    ledger, totals = Ledger(), {"a": 1}
    ledger.write("dam/0", {"old": 5})
    ledger.write("dam/0", totals)
    totals["a"] = 9
    ledger.page("dam/0")["a"] = 7
    assert ledger.page("dam/0") == {"a": 1}
    assert ledger.page("dam/1") == {}
    assert dict(ledger.total()) == {"a": 1}
    assert ledger.total()["unheard of"] == 0


@given(st.lists(TOTALS, max_size=5))
def test_totals_are_sums_and_maxima(pages: list[dict[str, int]]) -> None:
    """Names that end in `_max` take the largest page, all others add up, unbounded."""
    ledger = Ledger()
    for number, totals in enumerate(pages):
        ledger.write(f"step/{number}", {"a": 10**9})
        ledger.write(f"step/{number}", totals)
    found = ledger.total()
    assert found["a"] == sum(p.get("a", 0) for p in pages)
    assert found["b"] == sum(p.get("b", 0) for p in pages)
    assert found["c_max"] == max((p.get("c_max", 0) for p in pages), default=0)


def test_writers_and_readers_do_not_disturb_one_another() -> None:
    """While several threads write pages of two equal numbers, no total ever tears them apart."""
    ledger = Ledger()
    begin = threading.Barrier(5)

    def write(page: str) -> None:
        begin.wait()
        for number in range(2000):
            ledger.write(page, {"a": number, "b": number})

    writers = [threading.Thread(target=write, args=(f"p/{i}",)) for i in range(4)]
    for writer in writers:
        writer.start()
    begin.wait()
    while any(writer.is_alive() for writer in writers):
        total = ledger.total()
        assert total["a"] == total["b"]
    assert ledger.total() == {"a": 4 * 1999, "b": 4 * 1999}
