"""One run: its settings, what it counts, where it reads and where it writes.

The graph (`flows.ingest`) asks a `Run` for its source and sink, and hands it to each step.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from secrets import randbits  # noqa: TID251  seeds hash tables; no result depends on it
from typing import TYPE_CHECKING, Any

import msgspec

from connectors.bpf import compile_filter
from connectors.capture import PAGE, CaptureSource
from connectors.claim import recovery_id
from connectors.discard import DiscardSink
from connectors.epoch_budget import EpochBudget
from connectors.files import FilesSink
from connectors.ledger import Ledger
from connectors.metrics import FLUSH_SECONDS
from connectors.pressure import Pressure
from connectors.scores import ScoresFile
from connectors.suppressions import read as read_suppressions
from connectors.waiting import Waiting
from core.errors import UsageError
from core.kafka_address import is_kafka, parse
from core.kernels import load_kernels
from core.link import LINK_ETHERNET
from core.payloads import Payloads
from core.topics import FINDINGS, FLOWS, FLOWS_DLQ, TELEMETRY, TELEMETRY_DLQ
from flows.summary import Summary, summarise
from models.judge import Judge

if TYPE_CHECKING:
    from connectors.evidence import Evidence
    from connectors.kafka import KafkaSink
    from connectors.kafka_source import TopicSource
    from connectors.live import LiveSource
    from connectors.read_back import OnRecord
    from connectors.recording import Recording
    from core.controls import Retune
    from core.sections import Settings
    from core.suppression import Suppressions


@dataclass(slots=True)
class Run:
    """What the steps of one run share.

    Attributes:
        settings: All settings.
        notify: Called with one line for the user.
        ledger: What was counted.
        stopping: Set to end the sources.
        scores: Where scores of packets go, if anywhere.
        evidence: Where packets of findings go, if anywhere.
        recording: Where a live source writes what it saw, if anywhere.
        pressure: How the sink makes the source pause.
        waiting: How the steps make a live source say what time it is.
        seed: Secret of hash tables; results do not depend on it.
        judge: What makes the model of a shard; as `models.judge.Judge`.
        budget: What the steps may write in one epoch.
        suppressions: Which findings are not told, from the next window on.
        commands: What the dam of each shard is to be told; the last one counts.
        on_look: Told the name of a part of a live source whenever it looks for packets.
        on_record: Shown each message that is read back from the embedded broker.
        reads_records: Whether it reads what records say of packets, rather than packets.
    """

    settings: Settings
    notify: Callable[[str], None]
    ledger: Ledger = field(default_factory=Ledger)
    stopping: threading.Event = field(default_factory=threading.Event)
    scores: ScoresFile | None = None
    evidence: Evidence | None = None
    recording: Recording | None = None
    pressure: Pressure = field(default_factory=Pressure)
    waiting: Waiting = field(default_factory=Waiting)
    seed: int = field(default_factory=lambda: randbits(64))
    judge: type[Judge] = Judge
    commands: deque[Retune] = field(default_factory=lambda: deque(maxlen=1))
    on_look: Callable[[str], None] = lambda _: None
    on_record: OnRecord | None = None
    budget: EpochBudget = field(init=False)
    suppressions: Suppressions = field(init=False)
    _delivery: KafkaSink | None = field(init=False, default=None)
    reads_records: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        settings = self.settings
        if not settings.run.paths and not self.is_live:
            raise UsageError(
                "nothing to replay: name a capture file, a folder, or - for standard input "
                "(under bytewax.run, in PENSTOCK_RUN_PATHS; or what to receive on, in "
                "PENSTOCK_UDP_ADDRESSES or PENSTOCK_PACKET_INTERFACES)"
            )
        if self.is_live:
            self._check_live()
        # What only a library can judge is refused here, before anything is opened or started.
        if settings.capture.filter:
            compile_filter(settings.capture.filter, LINK_ETHERNET)
        self.suppressions = read_suppressions(settings.findings.suppress)
        self.judge(settings.anomaly, is_device=settings.capture.by == "device")
        if settings.capture.format != "frame" and settings.capture.by == "host":
            raise UsageError(
                f"capture.format: datagrams are {settings.capture.format} by device only; "
                "leave it out by host"
            )
        if settings.run.evidence and any(map(is_kafka, settings.run.paths)):
            raise UsageError("run.evidence: records of a topic are no packets; leave it out")
        if is_kafka(settings.run.sink):
            parse(settings.run.sink, topic=False)
        if any(map(is_kafka, (settings.run.sink, *settings.run.paths))):
            from connectors.kafka_client import check  # here and below: most runs need no Kafka

            check(settings.kafka)
        self.budget = EpochBudget(self.ledger, settings.capture.batch_len, self.notify)
        if self.resumes:
            self.pressure.also(self.budget.holds)

    def _check_live(self) -> None:
        """Refuse what makes no sense of packets that come by themselves."""
        capture, udp, packet = self.settings.capture, self.settings.udp, self.settings.packet
        if udp.addresses and packet.interfaces:
            raise UsageError(
                "udp.addresses and packet.interfaces: a run receives from sockets or captures on "
                "interfaces; start one for each"
            )
        if udp.addresses and capture.by != "device":
            raise UsageError("udp: datagrams are analysed by device; leave out --by host")
        if udp.addresses and capture.filter:
            raise UsageError("udp: capture.filter applies to packets of captures; leave it out")
        if packet.interfaces and packet.parts > 1 and not packet.group:
            raise UsageError(
                "packet.parts: parts share an interface by a number; set packet.group to one that "
                "no other program uses there"
            )
        if self.settings.run.record and max(udp.parts, packet.parts) > 1:
            raise UsageError(
                "run.record: of several parts nobody knows the order; set udp.parts or "
                "packet.parts to 1, or record with tcpdump"
            )

    @property
    def recovers(self) -> bool:
        """Whether state is saved, so that a killed run can be resumed."""
        return bool(self.settings.run.recovery)

    @property
    def resumes(self) -> bool:
        """Whether what a killed run had read is read again when it is resumed.

        Live packets are not: to wait for the brokers at a snapshot, or for the next snapshot before
        more is read, would then lose packets and save none.
        """
        return self.recovers and not self.is_live

    @property
    def is_live(self) -> bool:
        """Whether packets come by themselves, and only a signal ends them."""
        settings = self.settings
        return bool(settings.udp.addresses or settings.packet.interfaces) and not settings.run.paths

    @property
    def port(self) -> int:
        """UDP port of device frames, 0 for all: what comes to sockets of ours is meant for us."""
        is_ours = self.is_live and self.settings.udp.addresses
        return 0 if is_ours else self.settings.capture.port

    @property
    def interrupted(self) -> bool:
        """Whether a signal, or a sink that lost records, ended the source before its input did."""
        return self.stopping.is_set() and not self.ledger.page(PAGE).get("ended")

    @property
    def digest(self) -> str:
        """Identify the settings that shape results, so that a resume under others is refused."""
        s = self.settings
        # The rate of a live run may be another one after each reload.
        dam = msgspec.structs.replace(s.dam, rate_hz=1, burst=1) if self.is_live else s.dam
        # What is suppressed can change at any time; that it did is not known afterwards.
        f = s.findings
        findings = [f.quiet_s, f.update_s, f.open_max]
        shaping: list[Any] = [s.frame, dam, s.features, s.anomaly, findings, s.flows, s.detect]
        shaping += [s.run.shards]
        shaping += [s.capture.by, self.port, s.capture.filter, s.capture.packet_bytes_max]
        shaping += [self.is_live, s.udp.bytes_max, bool(s.packet.interfaces), s.packet.snaplen]
        shaping += [s.capture.format, s.capture.json_key]
        # Half of the records in one place and half in another would be no whole anywhere.
        folder = s.run.sink_folder
        shaping += [s.files.format, os.path.realpath(folder) if folder is not None else None]
        shaping += [s.run.sink.partition(":")[0], s.kafka.format, s.kafka.headers, s.kafka.topics]
        return blake2b(msgspec.json.encode(shaping), digest_size=16).hexdigest()

    @property
    def payloads(self) -> Payloads | None:
        """How datagrams are read; `None` when they are device frames, or none are."""
        capture = self.settings.capture
        if capture.format == "frame":
            return None
        if self.reads_records:
            return Payloads.read_back()
        return Payloads.of(capture.format, capture.json_key)

    def source(self) -> CaptureSource | TopicSource | LiveSource:
        """Return the source that the settings name."""
        run = self.settings.run
        if self.is_live:
            return self._live()
        if any(map(is_kafka, run.paths)):
            from connectors.kafka_source import TopicSource

            topic = TopicSource(
                settings=self.settings,
                ledger=self.ledger,
                digest=self.digest,
                stopping=self.stopping,
                notify=self.notify,
                pressure=self.pressure,
            )
            topic.check()
            self.reads_records = not topic.kind.is_of_packets
            return topic
        return CaptureSource(
            paths=run.paths,
            settings=self.settings.capture,
            ledger=self.ledger,
            digest=self.digest,
            stopping=self.stopping,
            notify=self.notify,
            recovers=self.recovers,
            pressure=self.pressure,
        )

    def _live(self) -> LiveSource:
        """Return the live source."""
        udp, packet, capture = self.settings.udp, self.settings.packet, self.settings.capture
        shared: dict[str, Any] = {
            "batch_len": capture.batch_len,
            "ledger": self.ledger,
            "digest": self.digest,
            "stopping": self.stopping,
            "notify": self.notify,
            "give_up": self.give_up,
            "pressure": self.pressure,
            "waiting": self.waiting,
            "recording": self.recording,
            "on_look": self.on_look,
        }
        # A replay needs no kernels of sockets.
        source: LiveSource
        if packet.interfaces:
            from connectors.packet import PacketSource

            source = PacketSource(
                settings=packet, filter=capture.filter, parts=packet.parts, **shared
            )
        else:
            from connectors.udp import UdpSource

            source = UdpSource(settings=udp, parts=udp.parts, **shared)
        source.check()
        return source

    @property
    def topics(self) -> tuple[str, ...]:
        """Topics that records are written to, by their names here."""
        if self.settings.capture.by == "device":
            return TELEMETRY, TELEMETRY_DLQ, FINDINGS
        return FLOWS, FLOWS_DLQ, FINDINGS

    def sink(self) -> DiscardSink | FilesSink | KafkaSink:
        """Return the sink that the settings name, after seeing that it can be written to."""
        run, files = self.settings.run, self.settings.files
        if is_kafka(run.sink) or run.sink == "embedded":
            self._delivery = self._kafka_sink()
            self._delivery.check()
            return self._delivery
        if run.sink_folder is None:
            return DiscardSink(parts=run.shards, on_delivered=self._delivered)
        sink = FilesSink(
            folder=Path(run.sink_folder),
            parts=run.shards,
            format=files.format,
            rotate_rows=files.rotate_rows,
            durable=self.recovers,
            on_delivered=self._delivered,
            recovery_id=recovery_id(Path(run.recovery)) if self.recovers else "",
        )
        sink.check()
        return sink

    def _kafka_sink(self) -> KafkaSink:
        """Return the sink of brokers, elsewhere or in this process."""
        run = self.settings.run
        shared: dict[str, Any] = {
            "settings": self.settings.kafka,
            "parts": run.shards,
            "pressure": self.pressure,
            "stopping": self.stopping,
            "notify": self.notify,
            "on_lost": self.give_up,
            "on_counts": self.ledger.write,
            "topics": self.topics,
        }
        if run.sink == "embedded":
            from connectors.embedded import EmbeddedSink

            return EmbeddedSink(on_record=self.on_record, **shared)
        from connectors.kafka import KafkaSink

        servers, flushed = parse(run.sink, topic=False).servers, FLUSH_SECONDS.observe
        return KafkaSink(servers=servers, recovers=self.resumes, on_flush=flushed, **shared)

    def warm_up(self) -> None:
        """Load all kernels now if packets come at times of their own: they wait for no compiler.

        Others are loaded when they are called first, so that a run waits for those it needs.
        """
        if self.is_live or self.settings.capture.speed:
            load_kernels()

    def summary(self, seconds: float) -> Summary:
        """Add up what the run did.

        Args:
            seconds: How long it took.
        """
        run, by = self.settings.run, self.settings.capture.by
        return summarise(
            self.ledger, by, seconds, interrupted=self.interrupted and not self.is_live,
            volatile=run.sink == "embedded", live=self.is_live,
        )  # fmt: skip

    def verify(self) -> None:
        """Read back what the embedded broker still holds unread, when the engine is done.

        Raises:
            SinkError: It is not what was delivered.
        """
        if self._delivery is not None:
            self._delivery.verify()

    def close(self) -> None:
        """End what the engine may have left open; never raises."""
        self.budget.close()
        if self._delivery is not None:
            self._delivery.close()

    def give_up(self, line: str) -> None:
        """Say why the run cannot go on, and end its source."""
        self.notify(line)
        self.stopping.set()

    def _delivered(self, part: str, totals: dict[str, int]) -> None:
        page = {f"delivered.{topic}": count for topic, count in totals.items()}
        self.ledger.write(f"sink/{part}", page)
