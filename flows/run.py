"""One run: its settings, what it counts, where it reads and where it writes.

The graph (`flows.ingest`) asks a `Run` for its source and sink, and hands it to each step.
"""

from __future__ import annotations

import os
import threading
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
from connectors.files import FilesSink
from connectors.ledger import Ledger
from connectors.scores import ScoresFile
from core.errors import UsageError
from core.link import LINK_ETHERNET
from models.judge import Judge

if TYPE_CHECKING:
    from core.config import Settings


@dataclass(slots=True)
class Run:
    """What the steps of one run share.

    Attributes:
        settings: All settings.
        notify: Called with one line for the user.
        ledger: What was counted.
        stopping: Set to end the sources.
        scores: Where scores of packets go, if anywhere.
        seed: Secret of hash tables; results do not depend on it.
        judge: What makes the model of a shard; as `models.judge.Judge`.
    """

    settings: Settings
    notify: Callable[[str], None]
    ledger: Ledger = field(default_factory=Ledger)
    stopping: threading.Event = field(default_factory=threading.Event)
    scores: ScoresFile | None = None
    seed: int = field(default_factory=lambda: randbits(64))
    judge: type[Judge] = Judge

    def __post_init__(self) -> None:
        settings = self.settings
        if not settings.run.paths:
            raise UsageError(
                "nothing to replay: name a capture file, a folder, or - for standard input "
                "(under bytewax.run, in PENSTOCK_RUN_PATHS)"
            )
        # What only a library can judge is refused here, before anything is opened or started.
        if settings.capture.filter:
            compile_filter(settings.capture.filter, LINK_ETHERNET)
        self.judge(settings.anomaly, is_device=settings.capture.by == "device")

    @property
    def recovers(self) -> bool:
        """Whether state is saved, so that a killed run can be resumed."""
        return bool(self.settings.run.recovery)

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended the source before its input did."""
        return self.stopping.is_set() and not self.ledger.page(PAGE).get("ended")

    @property
    def digest(self) -> str:
        """Identify the settings that shape results, so that a resume under others is refused."""
        s = self.settings
        shaping: list[Any] = [s.frame, s.dam, s.features, s.anomaly, s.flows, s.run.shards]
        shaping += [s.capture.by, s.capture.port, s.capture.filter, s.capture.packet_bytes_max]
        # Half of the records in one place and half in another would be no whole anywhere.
        folder = s.run.sink_folder
        shaping += [s.files.format, os.path.realpath(folder) if folder is not None else None]
        return blake2b(msgspec.json.encode(shaping), digest_size=16).hexdigest()

    def source(self) -> CaptureSource:
        """Return the source that the settings name."""
        run = self.settings.run
        return CaptureSource(
            paths=run.paths,
            settings=self.settings.capture,
            ledger=self.ledger,
            digest=self.digest,
            stopping=self.stopping,
            notify=self.notify,
            recovers=self.recovers,
        )

    def sink(self) -> DiscardSink | FilesSink:
        """Return the sink that the settings name."""
        run, files = self.settings.run, self.settings.files
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

    def _delivered(self, part: str, totals: dict[str, int]) -> None:
        page = {f"delivered.{topic}": count for topic, count in totals.items()}
        self.ledger.write(f"sink/{part}", page)
