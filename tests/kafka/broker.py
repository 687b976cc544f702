"""A real broker for tests: one Apache Kafka in KRaft mode, in one JVM.

Laws:

1. A broker that has started answers: its metadata names a broker that takes records.
2. Stopped or killed, it can be started again, with the same ports and what it had stored.
3. No JVM outlives the process that started it (`leash.py`), and no data its broker.
4. Topics are made by whoever needs them; asking for one that is missing does not make it.

Where records have to be proven delivered, this is what they are delivered to.

Source: Apache Kafka 4, KRaft: `kafka.tools.StorageTool format --standalone`, `kafka.Kafka`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.kafka.jars import jars
from tests.kafka.ports import Port
from tests.kafka.security import Security

LEASH = Path(__file__).with_name("leash.py")
CLUSTER = "4L6g3nShT-eMCtK--X86sw"
"""Any cluster id will do; this is the one that Kafka's own tests have."""
PATIENCE_S = 60.0
"""A broker that does not start or stop in this time has hung."""
A_DAY_MS = 86_400_000
GLANCE_S = 0.05
"""Time between two looks at a broker that is starting."""

# It starts in seconds and serves a test: less compiling, and one collector for little memory.
JVM = ("java", "-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
       "-Djava.awt.headless=true", "-Djava.net.preferIPv4Stack=true",
       "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
       "-Dorg.slf4j.simpleLogger.showDateTime=true")  # fmt: skip


class BrokerError(Exception):
    """The broker did not start or did not stop; the text has the end of its log."""


class Broker:
    """A broker with a folder of its own.

    Args:
        folder: Where its settings, log and data lie; made here, removed by `close`.
        security: TLS and a password for clients; none when left out.
        properties: More properties of `server.properties`, or other values of ours.

    Attributes:
        servers: Where clients reach it, for `bootstrap.servers`.
        inside: Where tests reach it without TLS and password; the same when it asks for neither.
        log: The file of what it says.
    """

    def __init__(
        self,
        folder: Path,
        security: Security | None = None,
        properties: dict[str, str] | None = None,
    ) -> None:
        self._folder = folder
        self._jars = jars()
        self._process: subprocess.Popen[bytes] | None = None
        self._ports = [Port(), Port(), Port()]
        outside, controller, inside = (port.address for port in self._ports)
        self.servers = outside
        self.inside = inside if security else outside
        folder.mkdir(parents=True)
        self.log = folder / "broker.log"
        self._settings = folder / "server.properties"
        lines = _properties(folder / "data", outside, controller, inside, security)
        lines |= properties or {}
        self._settings.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        self._format(security)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The number of its process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, for the first time or again, and wait until it answers."""
        assert not self.running
        leash = (sys.executable, "-ISE", str(LEASH), str(os.getpid()))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*leash, *self._java("kafka.Kafka"), str(self._settings)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self._wait_until_it_answers(self._process)

    def pause(self) -> None:
        """Keep it from doing anything, as a machine that hangs does, until `resume`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused one go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise self._failed("did not stop") from None

    def kill(self) -> None:
        """End it as a crash does (`kill -9`)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=PATIENCE_S)

    def close(self) -> None:
        """End it for good: neither process nor data remain, and its ports are free again."""
        self.kill()
        for port in self._ports:
            port.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _java(self, main: str) -> list[str]:
        return [*JVM, "-cp", f"{self._jars}/*", main]

    def _format(self, security: Security | None) -> None:
        user = ["--add-scram", security.scram] if security else []
        done = subprocess.run(
            [*self._java("kafka.tools.StorageTool"), "format", "--standalone",
             "-t", CLUSTER, "-c", str(self._settings), *user],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            timeout=PATIENCE_S,
        )  # fmt: skip
        if done.returncode:
            self.close()
            raise BrokerError(f"formatting failed: {done.stdout}{done.stderr}")

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        client = AdminClient({"bootstrap.servers": self.inside, "log_level": 0,
                              "reconnect.backoff.max.ms": 100})  # fmt: skip
        for _ in range(int(PATIENCE_S / GLANCE_S)):
            try:
                process.wait(timeout=GLANCE_S)
            except subprocess.TimeoutExpired:
                pass
            else:
                raise self._failed(f"ended with {process.returncode}")
            try:
                # Brokers that are registered and not yet let in are not among them.
                if client.list_topics(timeout=1).brokers:
                    return
            except KafkaException:
                continue
        self.kill()
        raise self._failed("never answered")

    def _failed(self, what: str) -> BrokerError:
        said = self.log.read_text(errors="replace").splitlines()[-30:]
        return BrokerError("\n".join([f"the broker {what}", *said]))


def _properties(
    data: Path, outside: str, controller: str, inside: str, security: Security | None
) -> dict[str, str]:
    """Return the settings of a broker that is a cluster of its own."""
    outer = "SASL_SSL" if security else "PLAINTEXT"
    listeners = {"OUTSIDE": outside, "CONTROLLER": controller}
    if security:
        listeners["INSIDE"] = inside
    shown = ",".join(f"{name}://{address}" for name, address in listeners.items())
    alone = {f"{topic}.{what}": "1" for topic in ("offsets.topic", "transaction.state.log",
                                                  "share.coordinator.state.topic")
             for what in ("replication.factor", "num.partitions")}  # fmt: skip
    return alone | {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.bootstrap.servers": controller,
        "listeners": shown,
        "advertised.listeners": shown,
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "INSIDE" if security else "OUTSIDE",
        "listener.security.protocol.map":
            f"OUTSIDE:{outer},CONTROLLER:PLAINTEXT,INSIDE:PLAINTEXT",
        "log.dirs": str(data),
        "auto.create.topics.enable": "false",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        # After `kill -9` the next start is let in once the session of the last one has ended.
        "broker.session.timeout.ms": "1000",
        "broker.heartbeat.interval.ms": "200",
        # Topics that a test makes have the time of packets: nothing is deleted while tests run.
        "log.initial.task.delay.ms": str(A_DAY_MS),
        "log.retention.check.interval.ms": str(A_DAY_MS),
        "log.cleaner.dedupe.buffer.size": str(4 << 20),
        "log.index.size.max.bytes": str(1 << 20),
    } | (security.properties if security else {})  # fmt: skip
