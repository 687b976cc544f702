"""The broker of the tests: what it keeps, whom it answers, and that it never stays behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.conftest import Kafka
from tests.kafka.broker import Broker
from tests.kafka.jars import FetchError, MissingError, jars
from tests.kafka.security import Security
from tests.kafka.topics import create, delete, options, partitions, put, read

ROOT = Path(__file__).resolve().parents[2]


def test_the_shared_broker_takes_records_and_makes_no_topics(kafka: Kafka) -> None:
    """What is produced is read back, and asking for a topic does not make it."""
    create(kafka.servers, "test-broker", partitions=2)
    put(kafka.servers, "test-broker", b"a", b"", b"c")
    assert sorted(m.value for m in read(kafka.servers, "test-broker")) == [b"", b"a", b"c"]
    with pytest.raises(KafkaException):
        read(kafka.servers, "test-missing")
    assert "test-missing" not in partitions(kafka.servers)
    delete(kafka.servers, "test-broker")


@pytest.mark.slow
def test_a_broker_comes_back_where_it_was(own_broker: Callable[..., Broker]) -> None:
    """Stopped or killed, it starts again at the same address with the records it had."""
    broker = own_broker()
    before = broker.servers
    create(broker.servers, "kept")
    put(broker.servers, "kept", b"value")
    for end in (broker.stop, broker.kill):
        end()
        assert not broker.running
        broker.start()
        assert broker.servers == before
        assert [m.value for m in read(broker.servers, "kept")] == [b"value"]


@pytest.mark.slow
def test_a_secure_broker_wants_a_password(
    own_broker: Callable[..., Broker], tmp_path: Path
) -> None:
    """With TLS and the password records pass; with another password nobody does."""
    security = Security(tmp_path / "tls")
    broker = own_broker(security)
    create(broker.inside, "secret")
    put(broker.servers, "secret", b"value", more=security.options())
    for servers, more in ((broker.servers, security.options()), (broker.inside, None)):
        assert [m.value for m in read(servers, "secret", more=more)] == [b"value"]
    wrong = security.options(sasl_password="guessed")
    with pytest.raises(KafkaException):
        AdminClient(options(broker.servers, wrong)).list_topics(timeout=2)


@pytest.mark.slow
def test_no_broker_outlives_its_test(kafka_jars: Path, tmp_path: Path) -> None:
    """A process that is killed with `kill -9` takes its broker with it."""
    script = (
        "import sys; from pathlib import Path; from tests.kafka.broker import Broker\n"
        "broker = Broker(Path(sys.argv[1]))\n"
        "broker.start()\n"
        "print(broker.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "broker")],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        watched = os.pidfd_open(int(holder.stdout.readline()))
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=30)
    ended = select.select([watched], [], [], 30)[0]
    os.close(watched)
    assert ended, "the JVM lives on"


def test_jars_are_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetch that fails leaves nothing that passes for jars, and says what Maven said."""
    tools = tmp_path / "tools"
    tools.mkdir()
    script = """#!/bin/sh
        for word; do case $word in -DoutputDirectory=*) out=${word#*=};; esac; done
        mkdir -p "$out"; touch "$out/kafka_2.13.jar"
    """
    (tools / "java").write_text("#!/bin/sh\necho 'openjdk version \"21.0.1\"' >&2\n")
    (tools / "mvn").write_text(script + "echo 'no network'; exit 1")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    with pytest.raises(FetchError, match="no network"):
        jars(tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("kafka-[0-9a-f]*"))
    (tools / "mvn").write_text(script + f"echo x >> {tmp_path / 'fetched'}")
    with ThreadPoolExecutor(4) as several:
        assert len(set(several.map(lambda _: jars(tmp_path / "cache"), range(8)))) == 1
    assert (tmp_path / "fetched").read_text() == "x\n"
    (tools / "mvn").unlink()
    assert jars(tmp_path / "cache").is_dir()


@pytest.mark.parametrize(
    ("java", "missing"),
    [("", "no Java"), ('openjdk version "11.0.2"', "needs Java 17"), ('version "21"', "no Maven")],
)
def test_what_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, java: str, missing: str
) -> None:
    """Without Java, with one that is too old, or without Maven it is said what to install."""
    if java:
        (tmp_path / "java").write_text(f"#!/bin/sh\necho '{java}' >&2\n")
        (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match=f"{missing}.*apt-get install default-jre"):
        jars(tmp_path / "cache")
