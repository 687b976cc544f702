"""The packet source: what interfaces carry, as it comes, captured by the kernel.

Delivery guarantee: at most once; see `connectors.live`.

Order: packets of one interface and part keep theirs; those of several interfaces come in portions
of a few milliseconds. With several parts, and in every process that names the same group, the
kernel deals flows to them, both directions of one to the same.

Not here: sockets (`connectors.packet_socket`) and how they are emptied (`connectors.packet_ring`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from connectors.live import LiveSource
from connectors.packet_ring import PacketRing
from connectors.packet_socket import PacketOptions, open_sockets
from connectors.ring import RingOptions
from core.errors import UsageError

if TYPE_CHECKING:
    from core.batches import PacketBatch
    from core.sections import PacketSettings


@dataclass(slots=True, kw_only=True)
class PacketSource(LiveSource):
    """Capture on interfaces until told to stop.

    Attributes:
        settings: See `PacketSettings`.
        filter: Packets to keep, as tcpdump has it; empty keeps all.
        batch_len: Most packets of a batch.
    """

    settings: PacketSettings
    filter: str
    batch_len: int

    @property
    def name(self) -> str:
        """The interfaces."""
        return "packet " + " ".join(self.settings.interfaces)

    @property
    def _options(self) -> PacketOptions:
        packet = self.settings
        return PacketOptions(
            filter=self.filter, snaplen=packet.snaplen, ring_bytes=packet.ring_bytes,
            block_ms=packet.block_ms, promiscuous=packet.promiscuous, group=packet.group,
        )  # fmt: skip

    def check(self) -> None:
        """See that the interfaces can be captured on, before anything is written.

        Raises:
            UsageError: The filter does not compile, or they cannot be recorded together.
            SourceError: One cannot be captured on.
        """
        # Alone, or a part that is at work in another process would lose what this one is dealt.
        sockets = open_sockets(self.settings.interfaces, replace(self._options, group=0))
        for each in sockets:
            each.close()
        if self.recording is not None and len({each.linktype for each in sockets}) > 1:
            raise UsageError(
                "run.record: a capture file holds one link type, and these interfaces have "
                "several; record one of them"
            )

    def open(self) -> PacketRing:
        """Open sockets of one part."""
        packet = self.settings
        sockets = open_sockets(packet.interfaces, self._options)
        for each in sockets:
            self.notify(f"packet {each.name}: capturing")
        rows = RingOptions(
            arenas=packet.arenas, rows_max=self.batch_len, arena_bytes=packet.arena_bytes
        )
        return PacketRing(sockets, rows, self.stopping)

    def packets(self, batch: PacketBatch, source: int) -> tuple[PacketBatch, None]:
        """Return packets of this source; their headers are not known yet."""
        return replace(batch, source=source), None

    def totals(self, counts: Any) -> dict[str, int]:
        """Return what was dropped, and what the kernel could not filter and we did."""
        return LiveSource.totals(self, counts) | {"filtered": counts.filtered}
