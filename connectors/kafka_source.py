"""The topic source: what a topic of Kafka holds, merged by time, as batches of readings.

Delivery guarantee: replayable. With recovery on, every record up to the ends that the partitions
had when the run began is read at least once, and because offsets are saved in the same epoch as the
state of all stages, each counts exactly once in them. Records that the brokers delete before they
were read are an error, never skipped.

Laws:

1. One part reads all partitions and merges them by packet time, because several parts of one source
   interleave in no fixed order.
2. What cannot be replayed, or not as asked, is refused before anything is written; and so is a sink
   that would write into the topic being read.
3. A resume is refused in another topic, even one of the same name, and where records are gone that
   were still to be read.

Not here: what becomes of the records of each topic (`core.kinds`), and the reading itself
(`connectors.topic_part`).

Source: Bytewax, "Custom connectors", `FixedPartitionedSource`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bytewax.inputs import FixedPartitionedSource

from connectors.capture import PART
from connectors.engine_store import START_OVER
from connectors.kafka_client import canonical_name, topic_name
from connectors.pressure import Pressure
from connectors.topic_feed import Feed, gone
from connectors.topic_part import TopicPart, TopicPosition
from connectors.topic_survey import Survey, cluster_of, full
from core.errors import SourceError, UsageError
from core.kafka_address import is_kafka, parse
from core.kinds import FOUND, KINDS, Kind
from core.plain import plain
from core.readings import Readings
from core.strand import Place
from core.topics import FINDINGS_DLQ

if TYPE_CHECKING:
    from connectors.ledger import Ledger
    from core.kafka_address import KafkaAddress
    from core.sections import Settings


@dataclass(slots=True)
class TopicSource(FixedPartitionedSource[Readings, TopicPosition]):
    """Replay what a topic holds, up to the ends it has when the run begins.

    Attributes:
        settings: All settings; `run.paths` is the address of the topic.
        ledger: Receives what the source counted.
        digest: Identifies the settings that shape results; a resume under others is refused.
        stopping: Set by a signal; ends the source as the end of the topic would.
        notify: Called with one line about what is odd.
        pressure: What a sink whose queue is full makes this source pause by.
    """

    settings: Settings
    ledger: Ledger
    digest: str
    stopping: threading.Event
    notify: Callable[[str], None]
    pressure: Pressure = field(default_factory=Pressure)
    _survey: Survey | None = field(default=None, init=False)
    _kind: Kind | None = field(default=None, init=False)

    @property
    def address(self) -> KafkaAddress:
        """Brokers and topic."""
        return parse(self.settings.run.paths[0], topic=True)

    @property
    def name(self) -> str:
        """The address, fit to be shown."""
        return plain(full(self.address))

    @property
    def kind(self) -> Kind:
        """How the topic is read; after `check`."""
        if self._kind is None:
            self.check()
        assert self._kind is not None  # noqa: S101  check() sets it or raises
        return self._kind

    def check(self) -> None:
        """Find the topic, and refuse what cannot be replayed, before anything is written.

        Raises:
            UsageError: It is not to be read, not in this mode, or not into that sink.
            SourceError: The brokers do not answer, or have no such topic.
        """
        run, kafka = self.settings.run, self.settings.kafka
        if len(run.paths) != 1:
            named = next(filter(is_kafka, run.paths))
            raise UsageError(f"{plain(named)}: a topic is replayed alone; name nothing beside it")
        if self.settings.capture.filter:
            raise UsageError(
                f"{self.name}: holds records, which capture.filter does not apply to; leave it out"
            )
        named = canonical_name(kafka, self.address.topic)
        if named in (*KINDS, *FOUND):
            self._known(named)  # before anybody is asked
        self._survey = Survey(kafka, self.address)
        if named not in KINDS:
            named = self._survey.said_type()
        self._kind = self._known(named)
        self._refuse_circle(self._kind, self._survey.cluster)

    def _known(self, topic: str) -> Kind:
        """Return how a topic is read, or refuse it."""
        if topic in FOUND:
            cure = "penstock dlq replay puts them back" if topic == FINDINGS_DLQ else "name another"
            raise UsageError(f"{self.name}: holds findings, which are no input; {cure}")
        kind = KINDS.get(topic)
        if kind is None:
            says = (
                f"its records say {plain(topic)}" if topic else "its records do not say (ce_type)"
            )
            raise UsageError(
                f"{self.name}: what it holds is not known: {says}; name it under kafka.topics"
            )
        if kind.by != self.settings.capture.by:
            raise UsageError(f"{self.name}: holds {kind.topic}; replay it with --by {kind.by}")
        return kind

    def _refuse_circle(self, kind: Kind, cluster: str) -> None:
        """Refuse a sink that would write into the topic being read."""
        run, kafka = self.settings.run, self.settings.kafka
        written = [topic_name(kafka, topic) for topic in kind.writes]
        if not is_kafka(run.sink) or self.address.topic not in written:
            return
        servers = parse(run.sink, topic=False).servers
        if servers == self.address.servers or cluster_of(kafka, servers) == cluster:
            raise UsageError(
                f"{self.name}: the sink writes to this very topic; name another sink, or give "
                "the sink's topic another name under kafka.topics"
            )

    def list_parts(self) -> list[str]:
        """Return the one part, by the name that any source of a replay has (law 1)."""
        return [PART]

    def build_part(
        self, step_id: str, for_part: str, resume_state: TopicPosition | None
    ) -> TopicPart:
        """Begin at the first records there are, or where a snapshot left off."""
        del step_id, for_part
        kind = self.kind
        assert self._survey is not None  # noqa: S101  kind() has set it
        extent = self._survey.extent()
        if extent.hidden:
            self.notify(
                f"{self.name}: records not read, behind a transaction that is open: "
                f"{extent.hidden:,}; replay the topic again when it has ended"
            )
        if resume_state is not None:
            self._check_resume(self._survey, resume_state)
            self._check_there(resume_state, extent.low, extent.high)
        # An end before the beginning is that of a partition whose records are all gone.
        ends = tuple(map(max, extent.low, extent.high))
        at = resume_state or TopicPosition(
            digest=self._digest,
            cluster=self._survey.cluster,
            topic=self.address.topic,
            topic_id=self._survey.topic_id,
            begins=extent.low,
            ends=ends,
            places=tuple(map(Place, extent.low)),
            seen=(0,) * len(ends),
        )
        topic = kind.topic if kind.names_packets else ""
        starts = [place.offset for place in at.places]
        feed = Feed(self.settings.kafka, self._survey, starts, at.ends, topic)
        return TopicPart(self, feed, at)

    @property
    def _digest(self) -> str:
        """Unlike that of captures under the same settings."""
        return f"topic {self.digest}"

    def _check_resume(self, survey: Survey, position: object) -> None:
        """Refuse to go on in anything but the topic and settings the snapshot was taken with."""
        if not isinstance(position, TopicPosition) or position.digest != self._digest:
            raise SourceError(f"the recovery folder was written with other settings; {START_OVER}")
        if (position.cluster, position.topic) != (survey.cluster, survey.address.topic):
            raise SourceError(
                f"{self.name}: the recovery folder is of topic {plain(position.topic)} of "
                f"cluster {plain(position.cluster)}; {START_OVER}"
            )
        if position.topic_id != survey.topic_id or len(position.ends) > survey.partitions:
            raise SourceError(
                f"{self.name}: is another topic of the same name since the recovery folder was "
                f"written; {START_OVER}"
            )

    def _check_there(
        self, position: TopicPosition, low: tuple[int, ...], high: tuple[int, ...]
    ) -> None:
        """Refuse to go on where records are gone that are still to be read."""
        missing = {}
        for p, (place, end) in enumerate(zip(position.places, position.ends, strict=True)):
            offset = place.offset
            if offset < end and high[p] < end:
                raise gone(self.address, {}, high[p])
            if offset < end and low[p] > offset:
                missing[p] = min(low[p], end) - offset
        if missing:
            raise gone(self.address, missing)
