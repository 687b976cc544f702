"""What a delivered record costs, beside rsyslog: 100,000 device frames a second into real Kafka.

    python -m tests.bench.bench_rsyslog [SECONDS [CASE…]]

`penstock send` offers the same frames to `penstock run ingest` and to rsyslogd (imudp → JSON
template → omkafka), in turns, each a process of its own, into one broker on the same machine, and
into topics of as many partitions. Both compress with lz4, wait 100 ms for more records of a batch,
and want every acknowledgement; both are asked for a receive buffer of 32 MiB. Penstock decodes and
checks each frame, keys its record, limits rates and scores; rsyslogd writes the datagram into one
JSON string. Its messages have no headers, nor have those of `penstock_without_headers`. CPU is user
and system time of the process from the first datagram to the last record that arrived; what
starting costs is not in it. Records are counted at the broker, by offsets.

One line of JSON has the medians of the turns, and how steady the load was: on a machine that has
other work too, `late_ms_max` says so. Each case of `rsyslog_…` is one of `TUNINGS`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from connectors.clock import monotonic_ns, sleep_until
from core.topics import TELEMETRY, TOPICS
from tests.bench.figures import MACHINE, SMOKE
from tests.bench.ingest import Ingest
from tests.bench.rsyslog import Rsyslog, Tuning, missing, version
from tests.bench.subject import Subject
from tests.kafka import topics
from tests.kafka.broker import Broker

SECONDS = 2.0 if SMOKE else 30.0
REPEATS = 1 if SMOKE else 5
RATE_HZ = 20_000 if SMOKE else 100_000
DEVICES = 1_000
PARTITIONS = TOPICS[TELEMETRY].partitions
PRODUCER = {
    "compression.codec": "lz4", "linger.ms": "100", "acks": "all", "batch.size": "1000000",
    "queue.buffering.max.messages": "1000000",
}  # fmt: skip
TUNINGS = {
    "rsyslog": Tuning(),
    "rsyslog_batch_512": Tuning(batch=512),
    "rsyslog_two_threads": Tuning(threads=2),
    "rsyslog_queue": Tuning(queue="FixedArray"),
    "rsyslog_as_documented": Tuning(threads=2, queue="FixedArray", workers=4),
}
SETTINGS = {
    "penstock": {},
    "penstock_without_headers": {"headers": "none"},
}
CASES = ("rsyslog", *SETTINGS)
STILL_NS = 5_000_000_000
"""No record for so long: no more will come."""
GLANCE_NS = 250_000_000
WARM_S = 1.0 if SMOKE else 3.0
"""How long each is sent to before it is measured: topics are looked up, kernels are loaded, and the
first windows closed."""
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process, all its threads together."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICKS


def dropped(port: int) -> int:
    """Return what the kernel dropped of a port's datagrams; -1 where nobody listens."""
    rows = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    found = [int(row[-1]) for row in rows if int(row[1].partition(":")[2], 16) == port]
    return sum(found) if found else -1


def glance() -> None:
    """Let some time pass."""
    sleep_until(monotonic_ns() + GLANCE_NS)


def until_it_waits(subject: Subject) -> None:
    """Wait until a process has its port and has become idle: nothing of its start is measured."""
    for _ in range(400):
        begun = cpu_s(subject.pid)
        glance()
        if dropped(subject.port) >= 0 and cpu_s(subject.pid) - begun <= 0.02:
            return
    raise AssertionError(f"it never came to rest: {subject.said}")


def offered(port: int, seconds: float) -> dict[str, Any]:
    """Send the frames; return what `penstock send` reports."""
    what = ["--scenario", "steady", "--devices", str(DEVICES), "--rate", str(RATE_HZ),
            "--seconds", str(seconds), "--json"]  # fmt: skip
    command = [sys.executable, "-m", "flows.cli", "send", f"127.0.0.1:{port}", *what]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def held(consumer: Consumer, topic: str) -> int:
    """Return the records of a topic, by its end offsets."""
    parts = (TopicPartition(topic, part) for part in range(PARTITIONS))
    return sum(consumer.get_watermark_offsets(part, timeout=10)[1] for part in parts)


def arrived(consumer: Consumer, topic: str, sent: int) -> int:
    """Wait for records until all are there, or none comes any more; return how many are."""
    most, since_ns = -1, monotonic_ns()
    while most < sent and monotonic_ns() - since_ns < STILL_NS:
        if (now := held(consumer, topic)) > most:
            most, since_ns = now, monotonic_ns()
        glance()
    return most


def turn(case: str, folder: Path, servers: str, consumer: Consumer, seconds: float) -> Any:
    """Start one of them, send, wait for what arrives; return what it cost."""
    topic = f"bench.{folder.name}"
    topics.create(servers, topic, partitions=PARTITIONS)
    with ExitStack() as stack:
        subject: Subject
        if case in TUNINGS:
            subject = Rsyslog(folder, servers, topic, TUNINGS[case], PRODUCER)
        else:
            subject = Ingest(folder, servers, topic, SETTINGS[case])
        stack.enter_context(subject)
        until_it_waits(subject)
        warm = arrived(consumer, topic, offered(subject.port, WARM_S)["sent"])
        if warm == 0:
            raise AssertionError(f"{case}: nothing arrived: {subject.said}")
        until_it_waits(subject)
        begun, dropped_before = cpu_s(subject.pid), dropped(subject.port)
        report = offered(subject.port, seconds)
        records = arrived(consumer, topic, warm + report["sent"]) - warm
        used_s = cpu_s(subject.pid) - begun
        dropped_after = dropped(subject.port)
    topics.delete(servers, topic)
    return {
        "cpu_us_per_record": round(used_s / records * 1e6, 3),
        "sent": report["sent"],
        "lost": report["sent"] - records,
        "kernel_dropped": dropped_after - dropped_before,
        "rate": round(report["rate"]),
        "late_ms_max": report["late_ms_max"],
    }


def summed_up(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians of the turns, every cost, and all that was lost."""
    costs = [each["cpu_us_per_record"] for each in turns]
    return {
        "cpu_us_per_record": round(statistics.median(costs), 3),
        "cpu_us_per_record_all": costs,
        "sent": sum(each["sent"] for each in turns),
        "lost": sum(each["lost"] for each in turns),
        "kernel_dropped": sum(each["kernel_dropped"] for each in turns),
        "rate": round(statistics.median(each["rate"] for each in turns)),
        "late_ms_max": [each["late_ms_max"] for each in turns],
    }


def main() -> None:
    """Measure in turns and print JSON, or say why not."""
    if why := missing():
        print(json.dumps({"benchmark": "rsyslog", "skipped": why}))
        sys.exit(os.environ.get("PENSTOCK_TEST_FORBID_SKIPS", "0") not in ("", "0"))
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    cases = sys.argv[2:] or CASES
    found: dict[str, list[dict[str, Any]]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as scratch, Broker(Path(scratch) / "broker") as broker:
        consumer = Consumer({"bootstrap.servers": broker.servers, "group.id": "bench"})
        for number in range(REPEATS):
            for case in cases:
                folder = Path(scratch) / f"{case}.{number}"
                found[case].append(turn(case, folder, broker.servers, consumer, seconds))
                print(f"{case}: {found[case][-1]}", file=sys.stderr, flush=True)
        consumer.close()
    result: dict[str, Any] = {
        "machine": MACHINE,
        "rsyslog": version(), "rate_asked": RATE_HZ, "seconds": seconds, "repeats": REPEATS,
        "devices": DEVICES, "partitions": PARTITIONS, "producer": PRODUCER,
        "cases": {case: summed_up(turns) for case, turns in found.items()},
    }  # fmt: skip
    if "rsyslog" in cases:
        theirs = result["cases"]["rsyslog"]["cpu_us_per_record"]
        result["ratio_to_rsyslog"] = {
            case: round(result["cases"][case]["cpu_us_per_record"] / theirs, 2)
            for case in SETTINGS
            if case in cases
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
