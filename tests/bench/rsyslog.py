"""One `rsyslogd` of our own for a benchmark: imudp → JSON template → omkafka, on a free port.

Its settings are those its documentation advises for high rates ("Receiving massive amounts of
messages with high performance", imudp, omkafka), and what was found to cost less still: see
`Tuning`. It is told nothing that Penstock is not: the same brokers, compression and linger.

Source: rsyslog 8.2302, imudp, omkafka, queue parameters, templates.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.bench.subject import Subject

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


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


class Rsyslog(Subject):
    """An rsyslogd."""

    def __init__(
        self, folder: Path, servers: str, topic: str, tuning: Tuning, options: dict[str, str]
    ) -> None:
        super().__init__(folder)
        conf = folder / "rsyslog.conf"
        conf.write_text(configuration(folder, self.port, servers, topic, tuning, options))
        self.start([_program(), "-n", "-f", str(conf), "-i", str(folder / "pid")])
