"""Pressure: sources pause while a sink is full, and help it meanwhile."""

from __future__ import annotations

from connectors.pressure import Pressure


def test_a_source_is_free_until_a_sink_is_full() -> None:
    """Without pressure nobody is asked to help."""
    asked: list[float] = []
    pressure = Pressure()

    def relieve(wait_s: float) -> bool:
        asked.append(wait_s)
        return True

    pressure.on_relief(relieve)
    assert not pressure.holds(0.5)
    assert asked == []


def test_a_source_holds_back_until_there_is_room() -> None:
    """It helps each time it asks, and is free again once that made room."""
    room = iter([False, False, True])
    asked: list[float] = []

    def relieve(wait_s: float) -> bool:
        asked.append(wait_s)
        return next(room)

    pressure = Pressure()
    pressure.on_relief(relieve)
    pressure.press()
    assert [pressure.holds(0.05) for _ in range(4)] == [True, True, False, False]
    assert asked == [0.05, 0.05, 0.05]


def test_nobody_waits_for_a_sink_that_gives_no_relief() -> None:
    """Pressed before a relief was named, a source goes on."""
    pressure = Pressure()
    pressure.press()
    assert not pressure.holds(0.05)


def test_others_may_hold_a_source_back() -> None:
    """Whoever was named besides is asked each time, and needs no help."""
    full = iter([True, False, True])
    pressure = Pressure()
    pressure.also(lambda: next(full))
    assert [pressure.holds(0.05) for _ in range(3)] == [True, False, True]
