"""A bare loop of `Producer.produce` over prepared bytes, and our sink over the same records.

    python -m tests.bench.produce SERVERS TOPIC RECORDS bare|lean|sink|sink_arrow

prints one JSON object. `bare` produces messages prepared before the clock starts, with the same
keys, values, headers and times as the sink's; `lean` the same without headers, which no consumer of
ours would want, to show what they cost; `sink` gives the sink encoded batches and does the rest;
`sink_arrow` the same as Arrow. What is prepared goes round again when more records are asked for.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence, Sized
from itertools import cycle
from typing import Any, TypeVar

import msgspec
import numpy as np
from confluent_kafka import Producer

from connectors.clock import cpu_ns, monotonic_ns
from connectors.kafka_client import producer_properties
from core.batches import RecordBatch
from core.outgoing import json_messages
from core.sections import KafkaSettings
from core.topics import TELEMETRY

T = TypeVar("T", bound=Sized)

BATCH_LEN = 8_192
START_NS = 1_767_225_600_000_000_000
DEVICES = 1_000
PREPARED = 500_000
"""Records prepared at most: each takes 1.5 KB as a message of Python's."""


def batches(records: int) -> Iterator[RecordBatch]:
    """Yield telemetry records of about 100 bytes, as `core.records` encodes them."""
    for first in range(0, records, BATCH_LEN):
        numbers = range(first, min(first + BATCH_LEN, records))
        keys = [b"dev-%06d" % (i * 7919 % DEVICES) for i in numbers]
        values = [
            b'{"id":"%s","seq":%d,"data":{"temperature":18.81,"humidity":%d.7},"ts":%d}'
            % (key, i, 20 + i % 70, START_NS + i * 5_000)
            for i, key in zip(numbers, keys, strict=True)
        ]
        yield RecordBatch(
            topic=TELEMETRY,
            values=np.frombuffer(b"".join(values), np.uint8),
            value_end=np.cumsum([len(v) for v in values]),
            keys=np.frombuffer(b"".join(keys), np.uint8),
            key_end=np.cumsum([len(k) for k in keys]),
            at_ns=START_NS + np.array(numbers, np.int64) * 5_000,
            source=np.full(len(keys), 0x2E77A2DFC94DD077, np.uint64),
            ordinal=np.array(numbers, np.int64),
            seq=np.array(numbers, np.uint32),
        )


def around(ready: Sequence[T], records: int) -> Iterator[T]:
    """Yield what is prepared until there are so many records, or a part of a batch more."""
    count = 0
    for item in cycle(ready):
        if count >= records:
            return
        yield item
        count += len(item)


def bare(settings: KafkaSettings, servers: str, records: int, *, lean: bool) -> Callable[[], None]:
    """Return the loop, its messages prepared."""
    topic = settings.topics[TELEMETRY]
    failed: list[Any] = []

    def report(error: Any, message: Any) -> None:
        failed.append((error, message))

    producer = Producer(producer_properties(settings, servers) | {"on_delivery": report})
    producer.list_topics(topic, timeout=10)
    ready = [json_messages(batch, "cloudevents") for batch in batches(min(records, PREPARED))]

    def loop() -> None:
        produce: Any = producer.produce
        for out in around(ready, records):
            columns = (out.values, out.keys, out.timestamps_ms, out.headers)
            for value, key, at_ms, headers in zip(*columns, strict=True):
                if lean:
                    produce(topic, value, key, -1, None, None, at_ms)
                else:
                    produce(topic, value, key, -1, None, None, at_ms, headers)
            producer.poll(0)
        producer.flush(60)
        if failed or len(producer):
            raise RuntimeError(f"{len(failed)} records failed, {len(producer)} are left")

    return loop


def sink(settings: KafkaSettings, servers: str, records: int) -> Callable[[], None]:
    """Return the same through the sink, its records encoded and nothing else done."""
    from connectors.kafka import KafkaSink
    from connectors.pressure import Pressure

    lost: list[str] = []
    made = KafkaSink(
        servers=servers, settings=settings, parts=1, recovers=False, pressure=Pressure(),
        stopping=threading.Event(), notify=lambda _: None, on_lost=lost.append,
        on_counts=lambda page, counts: None, topics=(TELEMETRY,),
    )  # fmt: skip
    part = made.build_part("sink", "0000", None)
    ready = list(batches(min(records, PREPARED)))

    def loop() -> None:
        for batch in around(ready, records):
            part.write_batch([batch])
        part.close()
        if lost:
            raise RuntimeError(lost[0])

    return loop


def main() -> None:
    """Run one of them and print what it cost."""
    servers, topic, count, what = sys.argv[1:]
    records = int(count)
    settings = KafkaSettings(topics={TELEMETRY: topic}, queue_len_max=1_000_000)
    if what in ("sink", "sink_arrow"):
        form: Any = "json" if what == "sink" else "arrow"
        loop = sink(msgspec.structs.replace(settings, format=form), servers, records)
    else:
        loop = bare(settings, servers, records, lean=what == "lean")
    wall, cpu = monotonic_ns(), cpu_ns()
    loop()
    seconds, used = (monotonic_ns() - wall) * 1e-9, (cpu_ns() - cpu) * 1e-9
    print(
        json.dumps(
            {
                "what": what,
                "records_per_s": round(records / seconds),
                "cpu_us_per_record": round(used / records * 1e6, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
