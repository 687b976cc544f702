"""Openings: the first message to each partition goes alone, and the others once it is answered.

Laws:

1. While the first message of a producer to a partition is under way, no other is.
2. Messages of one partition keep their order.

A partition that knows nothing of a producer takes whatever batch comes first, whichever its number
(brokers before Kafka 4.5). While its leader is only taking over, it may refuse the first batch and
take the second; librdkafka then holds both for written, and the first is lost, reported as
delivered. Once a batch was taken, a later one is refused as long as one before it is missing.

Not here: partitions whose topic is deleted and made again under a run, or that forgot the producer
because nothing came for a day (`producer.id.expiration.ms`).

Source: KAFKA-15591; KIP-360; librdkafka 2.16, `rd_kafka_dr_implicit_ack`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from core.outgoing import BY_KEY
from core.partitioner import partitions_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.outgoing import Outgoing


class Openings:
    """Knows to which partitions one producer has sent something.

    Args:
        partitions: How many each topic has; of others nothing goes alone.
    """

    def __init__(self, partitions: Mapping[str, int]) -> None:
        self._closed = {topic: np.ones(count, bool) for topic, count in partitions.items()}

    def first(self, out: Outgoing) -> list[int]:
        """Return which messages have to go alone, at most one for each partition, in order.

        They are taken for sent: who asks again is not told of their partitions again.
        """
        closed = self._closed.get(out.topic)
        if closed is None or not closed.any():
            return []
        partitions, at = np.unique(_partitions(out, closed.size), return_index=True)
        at = at[closed[partitions]]
        closed[partitions] = False
        found: list[int] = np.sort(at).tolist()
        return found


def _partitions(out: Outgoing, count: int) -> NDArray[np.int32]:
    """Return the partition of each message, `(n,) int32`."""
    if BY_KEY in out.partitions:
        return partitions_of(out.batch, count)
    return np.array(out.partitions, np.int32)
