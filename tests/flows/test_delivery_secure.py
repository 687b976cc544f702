"""Brokers that want TLS and a password: who has both delivers, and nobody is shown a secret."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.topics import TELEMETRY
from tests.flows.deliveries import Place, check_messages, said, written
from tests.flows.runs import penstock
from tests.kafka.broker import Broker
from tests.kafka.security import PASSWORD, Security
from tests.kafka.topics import partitions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def security(tmp_path_factory: pytest.TempPathFactory) -> Security:
    """Return certificates, and a user with a password."""
    return Security(tmp_path_factory.mktemp("security") / "tls")


@pytest.fixture(scope="module")
def secure(
    kafka_jars: Path, security: Security, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Broker]:
    """Yield a broker that wants both."""
    with Broker(tmp_path_factory.mktemp("secure") / "broker", security) as broker:
        yield broker


@pytest.fixture
def place(secure: Broker, tmp_path: Path) -> Place:
    """Return topics of the test's own."""
    return Place(secure.servers, tmp_path, secure.inside)


@pytest.mark.parametrize("kept", ["file", "env", "settings"])
def test_records_pass(
    place: Place, security: Security, capture: Path, tmp_path: Path, kept: str
) -> None:
    """Wherever the password is kept all records arrive, and nothing that is said shows it."""
    (tmp_path / "password").write_text(PASSWORD + "\n")
    where: dict[str, Any] = {
        "file": {"file": str(tmp_path / "password")},
        "env": {"env": "THE_PASSWORD"},
        "settings": PASSWORD,
    }
    place.configure(kafka={"options": security.options() | {"sasl.password": where[kept]}})
    sent = written(capture, folder=tmp_path / "files")
    env = {"THE_PASSWORD": PASSWORD} if kept == "env" else {}
    done = place.run(capture, **env)
    assert (done.code, said(done)) == (0, [])
    for topic, rows in sent.items():
        assert check_messages(place.arrived(topic), rows, topic) == 0
    shown = penstock("config", "show", cwd=tmp_path, **env)
    assert shown.code == 0
    assert "sasl.password" in shown.out
    assert PASSWORD not in done.out + done.err + shown.out + shown.err


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        ("password", "sasl"),
        ("authority", "certificate"),
        ("plain", "security.protocol"),
        ("no password", "security.protocol"),
    ],
)
def test_who_does_not_belong_is_told_why(
    place: Place, security: Security, capture: Path, wrong: str, cause: str
) -> None:
    """One line names the cause, exit 1; the password is nowhere in what is said."""
    guessed = "guessed-by-chance"
    options = {
        "password": security.options(sasl_password=guessed),
        "authority": security.options(ssl_ca_location=str(security.other_ca)),
        "plain": {},
        "no password": {"security.protocol": "ssl", "ssl.ca.location": str(security.ca)},
    }[wrong]
    place.configure(kafka={"options": options, "connect_s": 5})
    done = place.run(capture)
    assert (done.code, done.out) == (1, "")
    line = done.line
    assert place.servers in line
    assert cause in line.lower()
    for secret in (PASSWORD, guessed):
        assert secret not in done.err
    if wrong == "password":
        assert guessed[:6] not in line
    assert place.names[TELEMETRY] not in partitions(place.inside)


@pytest.mark.parametrize("where", [{"env": "PENSTOCK_TEST_NOT_SET"}, {"file": "no/such/file"}])
def test_a_password_that_is_not_there_is_asked_for(
    place: Place, security: Security, capture: Path, where: dict[str, str]
) -> None:
    """Before anything starts it is said where the password was looked for, exit 2."""
    options: dict[str, Any] = security.options() | {"sasl.password": where}
    place.configure(kafka={"options": options})
    done = place.run(capture)
    assert (done.code, done.out) == (2, "")
    assert "sasl.password" in done.line
    assert next(iter(where.values())) in done.line
