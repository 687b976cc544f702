"""The recording: what a live source handed on, as a capture that can be replayed.

Delivery guarantee: at most once, and best kept off a slow disk: it is written by the worker that
hands on the packets, batch by batch. What a crash leaves is a capture that ends early.

Law: a packet is recorded with the time and in the order in which the graph got it, before the graph
gets it. So a replay gives the same records, but for what says where a packet lies (source, ordinal,
and the identities made of them), and for what the clock ended and not a packet: the last window of
a replay is one that was cut short.

Source: draft-ietf-opsawg-pcap, with times in nanoseconds.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import SinkError
from core.link import LINK_RAW
from core.plain import plain
from core.wire import as_raw, pcap_head, pcap_records

if TYPE_CHECKING:
    from core.batches import HeaderBatch, PacketBatch


class Recording:
    """A pcap file that grows as packets come.

    Args:
        path: Where it lies; a file there is replaced at once.

    Raises:
        SinkError: It cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._linktype = -1
        try:
            # Unbuffered: a batch is one write, and what was written survives the process.
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise self._refused(error) from error

    def write(self, packets: PacketBatch, headers: HeaderBatch | None) -> None:
        """Write packets; datagrams with the headers they may have had.

        Args:
            packets: Packets of one link type, the same for all batches.
            headers: What their headers say; not needed for packets that have them.

        Raises:
            SinkError: The disk is full, or the link type is another one.
        """
        if headers is not None:
            packets = as_raw(packets, headers)
        if len(packets) == 0:
            return
        linktype = int(packets.linktype[0])
        if self._linktype < 0:
            self._linktype = linktype
            self._put(memoryview(pcap_head(linktype)))
        if (packets.linktype != self._linktype).any():
            raise SinkError(
                f"{plain(str(self._path))}: a pcap file holds one link type; record one interface"
            )
        self._put(pcap_records(packets).data)

    def close(self) -> None:
        """End the file; without a packet it is one of raw IP."""
        if self._file.closed:
            return
        if self._linktype < 0:
            self._put(memoryview(pcap_head(LINK_RAW)))
        try:
            self._file.close()
        except OSError as error:
            raise self._refused(error) from error

    def _put(self, data: memoryview) -> None:
        try:
            while len(data):
                data = data[self._file.write(data) or 0 :]
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> SinkError:
        why = os.strerror(error.errno) if error.errno else str(error)
        cure = "name a file in a folder that can be written and has room"
        return SinkError(f"{plain(str(self._path))}: cannot be recorded to: {why}; {cure}")
