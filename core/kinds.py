"""Kinds of topics that can be read back: how the records of each become readings.

Law: a topic is read by the mode it was written in, by device or by host, because its records have
the keys of that mode.

Telemetry is device frames again, or datagrams of another format, as `capture.format` says: they are
limited, scored and delivered as from a capture. A flow is one arrival of its source: it is scored
and told in findings, and no flows are written of it, since what they would sum up are flows. A dead
letter is its packet, judged again. Findings are no input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from core.flows_in import flows
from core.letters_in import letters
from core.payloads_in import payloads
from core.telemetry_in import telemetry
from core.topics import FINDINGS, FINDINGS_DLQ, FLOWS, FLOWS_DLQ, TELEMETRY, TELEMETRY_DLQ

if TYPE_CHECKING:
    from core.readings import Readings
    from core.values import Values

FOUND = (FINDINGS, FINDINGS_DLQ)
"""Topics of findings, which are no input."""


class Kind(NamedTuple):
    """How a topic is read back.

    Attributes:
        topic: Its name as `core.topics` has it.
        by: The mode it was written in.
        writes: Topics that a replay of it writes to.
    """

    topic: str
    by: Literal["device", "host"]
    writes: tuple[str, ...]

    @property
    def is_of_packets(self) -> bool:
        """Whether its records hold packets, which are still to be judged."""
        return self.topic in (TELEMETRY_DLQ, FLOWS_DLQ)

    @property
    def names_packets(self) -> bool:
        """Whether one packet is one record of it, which its messages' headers name."""
        return self.topic == TELEMETRY

    @property
    def is_told_late(self) -> bool:
        """Whether its records are written long after the time they tell.

        A flow is told when it has ended, some by `flows.idle_s` and some at once. One that is told
        after others that ended later counts when it is told, or it would not be scored at all.
        """
        return self.topic == FLOWS

    def decode(self, values: Values, body_bytes_max: int, *, of_frames: bool = True) -> Readings:
        """Decode its records.

        Args:
            values: The records.
            body_bytes_max: Largest body of a frame.
            of_frames: Whether telemetry is of device frames, rather than of other datagrams.
        """
        if self.is_of_packets:
            return letters(values)
        if self.topic == FLOWS:
            return flows(values)
        return (telemetry if of_frames else payloads)(values, body_bytes_max)


KINDS = {
    kind.topic: kind
    for kind in (
        Kind(TELEMETRY, "device", (TELEMETRY, TELEMETRY_DLQ, *FOUND)),
        Kind(TELEMETRY_DLQ, "device", (TELEMETRY, TELEMETRY_DLQ, *FOUND)),
        Kind(FLOWS, "host", (FLOWS_DLQ, *FOUND)),
        Kind(FLOWS_DLQ, "host", (FLOWS, FLOWS_DLQ, *FOUND)),
    )
}
"""The kinds there are, by topic."""
