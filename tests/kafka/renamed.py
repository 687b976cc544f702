"""Topics of Penstock under names of one test's own, so that tests share a broker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from zlib import crc32

from core.sections import KafkaSettings
from core.topics import TOPICS
from tests.kafka.topics import delete, partitions


@contextmanager
def renamed(servers: str, test: str) -> Iterator[KafkaSettings]:
    """Yield settings under which every topic has a name of its own; delete them afterwards.

    Args:
        servers: The broker's address.
        test: What tells the test from others, such as the id of its node.
    """
    mark = f"{crc32(test.encode()):08x}-{os.getpid()}"
    names = {topic: f"{topic}.{mark}" for topic in TOPICS}
    yield KafkaSettings(topics=names)
    if made := sorted(partitions(servers).keys() & set(names.values())):
        delete(servers, *made)
