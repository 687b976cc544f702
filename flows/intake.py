"""The intake of a live source: its packets are dealt to their shards, and so is the time.

Law: a tick reaches every shard. One that came with packets goes to those that got none of them, if
anybody waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from core.batches import FrameBatch
from core.reasons import REASONS
from flows import steps
from flows.deal import frame
from flows.items import Arrivals, Decoded

if TYPE_CHECKING:
    from core.batches import Intake
    from flows.run import Run


def take_in(run: Run) -> Callable[[Intake], Iterable[tuple[str, Arrivals]]]:
    """Return the step that makes arrivals of what a live source hands on.

    Args:
        run: What the steps share.
    """
    framed = frame(run)
    names = [steps.shard_name(shard) for shard in range(run.settings.run.shards)]
    nothing, no_reasons = FrameBatch.none(), np.zeros(REASONS, np.int64)

    def step(intake: Intake) -> list[tuple[str, Arrivals]]:
        dealt: list[tuple[str, Arrivals]] = []
        if intake.packets is not None:
            headers = intake.headers
            dealt += framed(
                steps.decode(intake.packets) if headers is None
                else Decoded(intake.packets, headers)
            )  # fmt: skip
            next_ns = run.waiting.next_ns
            if len(dealt) == len(names) or next_ns is None or next_ns > intake.tick_ns:
                return dealt
        got = {name for name, _ in dealt}
        tick = Arrivals(nothing, no_reasons, None, intake.tick_ns)
        return [*dealt, *((name, tick) for name in names if name not in got)]

    return step
