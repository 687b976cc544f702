"""Who waits for the time, and until when."""

from __future__ import annotations

from connectors.waiting import Waiting


def test_the_earliest_counts() -> None:
    """What is due first is known, whoever says it, and forgotten when he no longer waits."""
    waiting = Waiting()
    assert waiting.next_ns is None
    waiting.write("a", None)
    waiting.write("a", 20)
    waiting.write("b", 10)
    assert waiting.next_ns == 10
    waiting.write("b", 30)
    assert waiting.next_ns == 20
    waiting.write("a", None)
    waiting.write("b", None)
    assert waiting.next_ns is None
