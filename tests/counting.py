"""A source that counts, and goes on where a snapshot was; Bytewax's own for tests miscounts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition


class _Part(StatefulSourcePartition[Any, int]):
    def __init__(self, source: Counting, at: int) -> None:
        self._source, self._at = source, at

    def next_batch(self) -> list[Any]:
        if self._at >= self._source.stop:
            raise self._source.end
        self._at += 1
        return [self._source.item(self._at - 1)]

    def snapshot(self) -> int:
        return self._at


class Counting(FixedPartitionedSource[Any, int]):
    """One part, which emits one item for each number.

    Args:
        item: Makes the item of a number, from 0.
        stop: The number before which it ends.
        end: How it ends.
    """

    def __init__(
        self, item: Callable[[int], Any], stop: int, end: type[BaseException] = StopIteration
    ) -> None:
        self.item, self.stop, self.end = item, stop, end

    def list_parts(self) -> list[str]:
        return ["numbers"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _Part:
        return _Part(self, resume_state or 0)
