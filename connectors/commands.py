"""Commands of this process to its own run, as a source of the graph beside the packets.

Laws:

1. Of commands that wait the last one counts: each says all there is to say.
2. It ends when the run is to stop, and so it never keeps one alive.
3. Every worker looks here between its looks for packets, and says so: a worker that hangs in a step
   or in a sink does neither.

Delivery guarantee: at most once; what waits when the process dies is asked for again by whoever
did, or is in the settings of the next run.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from bytewax.inputs import DynamicSource, StatelessSourcePartition

from core.controls import Retune

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable


class CommandSource(DynamicSource[Retune]):
    """Emits what `give` was called with; the first worker does, for every shard.

    Args:
        stopping: Ends it.
        on_look: Called with the number of the worker and of all workers whenever one looks.
        on_stop: Called by each worker when it has seen that the run is to stop.
    """

    def __init__(
        self,
        stopping: threading.Event,
        on_look: Callable[[int, int], None],
        on_stop: Callable[[], None],
    ) -> None:
        self._stopping, self._on_look, self._on_stop = stopping, on_look, on_stop
        self._waiting: deque[Retune] = deque(maxlen=1)

    def give(self, command: Retune) -> None:
        """Leave a command, from any thread."""
        self._waiting.append(command)

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Part:
        """Return what one worker looks into; see `DynamicSource`."""
        del step_id
        return _Part(self, worker_index, worker_count)

    def look(self, worker: int, workers: int) -> list[Retune]:
        """Return what waits, to the first worker.

        Raises:
            StopIteration: The run is to stop.
        """
        self._on_look(worker, workers)
        if self._stopping.is_set():
            self._on_stop()
            raise StopIteration
        if worker or not self._waiting:
            return []
        return [self._waiting.popleft()]


class _Part(StatelessSourcePartition[Retune]):
    def __init__(self, source: CommandSource, worker: int, workers: int) -> None:
        self._source, self._worker, self._workers = source, worker, workers

    def next_batch(self) -> list[Retune]:
        return self._source.look(self._worker, self._workers)
