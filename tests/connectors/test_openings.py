"""The first message to a partition goes alone: what its leader refuses first is not lost."""

from __future__ import annotations

from itertools import count
from typing import Literal

import msgspec
import pytest
from confluent_kafka import KafkaError

from connectors.openings import Openings
from core.arrow_out import arrow_messages
from core.outgoing import json_messages
from core.partitioner import partitions_of
from core.topics import FINDINGS, TELEMETRY
from tests.flows.deliveries import opened as rows_of
from tests.kafka import topics
from tests.kafka.mock import PRODUCE, mock_broker
from tests.outboxes import FATES, opened, readings

REFUSED = KafkaError.NOT_LEADER_FOR_PARTITION


def test_the_first_of_each_partition_is_named_once() -> None:
    """Messages by key and messages with a partition open the same, each partition once."""
    batch = readings(300, keys=20)
    homes = partitions_of(batch, 4).tolist()
    want = sorted(homes.index(each) for each in range(4))
    openings = Openings({TELEMETRY: 4})
    assert openings.first(json_messages(batch, "seq")) == want
    assert openings.first(json_messages(batch, "seq")) == []
    arrow = arrow_messages(batch, "seq", 4, 10_000)
    found = Openings({TELEMETRY: 4}).first(arrow)
    assert [arrow.partitions[each] for each in found] == [0, 1, 2, 3]
    assert found == [arrow.partitions.index(each) for each in range(4)]
    assert Openings({FINDINGS: 4}).first(arrow) == []


def test_partitions_are_opened_as_their_keys_come() -> None:
    """What was not written to yet is opened later, and alone."""
    batch = readings(40, keys=20)
    homes = partitions_of(batch, 64).tolist()
    openings, seen = Openings({TELEMETRY: 64}), set[int]()
    for at in count(step=5):
        if at == len(batch):
            break
        some = batch.take(slice(at, at + 5))
        for each in openings.first(json_messages(some, "seq")):
            assert homes[at + each] not in seen
            seen.add(homes[at + each])
    assert seen == set(homes)


@pytest.mark.parametrize("refusals", [1, 4, 9])
@pytest.mark.parametrize("form", ["json", "arrow"])
def test_a_leader_that_is_taking_over(form: Literal["json", "arrow"], refusals: int) -> None:
    """However many batches it refuses before it takes one, none is missing, and the order stays.

    The mock cluster takes any batch as the first, as brokers before Kafka 4.5 do.
    """
    with mock_broker() as broker:
        broker.create(TELEMETRY, partitions=2)
        with opened(broker.servers, format=form, partitions=2, linger_ms=0,
                    config={"batch.num.messages": 1}) as box:  # fmt: skip
            broker.delay(20)
            broker.fail(PRODUCE, *[REFUSED] * refusals)
            for first in range(0, 120, 4):
                box.send(readings(4, first=first))
            box.outbox.flush(30)
            assert box.counts(*FATES) == {
                f"accepted.{TELEMETRY}": 120, f"delivered.{TELEMETRY}": 120
            }  # fmt: skip
            broker.delay(0)
        messages = topics.read(broker.servers, TELEMETRY)
    if form == "json":
        found = [(each.key, each.value) for each in messages]
    else:
        found = [(row.key, row.value) for _, row in rows_of(messages, TELEMETRY)]
    numbers: dict[bytes | None, list[int]] = {}
    for key, value in found:
        numbers.setdefault(key, []).append(msgspec.json.decode(value)["n"])
    assert sorted(n for each in numbers.values() for n in each) == list(range(120))
    assert all(each == sorted(each) for each in numbers.values())
