"""Metrics: what a scrape says, its names and labels, and the port it is served on."""

from __future__ import annotations

import re
import socket
import struct
import threading
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from connectors.ledger import Ledger
from connectors.metrics import HISTOGRAMS, STAGE_SECONDS, publish, serve
from core.errors import RunError


def scraped(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    """Return the samples of a scrape by name and label values."""
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {(s.name, *s.labels.values()): s.value for f in families for s in f.samples}


@pytest.fixture
def ledger() -> Ledger:
    """Return the ledger of a run on two shards."""
    book = Ledger()
    book.write("source", {"packets_in": 120, "bytes_in": 9000, "filtered": 3})
    for shard in (0, 1):
        page = {"frames": 50, "passed": 40, "queued": 5, "queue_depth": 2, "queue_bytes": 64}
        page |= {"tokens": 7, "rate_hz": 500, "ignored.not_udp": 9, "malformed.bad_magic": 1}
        book.write(f"dam/{shard}", page | {"dropped.queue_full": 8, "dropped.device_rate": 0})
    book.write("score/0", {"rows_scored": 11, "rows_warming": 4, "unscored.ValueError": 2})
    book.write("snapshots", {"snapshot_held_ns": 1_500_000_000})
    book.write("sink/0", {"delivered.telemetry.readings.v1": 80})
    return book


def test_a_scrape_says_what_the_ledger_holds(ledger: Ledger) -> None:
    """Counters and gauges are the ledger's totals at the time of the scrape."""
    registry = CollectorRegistry()
    publish(ledger, registry)
    first = scraped(registry)
    assert first["penstock_packets_received_total",] == 120
    assert first["penstock_received_bytes_total",] == 9000
    assert first["penstock_frames_passed_total",] == 80
    assert first["penstock_queue_bytes",] == 128
    assert first["penstock_rate_limit",] == 1000
    assert first["penstock_snapshot_held_seconds_total",] == 1.5
    assert first["penstock_packets_ignored_total", "not_udp"] == 18
    assert first["penstock_packets_malformed_total", "bad_magic"] == 2
    assert first["penstock_frames_dropped_total", "queue_full"] == 16
    assert first["penstock_frames_dropped_total", "device_rate"] == 0
    assert first["penstock_rows_unscored_total", "ValueError"] == 2
    assert first["penstock_records_delivered_total", "telemetry.readings.v1"] == 80
    ledger.write("source", {"packets_in": 121})
    assert scraped(registry)["penstock_packets_received_total",] == 121


def test_names_are_metrics_and_labels_are_few(ledger: Ledger) -> None:
    """Names carry their unit in base units; no label names a device, a key or an address."""
    registry = CollectorRegistry()
    publish(ledger, registry)
    for histogram in HISTOGRAMS:
        registry.register(histogram)
    STAGE_SECONDS.labels("decode").observe(0.002)
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    labels = {name for f in families for s in f.samples for name in s.labels}
    assert labels <= {"reason", "topic", "stage", "le"}
    for family in families:
        assert re.fullmatch(r"penstock_[a-z]+(_[a-z]+)*", family.name)
        assert not re.search(r"_(ns|us|ms|kb|mb|percent|hz)\b", family.name)
        assert family.documentation.endswith(".")
        if family.type == "counter":
            assert all(s.name.endswith(("_total", "_created")) for s in family.samples)
    assert {f.type for f in families} == {"counter", "gauge", "histogram"}


def test_runs_follow_one_another_in_one_process(ledger: Ledger) -> None:
    """A run that withdraws its metrics leaves room for the next."""
    registry = CollectorRegistry(auto_describe=True)
    first = publish(ledger, registry)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        publish(Ledger(), registry)
    first.withdraw()
    assert scraped(registry) == {}
    publish(Ledger(), registry)
    assert scraped(registry)["penstock_packets_received_total",] == 0


def test_a_port_is_served_and_freed(ledger: Ledger) -> None:
    """The port answers with all metrics of the run, refuses a second server, and is given back."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    collector = publish(ledger)
    stop = serve("127.0.0.1", port)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            body = answer.read().decode()
        assert "penstock_packets_received_total 120.0" in body
        with pytest.raises(RunError, match=rf"metrics\.port {port} on 127\.0\.0\.1: .*in use"):
            serve("127.0.0.1", port)
    finally:
        stop()
        collector.withdraw()
    serve("127.0.0.1", port)()


def test_a_client_that_goes_away_is_not_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    """A connection reset in the middle of a request writes nothing: anybody can make many."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    before = set(threading.enumerate())
    stop = serve("127.0.0.1", port)
    with socket.create_connection(("127.0.0.1", port)) as client:
        # No time to linger: what is closed is reset.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(b"GET")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        assert answer.status == 200
    stop()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("host", ["256.256.256.256", "a..b", "192.0.2.1"])
def test_an_address_that_is_not_ours_is_one_line(host: str) -> None:
    """A host that cannot be listened on is named with the cure."""
    with pytest.raises(RunError, match="choose another port, or 0 for none") as error:
        serve(host, 9)
    assert "\n" not in str(error.value)
    serve(host, 0)()
