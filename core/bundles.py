"""Bundles: which datagrams may go as segments of one message, as UDP_SEGMENT has them.

The segments of a message have one length and go together. So what is due within a short time is
put in order of length, as far as each device keeps its own order.

Source: Linux, Documentation/networking/segmentation-offloads.rst and udp(7), UDP_SEGMENT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    I8 = NDArray[np.int64]

SEGMENTS_MAX = 64
"""Segments that every kernel since 4.18 takes in one message."""
SEGMENT_BYTES_MAX = 1280 - 40 - 8
"""Largest payload that is bundled: what fits any path of IPv6, because segments never are split."""
MESSAGE_BYTES_MAX = 0xFFFF - 40 - 8


def bundle(at_ns: I8, device: NDArray[np.integer], length: NDArray[np.integer], cell_ns: int) -> (
    tuple[I8, I8]
):  # fmt: skip
    """Put datagrams into bundles.

    Args:
        at_ns: `(n,) int64`; when each is due, never decreasing.
        device: `(n,)` whole numbers; who sends it.
        length: `(n,)` whole numbers; its bytes.
        cell_ns: Length of the stretches of time within which they may change places.

    Returns:
        `(n,) int64`, the order to send them in, and `(m,) int64`, how many of them are sent by the
        end of each bundle.
    """
    cell = at_ns // cell_ns
    # The how many-th of its device within the cell: whoever comes first goes in an earlier bundle.
    by_device = np.lexsort((device, cell))
    turn = np.empty(at_ns.size, np.int64)
    turn[by_device] = _within(_begins(cell[by_device], device[by_device]))
    order = np.lexsort((length, turn, cell))
    size = length[order].astype(np.int64)
    begins = _begins(cell[order], turn[order], size)
    most = np.minimum(SEGMENTS_MAX, MESSAGE_BYTES_MAX // np.maximum(size, 1))
    most[(size == 0) | (size > SEGMENT_BYTES_MAX)] = 1
    begins |= _within(begins) % most == 0
    return order, np.append(np.flatnonzero(begins)[1:], at_ns.size)[: at_ns.size]


def _begins(*columns: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Tell of each row whether any column differs from the row before."""
    begins = np.ones(columns[0].size, np.bool_)
    begins[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return begins


def _within(begins: NDArray[np.bool_]) -> I8:
    """Count each row from the beginning of its run."""
    place = np.arange(begins.size)
    return place - np.maximum.accumulate(np.where(begins, place, 0))
