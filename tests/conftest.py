"""What every test can rely on: loud skips, real captures, a real broker, and Hypothesis' settings.

Laws:

1. A skip is never silent: each is listed with its reason at the end of the run.
2. With `PENSTOCK_TEST_FORBID_SKIPS=1` a skip makes the run fail, because the machine that sets it
   is one that has all the suite needs.
3. Random cases are the same in every run that forbids skips, so that a red run can be repeated.
4. Files with slow tests come first: at the end no worker waits for a long test of another's.
5. The broker is shared: a test names topics of its own, and one that stops a broker has its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.kafka.broker import Broker
    from tests.kafka.security import Security
    from tests.netns import Namespace

FORBID_SKIPS = os.environ.get("PENSTOCK_TEST_FORBID_SKIPS", "0") not in ("", "0")

# Kernels run for the first time inside an example, and CI shares its cores: no deadline.
settings.register_profile("penstock", deadline=None)
settings.register_profile("ci", parent=settings.get_profile("penstock"), derandomize=True)
settings.load_profile("ci" if FORBID_SKIPS else "penstock")


@pytest.fixture(scope="session")
def corpus(request: pytest.FixtureRequest) -> Path:
    """Return the folder `PENSTOCK_CORPUS` names; skip when it is unset, fail when it is missing."""
    named = os.environ.get("PENSTOCK_CORPUS", "")
    if not named:
        pytest.skip("PENSTOCK_CORPUS is not set: no real captures to replay")
    folder = (request.config.rootpath / named).resolve()
    if not folder.is_dir():
        pytest.fail(f"PENSTOCK_CORPUS={named} is not a folder")
    return folder


@pytest.fixture(scope="module")
def net() -> Iterator[Namespace]:
    """Yield a network namespace with a wire; skip when none can be made."""
    from tests.netns import namespace

    with namespace() as made:
        yield made


@dataclass(frozen=True)
class Kafka:
    """Brokers that run.

    Attributes:
        servers: Where they are, for `bootstrap.servers`.
    """

    servers: str


@pytest.fixture(scope="session")
def kafka_jars() -> Path:
    """Return the jars of the broker; skip, naming what to install, where they cannot be had."""
    from tests.kafka.jars import MissingError, jars

    try:
        return jars()
    except MissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def kafka(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kafka]:
    """Yield a broker for all tests: that of `PENSTOCK_TEST_KAFKA` (host:port), or one of ours."""
    if running := os.environ.get("PENSTOCK_TEST_KAFKA", ""):
        yield Kafka(running)
        return
    from tests.kafka.broker import Broker

    request.getfixturevalue("kafka_jars")
    with Broker(tmp_path_factory.mktemp("kafka") / "broker") as broker:
        yield Kafka(broker.servers)


@pytest.fixture
def own_broker(kafka_jars: Path, tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """Yield what starts brokers of the test's own, `(security=None, **properties)`, to be killed.

    Underscores of a property stand for its dots.
    """
    from tests.kafka.broker import Broker

    with ExitStack() as brokers:

        def begin(security: Security | None = None, **properties: str) -> Broker:
            folder = tmp_path / f"broker-{len(started)}"
            dotted = {name.replace("_", "."): value for name, value in properties.items()}
            started.append(brokers.enter_context(Broker(folder, security, dotted)))
            return started[-1]

        started: list[Broker] = []
        yield begin


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have slow tests, whole, so that each still sets up once."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def _skips(config: pytest.Config) -> list[str]:
    """List `test: reason` for everything that was skipped, whole modules included."""
    reporter: pytest.TerminalReporter | None = config.pluginmanager.get_plugin("terminalreporter")
    lines = []
    for report in reporter.stats.get("skipped", []) if reporter else []:
        where = report.longrepr
        reason = where[2] if isinstance(where, tuple) else str(where)
        lines.append(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}")
    return lines


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Turn a green run with skips into a red one where skips are forbidden."""
    if FORBID_SKIPS and session.exitstatus == pytest.ExitCode.OK and _skips(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print each skip with its reason, in red where it is a failure."""
    lines = _skips(config)
    if not lines:
        return
    colour = {"red": FORBID_SKIPS, "yellow": not FORBID_SKIPS}
    title = (
        "skipped, which PENSTOCK_TEST_FORBID_SKIPS makes a failure" if FORBID_SKIPS else "skipped"
    )
    terminalreporter.section(f"{len(lines)} {title}", sep="=", **colour)
    for line in lines:
        terminalreporter.line(f"SKIP {line}", **colour)
