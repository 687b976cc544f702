"""The settings themselves, section by section: meaning, unit, bounds and default of each.

Law: a setting is one annotated field below. Its text, unit and bounds are data of the annotation,
so that refusals, `config show` and the documentation cannot say different things.

Not here: layers, decoding, refusals and rendering (`core.config`).
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from core.finding_sections import DetectSettings, FindingSettings
from core.section import NO_NUL as _NO_NUL
from core.section import choice as _choice
from core.section import num as _num
from core.section import text as _text

_WORD = r"^[!-~]+\Z"
_PATH = r"^[^.\x00]+(\.[^.\x00]+)*\Z"
_SINK = r"^(null|embedded|files:[^\x00]+|kafka://[!-~]+)\Z"


# Both kinds of live source have a ring of arenas.
_Arenas = Annotated[int, _num("Batches there may be at once.", 2, 1024, "batches")]
_ArenaBytes = Annotated[int, _num("Most bytes of one batch.", 64 << 10, 256 << 20, "bytes")]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A section: frozen, by keyword, nothing unknown."""


class CaptureSettings(_Section, frozen=True, kw_only=True):
    """Which packets are read, how fast, and in what portions."""

    by: Annotated[
        Literal["device", "host"],
        _choice("Who is analysed: devices that send frames, or every host."),
    ] = "device"
    port: Annotated[int, _num("UDP port of device frames; 0 = all.", 0, 65_535)] = 9999
    format: Annotated[
        Literal["frame", "json", "syslog", "raw"],
        _choice("What datagrams to that port are, by device: device frames, or something else."),
    ] = "frame"
    json_key: Annotated[
        str,
        _text("Member of JSON datagrams that is their key.", "names with points between", _PATH),
    ] = "id"
    filter: Annotated[str, _text("Packets to keep; empty keeps all.", "a BPF expression")] = ""
    speed: Annotated[
        float, _num("Pace of a replay as a multiple of capture time; 0 = max.", 0.0, 1e6, "x")
    ] = 0.0
    batch_len: Annotated[int, _num("Most packets in one batch.", 1, 65_536, "packets")] = 8192
    read_ahead_batches: Annotated[int, _num("Batches decoded ahead of use.", 1, 64, "batches")] = 8
    chunk_bytes: Annotated[
        int, _num("Bytes read from a capture at a time.", 64 << 10, 64 << 20, "bytes")
    ] = 4 << 20
    packet_bytes_max: Annotated[
        int, _num("Largest captured packet accepted.", 64, 16 << 20, "bytes")
    ] = 256 << 10


class UdpSettings(_Section, frozen=True, kw_only=True):
    """Live datagrams: where they are received, and how much room there is for them."""

    addresses: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=300, pattern=_WORD)], ...],
        Meta(
            description="Addresses to receive on; those that a run is not given paths for.",
            max_length=64,
            extra={"bounds": "HOST:PORT or [ADDRESS]:PORT, at most 64"},
        ),
    ] = ()
    parts: Annotated[
        int, _num("Parts that share each port, on as many workers.", 1, 256, "parts")
    ] = 1
    buffer_bytes: Annotated[
        int, _num("Receive buffer of a socket to ask for; a short datagram takes 400 bytes.",
                  4 << 10, 1 << 30, "bytes")
    ] = 32 << 20  # fmt: skip
    arenas: _Arenas = 16
    arena_bytes: _ArenaBytes = 4 << 20
    bytes_max: Annotated[
        int, _num("Bytes kept of a datagram; a longer one is ignored as cut.", 64, 65_536, "bytes")
    ] = 65_536
    gro: Annotated[
        bool,
        _choice("Whether the kernel may join datagrams: faster, and drops of joined ones count "
                "as one."),
    ] = True  # fmt: skip


class PacketSettings(_Section, frozen=True, kw_only=True):
    """Live packets: the interfaces they are captured on, and how much room there is for them."""

    interfaces: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=15, pattern=_WORD)], ...],
        Meta(
            description="Interfaces to capture on; those that a run is not given paths for.",
            max_length=64,
            extra={"bounds": "names of interfaces, at most 64"},
        ),
    ] = ()
    snaplen: Annotated[int, _num("Bytes kept of a packet.", 64, 262_144, "bytes")] = 98_304
    promiscuous: Annotated[
        bool, _choice("Whether interfaces are to let in what is meant for others.")
    ] = True
    ring_bytes: Annotated[
        int, _num("Memory that the kernel captures into, for each interface and part.", 512 << 10,
                  1 << 30, "bytes")
    ] = 64 << 20  # fmt: skip
    block_ms: Annotated[
        int, _num("Longest wait of a packet for its block of that memory to fill.", 1, 5, "ms")
    ] = 2
    arenas: _Arenas = 16
    arena_bytes: _ArenaBytes = 4 << 20
    parts: Annotated[
        int, _num("Parts that share each interface, on as many workers.", 1, 256, "parts")
    ] = 1
    group: Annotated[
        int, _num("Number by which parts and processes share interfaces; 0 = alone.", 0, 65_535)
    ] = 0


class FrameSettings(_Section, frozen=True, kw_only=True):
    """What a device frame may be, or a datagram of another format."""

    body_bytes_max: Annotated[
        int,
        _num("Largest body of a frame; other datagrams may have 22 more.", 0, 65_485, "bytes"),
    ] = 65_485


class DamSettings(_Section, frozen=True, kw_only=True):
    """How many frames pass, wait or are dropped; all of it for one shard."""

    enabled: Annotated[
        bool | None, _choice("Whether to limit rates; not set = by device yes, by host no.")
    ] = None
    rate_hz: Annotated[int, _num("Frames passed on average.", 1, 1_000_000, "frames/s")] = 10_000
    burst: Annotated[int, _num("Most frames passed at once.", 1, 100_000_000, "frames")] = 50_000
    queue_len_max: Annotated[
        int, _num("Frames that wait for a token before others are dropped.", 0, 1_000_000, "frames")
    ] = 10_000
    queue_bytes_max: Annotated[
        int, _num("Bytes of bodies that wait for a token.", 0, 1 << 30, "bytes")
    ] = 16 << 20
    device_rate_hz: Annotated[
        int, _num("Frames passed for one device; 0 = no such limit.", 0, 1_000_000, "frames/s")
    ] = 0
    device_burst: Annotated[
        int, _num("Most frames passed at once for one device.", 1, 100_000_000, "frames")
    ] = 200
    devices_max: Annotated[int, _num("Devices with a bucket.", 16, 4_194_304, "devices")] = 65_536


class FeatureSettings(_Section, frozen=True, kw_only=True):
    """The windows over which each key is measured."""

    window_ns: Annotated[
        int, _num("Length of a window in packet time.", 10_000_000, 1_000_000_000, "ns")
    ] = 1_000_000_000
    keys_max: Annotated[int, _num("Devices or hosts remembered.", 16, 4_194_304, "keys")] = 65_536
    key_idle_s: Annotated[int, _num("Silence before a key is forgotten.", 1, 86_400, "s")] = 300


class AnomalySettings(_Section, frozen=True, kw_only=True):
    """What scores the windows, and when a score is a finding."""

    detector: Annotated[str, _text("Name of the detector.", "a name", _WORD)] = "gaussian"
    threshold: Annotated[float, _num("Tail probability that makes a finding.", 1e-9, 0.5)] = 1e-3
    warm_rows: Annotated[int, _num("Rows learnt before scoring.", 0, 1_000_000, "rows")] = 500
    seed: Annotated[int, _num("Seed of detectors that use chance.", 0, 4_294_967_295)] = 0
    findings_per_window_max: Annotated[
        int, _num("Most findings opened in one window.", 1, 100_000, "findings")
    ] = 100


class FlowSettings(_Section, frozen=True, kw_only=True):
    """Network flow records, written in host mode."""

    flows_max: Annotated[int, _num("Flows followed at once.", 16, 4_194_304, "flows")] = 65_536
    idle_s: Annotated[int, _num("Silence that ends a flow.", 1, 3_600, "s")] = 15
    active_s: Annotated[int, _num("Age at which a flow is reported in part.", 1, 86_400, "s")] = 60


class FilesSettings(_Section, frozen=True, kw_only=True):
    """The files sink."""

    format: Annotated[Literal["jsonl", "parquet"], _choice("Format of the files.")] = "jsonl"
    rotate_rows: Annotated[
        int, _num("Records after which a batch is the last of its file.", 1, 100_000_000, "rows")
    ] = 1_000_000


class KafkaSettings(_Section, frozen=True, kw_only=True):
    """The Kafka sink, and whatever else speaks to the brokers."""

    format: Annotated[
        Literal["json", "arrow"],
        _choice("One JSON value a record, or one Arrow stream for many records."),
    ] = "json"
    headers: Annotated[
        Literal["cloudevents", "seq", "none"],
        _choice("Headers of a record: those of CloudEvents too, only the sequence number, none."),
    ] = "cloudevents"
    linger_ms: Annotated[int, _num("Wait for more records of a batch.", 0, 10_000, "ms")] = 100
    batch_bytes: Annotated[
        int, _num("Largest batch of one partition.", 1_000, 100_000_000, "bytes")
    ] = 1_000_000
    message_bytes_max: Annotated[
        int, _num("Largest record; a larger one is a dead letter.", 1_000, 100_000_000, "bytes")
    ] = 1_000_000
    compression: Annotated[
        Literal["none", "gzip", "snappy", "lz4", "zstd"], _choice("Compression of batches.")
    ] = "lz4"
    queue_len_max: Annotated[
        int, _num("Records that wait for delivery before the source pauses.", 1_000, 10_000_000,
                  "records")
    ] = 100_000  # fmt: skip
    queue_bytes_max: Annotated[int, _num("Their bytes, likewise.", 1 << 20, 2 << 30, "bytes")] = (
        256 << 20
    )
    write_wait_s: Annotated[
        float, _num("Longest wait of one write for room in that queue.", 0.0, 10.0, "s")
    ] = 0.5
    delivery_s: Annotated[
        int, _num("Time after which an undelivered record has failed.", 1, 3_600, "s")
    ] = 120
    shutdown_s: Annotated[
        int, _num("Longest wait for deliveries when a run ends.", 0, 3_600, "s")
    ] = 30
    connect_s: Annotated[
        int, _num("Longest wait for the brokers when a run begins.", 1, 300, "s")
    ] = 10
    create_topics: Annotated[bool, _choice("Whether a run creates topics that are missing.")] = True
    partitions: Annotated[
        int, _num("Partitions of a topic when it is created; 0 = as the topic has it.", 0, 10_000)
    ] = 0
    replication: Annotated[
        int, _num("Replicas of a topic when it is created; -1 = as the brokers have it.", -1, 100)
    ] = -1
    topics: Annotated[
        dict[
            Annotated[str, Meta(max_length=249)],
            Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,249}\Z")],
        ],
        Meta(
            description="Other names for topics, by the names they have here.",
            max_length=100,
            extra={"bounds": "names of topics"},
        ),
    ] = {}
    options: Annotated[
        dict[
            Annotated[str, Meta(pattern=r"^[a-z0-9._]{1,100}\Z")],
            str
            | int
            | float
            | bool
            | dict[Literal["env", "file"], Annotated[str, Meta(min_length=1, max_length=4096)]],
        ],
        Meta(
            description="Properties of librdkafka by name, such as those of SASL and TLS; a value "
            'may be kept elsewhere: { env = "NAME" } or { file = "PATH" }.',
            max_length=200,
            extra={"bounds": "values that are text, numbers, true or false, or such a place"},
        ),
    ] = {}


class RunSettings(_Section, frozen=True, kw_only=True):
    """One run of the flow: what it reads, where records go, how it resumes."""

    shards: Annotated[int, _num("Parts of the state; results depend on it.", 1, 1024, "shards")] = 1
    epoch_s: Annotated[float, _num("Time between snapshots and commits.", 0.01, 3600.0, "s")] = 1.0
    sink: Annotated[
        str,
        _text("Where records go.", '"null", "embedded", "files:DIR" or "kafka://HOST:PORT"', _SINK),
    ] = "null"
    recovery: Annotated[str, _text("Folder of snapshots; empty = none.", "path or empty")] = ""
    paths: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=4096, pattern=_NO_NUL)], ...],
        Meta(
            description="What to replay: capture files, folders, - for standard input; or one "
            "topic, kafka://HOST:PORT/TOPIC.",
            max_length=65_536,
            extra={"bounds": "paths that are not empty, at most 65536"},
        ),
    ] = ()
    scores: Annotated[str, _text("File (.npy) of scores; empty = none.", "path or empty")] = ""
    record: Annotated[
        str, _text("Capture (.pcap) to write what a live run receives to; empty = none.",
                   "path or empty")
    ] = ""  # fmt: skip
    evidence: Annotated[
        str, _text("Folder for the packets of each finding; empty = none.", "path or empty")
    ] = ""
    strict: Annotated[bool, _choice("Whether an unreadable capture fails the run.")] = False

    @property
    def sink_folder(self) -> str | None:
        """The folder of the files sink; `None` for any other sink."""
        return self.sink.removeprefix("files:") if self.sink.startswith("files:") else None

    @property
    def sink_place(self) -> str | None:
        """Where records can be found after the run; `None` when they are not kept."""
        return None if self.sink in ("null", "embedded") else self.sink_folder or self.sink


class MetricsSettings(_Section, frozen=True, kw_only=True):
    """Penstock's own Prometheus endpoint."""

    port: Annotated[int, _num("TCP port of /metrics; 0 = none.", 0, 65_535)] = 0
    host: Annotated[str, _text("Address of /metrics.", "an address", _WORD)] = "127.0.0.1"


class Settings(_Section, frozen=True, kw_only=True):
    """All settings, section by section."""

    capture: CaptureSettings = CaptureSettings()
    udp: UdpSettings = UdpSettings()
    packet: PacketSettings = PacketSettings()
    frame: FrameSettings = FrameSettings()
    dam: DamSettings = DamSettings()
    features: FeatureSettings = FeatureSettings()
    anomaly: AnomalySettings = AnomalySettings()
    detect: DetectSettings = DetectSettings()
    findings: FindingSettings = FindingSettings()
    flows: FlowSettings = FlowSettings()
    files: FilesSettings = FilesSettings()
    kafka: KafkaSettings = KafkaSettings()
    run: RunSettings = RunSettings()
    metrics: MetricsSettings = MetricsSettings()

    @property
    def dam_is_on(self) -> bool:
        """Whether frames are rate-limited: as set, else by device yes and by host no."""
        return self.capture.by == "device" if self.dam.enabled is None else self.dam.enabled
