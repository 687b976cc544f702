"""The UDP source: datagrams as they come to sockets, as packets whose headers are known.

Delivery guarantee: at most once; see `connectors.live`.

Order: datagrams of a device keep theirs while its 4-tuple is unchanged, because the kernel then
keeps them on one socket. With several parts each has sockets of its own for every address
(SO_REUSEPORT), and the kernel deals senders to them by a hash of the 4-tuple.

Destination: a datagram is taken to have come to the address its socket is bound to. That may be
all addresses (0.0.0.0, [::]): which of them it was is not asked of the kernel.

Not here: sockets (`connectors.udp_socket`) and how they are emptied (`connectors.udp_ring`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import numpy as np

from connectors.live import LiveSource
from connectors.ring import RingOptions
from connectors.udp_ring import UdpRing
from connectors.udp_socket import UdpOptions, open_sockets
from core.datagrams import Bound, Datagrams
from core.host import IPV4_MAPPED

if TYPE_CHECKING:
    from connectors.udp_socket import UdpSocket
    from core.batches import HeaderBatch, PacketBatch
    from core.sections import UdpSettings


@dataclass(slots=True, kw_only=True)
class UdpSource(LiveSource):
    """Receive on UDP ports until told to stop.

    Attributes:
        settings: See `UdpSettings`.
        batch_len: Most datagrams of a batch.
    """

    settings: UdpSettings
    batch_len: int
    _bound: list[Bound] = field(default_factory=list, init=False)

    @property
    def name(self) -> str:
        """The addresses."""
        return "udp " + " ".join(self.settings.addresses)

    @property
    def _options(self) -> UdpOptions:
        udp = self.settings
        return UdpOptions(buffer_bytes=udp.buffer_bytes, reuse_port=self.parts > 1, gro=udp.gro)

    def check(self) -> None:
        """See that the addresses can be received on, before anything is written.

        Raises:
            UsageError: One makes no sense.
            SourceError: One cannot be opened.
        """
        for each in open_sockets(self.settings.addresses, self._options):
            each.close()

    def open(self) -> UdpRing:
        """Open sockets of one part, and say what was not granted."""
        udp, options = self.settings, self._options
        sockets = open_sockets(udp.addresses, options)
        self._bound = [_bound(each) for each in sockets]
        for each in sockets:
            for line in each.notices(options):
                self.notify(line)
            self.notify(f"udp {each.name}: receiving")
        rows = RingOptions(
            arenas=udp.arenas, rows_max=self.batch_len, arena_bytes=udp.arena_bytes,
            bytes_max=udp.bytes_max,
        )  # fmt: skip
        return UdpRing(sockets, rows, self.stopping)

    def packets(self, batch: Datagrams, source: int) -> tuple[PacketBatch, HeaderBatch]:
        """Return datagrams as packets with their headers."""
        return batch.as_packets(source, self._bound)

    def totals(self, counts: Any) -> dict[str, int]:
        """Return what was dropped, and how many datagrams the kernel had joined."""
        return LiveSource.totals(self, counts) | {"joined": counts.joined}


def _bound(socket: UdpSocket) -> Bound:
    """Return where a socket is bound, as numbers."""
    address = ip_address(socket.handle.getsockname()[0].partition("%")[0])
    whole = int(address) if address.version == 6 else int(IPV4_MAPPED) << 32 | int(address)
    return Bound(np.uint64(whole >> 64), np.uint64(whole & 0xFFFF_FFFF_FFFF_FFFF), socket.port)
