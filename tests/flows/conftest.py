"""One small simulated capture for all tests of the flow, and somewhere to deliver to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.simulate import SimulationSummary, simulate
from tests.conftest import Kafka
from tests.flows.datagrams import FORMATS, Sent, traffic, written
from tests.flows.deliveries import Place


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> SimulationSummary:
    """Return what is in a capture of every kind of packet: 6,000 of them in eight seconds."""
    path = tmp_path_factory.mktemp("captures") / "mixed.pcap"
    return simulate(
        path, scenario="mixed", devices=60, rate_hz=500.0, seconds=8.0, seed=5, port=9999
    )


@pytest.fixture(scope="session")
def capture(mixed: SimulationSummary) -> Path:
    """Return where that capture lies."""
    return Path(mixed.path)


@pytest.fixture(scope="session")
def said() -> list[Sent]:
    """Return the same traffic for all formats of datagrams."""
    return traffic()


@pytest.fixture(scope="session")
def captures(said: list[Sent], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return what names the capture of a format of datagrams."""
    folder = tmp_path_factory.mktemp("formats")
    found = {kind: written(kind, said, folder / f"{kind}.pcap") for kind in FORMATS}
    return found.__getitem__


@pytest.fixture
def place(kafka: Kafka, tmp_path: Path) -> Iterator[Place]:
    """Yield topics of the test's own on the shared broker."""
    found = Place(kafka.servers, tmp_path)
    yield found
    found.clear()
