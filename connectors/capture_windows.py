"""The windows of a capture: how many packets it has, and which happen together.

The capture is decoded as a replay does, and nothing is kept of it but where windows begin.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from connectors.capture_files import list_captures
from connectors.capture_reader import Mark, Reader
from core.errors import SourceError, UsageError
from core.kafka_address import is_kafka
from core.plain import plain
from core.timeline import START, settle

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.sections import CaptureSettings

_WAIT_S = 0.1


@dataclass(frozen=True, slots=True)
class Windows:
    """Where the windows of a capture begin.

    Attributes:
        packets: Packets of the capture.
        begin: `(w,) int64`; number of the first packet of each window that has any.
        at_ns: `(w,) int64`; when the window of each began, ns since the epoch.
    """

    packets: int
    begin: NDArray[np.int64]
    at_ns: NDArray[np.int64]


def windows_of(path: str, settings: CaptureSettings, window_ns: int) -> Windows:
    """Read a capture for its times.

    Args:
        path: A capture file; what cannot be read twice is refused.
        settings: See `CaptureSettings`; a filter is refused.
        window_ns: Length of a window, ns.

    Raises:
        UsageError: It is no file.
        SourceError: It cannot be read.
    """
    name = plain(path)
    if is_kafka(path) or path == "-" or (Path(path).exists() and not Path(path).is_file()):
        raise UsageError(f"{name}: is no file; name one capture, which is read twice")
    stopping = threading.Event()
    listing = list_captures((path,), settings.packet_bytes_max, stopping)
    for reason in listing.unreadable.values():
        raise SourceError(f"{name}: {reason}; name a capture that can be read")
    reader = Reader(listing.files, settings, Mark(), settings.batch_len, stopping)
    begins, times, packets, clock, last = [], [], 0, START, -1
    try:
        while True:
            item = reader.get(_WAIT_S)
            if item is None:
                continue
            if item.error is not None:
                raise item.error
            if item.batch is not None:
                clock_ns, clock = settle(item.batch.at_ns, clock)
                window = clock_ns // window_ns
                first = np.flatnonzero(np.diff(window, prepend=last))
                begins.append(first + packets)
                times.append(window[first] * window_ns)
                packets, last = packets + len(item.batch), int(window[-1])
            if item.last:
                break
    finally:
        reader.close()
    none = np.zeros(0, np.int64)
    return Windows(packets, np.concatenate([none, *begins]), np.concatenate([none, *times]))
