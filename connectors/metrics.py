"""Prometheus metrics: the ledger of the run, read when somebody scrapes.

Laws:

1. Nothing is counted twice: counters are the ledger's totals, taken at the scrape.
2. Base units and no labels that grow with traffic: a reason or a topic, never a device.

They appear on Bytewax's own `/metrics`, which serves the same registry, and on a port of ours.

Source: Prometheus, "Writing client libraries" and "Metric and label naming".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import nan
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from core.errors import RunError

if TYPE_CHECKING:
    from connectors.ledger import Ledger

_COUNTERS = {  # ledger name → metric, help
    "packets_in": ("penstock_packets_received", "Packets read from the source."),
    "bytes_in": ("penstock_received_bytes", "Bytes on the wire of the packets read."),
    "kernel_dropped": (
        "penstock_packets_kernel_dropped",
        "Packets that reached our sockets and that the kernel dropped; at most a second late.",
    ),
    "ring_dropped": (
        "penstock_packets_ring_dropped",
        "Packets received and dropped for want of room, when a live run ended.",
    ),
    "filtered": ("penstock_packets_filtered", "Packets the capture filter rejected."),
    "behind": (
        "penstock_packets_behind",
        "Packets stamped more than a day before the time of the replay.",
    ),
    "late": ("penstock_frames_late", "Frames stamped too long ago to be scored."),
    "frames": ("penstock_frames", "Packets accepted as frames."),
    "passed": ("penstock_frames_passed", "Frames the dam let through, at once or later."),
    "passed_bytes": ("penstock_passed_bytes", "Bytes of the frames that passed."),
    "queued": ("penstock_frames_queued", "Frames that had to wait."),
    "burst_seconds": (
        "penstock_burst_seconds",
        "Seconds of packet time whose burst probability was held against what came.",
    ),
    "bursts": (
        "penstock_bursts",
        "Seconds among these in which more arrived than the dam's rate.",
    ),
    "rows_scored": ("penstock_rows_scored", "Feature rows scored by the model."),
    "rows_warming": ("penstock_rows_warming", "Feature rows seen while the model was warming."),
    "findings": ("penstock_findings", "Findings opened."),
    "finding_records": ("penstock_finding_records", "Messages about findings."),
    "findings_muted": ("penstock_findings_muted", "Findings suppressed by the user's file."),
    "findings_suppressed": ("penstock_findings_suppressed", "Findings over a limit."),
    "snapshot_holds": ("penstock_snapshot_holds", "Times the source waited for a snapshot."),
    "snapshots_over_bound": (
        "penstock_snapshots_over_bound",
        "Snapshots of a worker larger than an epoch is meant to have.",
    ),
}
_MILLIONTHS = {  # ledger name, of millionths → metric, help
    "burst_error_ppm": (
        "penstock_burst_squared_error",
        "Squared errors of the burst probability, summed; a second of them is a Brier score.",
    ),
}
_SECONDS = {  # ledger name, of nanoseconds → metric, help
    "snapshot_held_ns": (
        "penstock_snapshot_held_seconds",
        "Time the source waited because no more changes fit into the next snapshot.",
    ),
}
_LABELLED = {  # prefix of ledger names → metric, label, help
    "ignored": ("penstock_packets_ignored", "reason", "Healthy packets that are no frames."),
    "malformed": ("penstock_packets_malformed", "reason", "Packets that do not decode."),
    "dropped": ("penstock_frames_dropped", "reason", "Frames the dam dropped."),
    "accepted": ("penstock_records_accepted", "topic", "Records given to the Kafka sink."),
    "delivered": (
        "penstock_records_delivered",
        "topic",
        "Records that arrived; at the brokers, up to a second late.",
    ),
    "dead_lettered": (
        "penstock_records_dead_lettered",
        "topic",
        "Records the brokers refused, in a dead-letter topic instead.",
    ),
    "lost": ("penstock_records_lost", "topic", "Records that could not be delivered."),
    "unscored": ("penstock_rows_unscored", "reason", "Feature rows the model failed on."),
}
_GAUGES = {
    "queue_depth": ("penstock_queue_depth", "Frames waiting in the dam."),
    "queue_bytes": ("penstock_queue_bytes", "Bytes waiting in the dam."),
    "tokens": ("penstock_tokens_available", "Tokens in the bucket."),
    "rate_hz": ("penstock_rate_limit", "Frames per second the dam passes."),
    "findings_open": ("penstock_findings_open", "Findings open now."),
    "keys": ("penstock_keys", "Devices or hosts remembered."),
    "flows": ("penstock_flows", "Network flows followed."),
    "ring_packets": ("penstock_ring_packets", "Live packets received that wait to be taken."),
    "ring_batches": ("penstock_ring_batches", "Batches of live packets in use."),
    "ring_batches_all": (
        "penstock_ring_batches_all",
        "Batches there are; with all in use, the kernel's buffers fill.",
    ),
    "kernel_bytes": ("penstock_kernel_bytes", "Bytes that wait in the kernel's receive buffers."),
    "producer_queue": ("penstock_producer_queue", "Messages that wait for the brokers."),
    "producer_queue_max": (
        "penstock_producer_queue_max",
        "Messages that may wait before the source pauses.",
    ),
    "backlog": ("penstock_sink_backlog", "Records beyond that, which wait for room."),
}
_BURST = (
    "penstock_burst_probability",
    "Probability that this second brings more than the dam's rate; NaN while warming.",
)

_BUCKETS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)
STAGE_SECONDS = Histogram(
    "penstock_stage_seconds", "Time a stage took for one batch.", ["stage"], buckets=_BUCKETS
)
FLUSH_SECONDS = Histogram(
    "penstock_flush_seconds", "Wait for the brokers at the end of an epoch.", buckets=_BUCKETS
)
_SIZES = tuple(float(1 << power) for power in range(10, 26, 2))
SNAPSHOT_BYTES = Histogram(
    "penstock_snapshot_bytes", "Bytes a worker saved at the end of an epoch.", buckets=_SIZES
)
SNAPSHOT_SECONDS = Histogram(
    "penstock_snapshot_seconds",
    "Time a worker stood still to save its state at the end of an epoch.",
    buckets=_BUCKETS,
)
HISTOGRAMS = STAGE_SECONDS, FLUSH_SECONDS, SNAPSHOT_BYTES, SNAPSHOT_SECONDS


class LedgerCollector(Collector):
    """Turns the ledger's totals into metrics at each scrape."""

    def __init__(self, ledger: Ledger, registry: CollectorRegistry) -> None:
        """Read this ledger, and be registered there."""
        self._ledger, self._registry = ledger, registry
        registry.register(self)

    def withdraw(self) -> None:
        """Take the metrics of a run that has ended out of the registry."""
        self._registry.unregister(self)

    def collect(self) -> Iterator[Metric]:
        """Yield one family for each metric; see `prometheus_client.registry.Collector`."""
        total = self._ledger.total()
        for name, (metric, text) in _COUNTERS.items():
            counter = CounterMetricFamily(metric, text)
            counter.add_metric([], total[name])
            yield counter
        for names, unit in ((_SECONDS, 1e-9), (_MILLIONTHS, 1e-6)):
            for name, (metric, text) in names.items():
                counter = CounterMetricFamily(metric, text)
                counter.add_metric([], total[name] * unit)
                yield counter
        burst = GaugeMetricFamily(*_BURST)
        burst.add_metric([], total["burst_ppm_max"] * 1e-6 if "burst_ppm_max" in total else nan)
        yield burst
        for name, (metric, text) in _GAUGES.items():
            gauge = GaugeMetricFamily(metric, text)
            gauge.add_metric([], total[name])
            yield gauge
        for prefix, (metric, label, text) in _LABELLED.items():
            family = CounterMetricFamily(metric, text, labels=[label])
            for name, value in total.items():
                if name.startswith(prefix + "."):
                    family.add_metric([name.removeprefix(prefix + ".")], value)
            yield family


def publish(ledger: Ledger, registry: CollectorRegistry = REGISTRY) -> LedgerCollector:
    """Register a ledger for scraping; `withdraw` what is returned when the run ends."""
    return LedgerCollector(ledger, registry)


def serve(host: str, port: int) -> Callable[[], None]:
    """Serve `/metrics` in a daemon thread.

    Args:
        host: Address to listen on.
        port: TCP port; 0 serves nothing.

    Returns:
        A function that ends the service and frees the port.

    Raises:
        RunError: The port is taken or may not be used.
    """
    if port == 0:
        return lambda: None
    try:
        server, thread = start_http_server(port, host)
    except (OSError, UnicodeError) as error:  # the latter: no host can have such a name
        why = getattr(error, "strerror", None) or "not a name of a host"
        raise RunError(
            f"metrics.port {port} on {host}: {why}; choose another port, or 0 for none"
        ) from error

    def gone(request: object, client_address: object) -> None:
        """Say nothing of a client that went away: whoever can connect could fill the log."""

    server.handle_error = gone  # type: ignore[method-assign]  # the class is prometheus_client's

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
