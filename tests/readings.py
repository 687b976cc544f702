"""Messages of topics made by hand, for the tests of what reads them back."""

from __future__ import annotations

from core.values import Messages, Values, unpacked


def messages(*values: bytes, partition: int = 0, first: int = 0) -> Messages:
    """Return messages of one partition, a millisecond apart, known by their place."""
    count = len(values)
    return Messages(
        values=list(values),
        partitions=[partition] * count,
        offsets=list(range(first, first + count)),
        timestamps_ms=list(range(1000, 1000 + count)),
        sources=[0xABCD] * count,
        ordinals=list(range(first, first + count)),
    )


def values(*held: bytes) -> Values:
    """Return the records of such messages."""
    return unpacked(messages(*held))
