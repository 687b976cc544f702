"""What tests of connectors share: topics of their own on the broker of the session."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from core.sections import KafkaSettings
from tests.conftest import Kafka
from tests.fill import made
from tests.kafka.renamed import renamed
from tests.kafka.topics import delete


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


@pytest.fixture
def silence(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Hold whatever is done to writing nothing to either stream."""
    yield
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def settings(kafka: Kafka, request: pytest.FixtureRequest) -> Iterator[KafkaSettings]:
    """Yield settings under which the topics are this test's own."""
    with renamed(kafka.servers, request.node.nodeid) as found:
        yield found
