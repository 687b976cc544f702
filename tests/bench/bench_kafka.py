"""What delivery to Kafka costs: a bare producer, the sink, and the whole flow, into a real broker.

    python -m tests.bench.bench_kafka

Everything is measured in one run against one broker on the same machine (the one that
`PENSTOCK_TEST_KAFKA` names, or one started for it), each case in a process of its own, in turns, so
that a noisy moment meets all of them. Figures are medians. CPU is that of the measured process with
all its threads; the broker's is not in it.
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

from confluent_kafka.admin import AdminClient

from connectors.kafka_topics import ensure
from core.sections import KafkaSettings
from core.topics import FINDINGS, TELEMETRY, TELEMETRY_DLQ
from tests.bench import traffic
from tests.bench.figures import MACHINE, SMOKE
from tests.kafka.broker import Broker

RECORDS = 200_000 if SMOKE else 2_000_000
"""So many that starting (about half a second of CPU) does not count for much."""
REPEATS = 1 if SMOKE else 5
ALONE = ("bare", "lean", "sink", "sink_arrow")
FLOWS = {"null": ("null", "json"), "json": ("kafka", "json"), "arrow": ("kafka", "arrow")}


def last_line(command: list[str]) -> dict[str, Any]:
    """Run Python and return the object it printed."""
    done = subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True,
                          text=True)  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def names(turn: str) -> dict[str, str]:
    """Return topics of their own, so that no case writes behind another's records."""
    return {topic: f"{turn}.{topic}" for topic in (TELEMETRY, TELEMETRY_DLQ, FINDINGS)}


def flow(servers: str, capture: Path, case: str, turn: str) -> dict[str, Any]:
    """Replay a capture of device frames into a sink; return what it cost."""
    sink, record_format = FLOWS[case]
    options = {"topics": names(turn), "format": record_format, "queue_len_max": 1_000_000}
    where = f"kafka://{servers}" if sink == "kafka" else sink
    return last_line(["tests.bench.measure", str(capture), "device", "1000000", where,
                      json.dumps(options)])  # fmt: skip


def summed_up(costs: list[dict[str, Any]], records: int) -> dict[str, Any]:
    """Return the medians of one case of the whole flow."""
    middle = sorted(costs, key=lambda cost: float(cost["cpu_s"]))[len(costs) // 2]
    stages = {name: round(s / records * 1e6, 3) for name, s in middle["stage_s"].items()}
    cpu_us = statistics.median(cost["cpu_s"] for cost in costs) / records * 1e6
    speed = statistics.median(records / cost["summary"]["seconds"] for cost in costs)
    return {
        "records_per_s": round(speed),
        "records_per_cpu_s": round(1e6 / cpu_us),
        "cpu_us_per_record": round(cpu_us, 3),
        "us_per_record_by_stage": stages,
    }


def main() -> None:
    """Start a broker, measure in turns, print JSON."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = os.environ.get("PENSTOCK_TEST_KAFKA", "")
        if not servers:
            servers = stack.enter_context(Broker(folder / "broker")).servers
        capture = folder / "device.pcap"
        packets = traffic.device_frames(RECORDS, capture)
        alone: dict[str, list[dict[str, Any]]] = {what: [] for what in ALONE}
        whole: dict[str, list[dict[str, Any]]] = {case: [] for case in FLOWS}
        made: list[str] = []
        # The first turn warms the broker and is left out.
        for turn in range(0 if SMOKE else -1, REPEATS):
            for what in (*ALONE, *FLOWS):
                topics = names(f"bench.{turn + 1}.{what}")
                settings = KafkaSettings(topics=topics)
                ensure(settings, servers, list(topics), lambda _: None)
                made += topics.values()
                if what in ALONE:
                    cost = last_line(["tests.bench.produce", servers, topics[TELEMETRY],
                                      str(RECORDS), what])  # fmt: skip
                else:
                    cost = flow(servers, capture, what, f"bench.{turn + 1}.{what}")
                if turn >= 0:
                    (alone | whole)[what].append(cost)
        AdminClient({"bootstrap.servers": servers}).delete_topics(made)
    result: dict[str, Any] = {
        "machine": MACHINE,
        "records": packets,
        "repeats": REPEATS,
    }
    for what, costs in alone.items():
        result[what] = {
            field: round(statistics.median(cost[field] for cost in costs), 3)
            for field in ("records_per_s", "cpu_us_per_record")
        }
    result |= {f"flow_{case}": summed_up(costs, packets) for case, costs in whole.items()}
    _, json_flow, arrow = (result[f"flow_{case}"] for case in FLOWS)
    result["ratios"] = {
        "sink_to_bare": round(result["sink"]["records_per_s"] / result["bare"]["records_per_s"], 2),
        "flow_to_bare": round(json_flow["records_per_s"] / result["bare"]["records_per_s"], 2),
        "arrow_to_json_rows_per_cpu_s_of_sink": round(
            result["sink"]["cpu_us_per_record"] / result["sink_arrow"]["cpu_us_per_record"], 1
        ),
        "arrow_to_json_rows_per_cpu_s": round(
            arrow["records_per_cpu_s"] / json_flow["records_per_cpu_s"], 1
        ),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
