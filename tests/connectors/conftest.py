"""What tests of connectors share: topics of their own on the broker of the session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from tests.conftest import Kafka
from tests.fill import made
from tests.kafka.topics import delete

if TYPE_CHECKING:
    pass


@pytest.fixture
def topics(kafka: Kafka, request: pytest.FixtureRequest) -> Iterator[Callable[..., str]]:
    """Yield what makes topics of one test's own, `(partitions=1, **settings)`."""
    begun: list[str] = []

    def make(partitions: int = 1, **settings: str) -> str:
        name = f"{request.node.name[:40]}-{abs(hash(request.node.nodeid))}-{len(begun)}"
        name = "".join(c if c.isalnum() else "-" for c in name)
        begun.append(made(kafka.servers, name, partitions, **settings))
        return name

    yield make
    if begun:
        delete(kafka.servers, *begun)
