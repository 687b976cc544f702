"""Commands of this process reach its run, once, through one worker."""

from __future__ import annotations

import threading

import pytest

from connectors.commands import CommandSource
from core.controls import Retune


def test_the_last_command_counts_and_comes_once() -> None:
    """The first worker takes it; it and all others say that they looked."""
    looks: list[tuple[int, int]] = []
    stops: list[int] = []
    stopping = threading.Event()
    source = CommandSource(
        stopping, lambda worker, workers: looks.append((worker, workers)), lambda: stops.append(1)
    )
    parts = [source.build("controls", worker, 2) for worker in range(2)]
    for rate_hz in (1, 2):
        source.give(Retune(rate_hz=rate_hz, burst=9))
    assert [part.next_batch() for part in reversed(parts)] == [[Retune(rate_hz=2, burst=9)], []][
        ::-1
    ]
    assert [part.next_batch() for part in parts] == [[], []]
    assert looks == [(1, 2), (0, 2), (0, 2), (1, 2)]
    stopping.set()
    for part in parts:
        with pytest.raises(StopIteration):
            part.next_batch()
    assert stops == [1, 1]
