"""One `rsyslogd` of our own for a benchmark: imudp → JSON template → omkafka, on a free port.

Its settings are those its documentation advises for high rates ("Receiving massive amounts of
messages with high performance", imudp, omkafka), and what was found to cost less still: see
`Tuning`. It is told nothing that Penstock is not: the same brokers, compression and linger.

Source: rsyslog 8.2302, imudp, omkafka, queue parameters, templates.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.kafka.broker import LEASH

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
PLUGINS = "/usr/lib/*/rsyslog"
PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Tuning:
    """What of an rsyslogd can be chosen.

    Attributes:
        threads: Threads of imudp.
        batch: Datagrams a call of `recvmmsg`.
        queue: Queue of the ruleset: `Direct` is none, the thread of imudp does it all.
        dequeue: Messages a worker takes out of that queue at once.
        workers: Workers of that queue.
        escape: Whether control characters of a message are made readable (`#000`), the default.
        rcvbuf: `SO_RCVBUF`, bytes; rsyslogd forces it where it may.
    """

    threads: int = 1
    batch: int = 128
    queue: str = "Direct"
    dequeue: int = 4096
    workers: int = 1
    escape: bool = True
    rcvbuf: int = 32 << 20


def missing() -> str:
    """Return what there is not to run, with its cure; empty when all is here."""
    if shutil.which("rsyslogd", path=PATH) is None:
        return "no rsyslogd: apt-get install rsyslog rsyslog-kafka"
    if not list(Path("/usr/lib").glob("*/rsyslog/omkafka.so")):
        return "rsyslogd has no omkafka: apt-get install rsyslog-kafka"
    return ""


def version() -> str:
    """Return the version of rsyslogd."""
    done = subprocess.run([_program(), "-v"], capture_output=True, text=True, check=True)
    return done.stdout.split()[1]


def _program() -> str:
    found = shutil.which("rsyslogd", path=PATH)
    assert found is not None
    return found


def configuration(
    folder: Path, port: int, servers: str, topic: str, tuning: Tuning, options: dict[str, str]
) -> str:
    """Return the text of `rsyslog.conf`."""
    escape = "on" if tuning.escape else "off"
    queue = f'queue.type="{tuning.queue}"'
    if tuning.queue != "Direct":
        queue += f' queue.size="250000" queue.dequeueBatchSize="{tuning.dequeue}"'
        queue += f' queue.workerThreads="{tuning.workers}" queue.timeoutShutdown="10000"'
        queue += ' queue.workerThreadMinimumMessages="60000"'
    given = ", ".join(f'"{name}={value}"' for name, value in options.items())
    return f"""
global(workDirectory="{folder}" net.enableDNS="off" maxMessageSize="8k"
       parser.escapeControlCharactersOnReceive="{escape}")
module(load="imudp" threads="{tuning.threads}" batchSize="{tuning.batch}" timeRequery="8")
module(load="omkafka")
template(name="json" type="list" option.jsonf="on") {{
  property(outname="host" name="fromhost-ip" format="jsonf")
  property(outname="ts" name="timegenerated" dateFormat="rfc3339" format="jsonf")
  property(outname="data" name="rawmsg" format="jsonf")
}}
input(type="imudp" address="127.0.0.1" port="{port}" rcvbufSize="{tuning.rcvbuf}" ruleset="in")
ruleset(name="in" parser="rsyslog.rfc3164" {queue}) {{
  action(type="omkafka" broker=["{servers}"] topic="{topic}" template="json"
         partitions.auto="on" resubmitOnFailure="on" errorFile="{folder}/failed"
         confParam=[{given}])
}}
action(type="omfile" file="{folder}/said")
"""


def free_port() -> int:
    """Return a UDP port that nobody has at the moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


class Rsyslog:
    """An rsyslogd with a folder of its own, which ends with the process that started it.

    Attributes:
        port: Where it listens.
        pid: The number of its process.
    """

    def __init__(
        self, folder: Path, servers: str, topic: str, tuning: Tuning, options: dict[str, str]
    ) -> None:
        folder.mkdir(parents=True)
        self.port, self._folder = free_port(), folder
        conf = folder / "rsyslog.conf"
        conf.write_text(configuration(folder, self.port, servers, topic, tuning, options))
        command = [_program(), "-n", "-f", str(conf), "-i", str(folder / "pid")]
        leash = (sys.executable, "-ISE", str(LEASH), str(os.getpid()))
        with (folder / "stderr").open("wb") as said:
            self._process = subprocess.Popen(
                [*leash, *command], stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def said(self) -> str:
        """What it said about itself."""
        files = (self._folder / name for name in ("stderr", "said", "failed"))
        return "\n".join(path.read_text(errors="replace")[:2000] for path in files if path.exists())
