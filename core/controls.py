"""Controls: commands to a running flow, as records that travel beside the packets.

Laws:

1. A command is data: it says from which packet time on it holds, so that a replay with the same
   commands gives the same records.
2. A command reaches every shard, and holds in each from its own first packet of that time on.

Not here: where commands come from (a topic, an API), and who may give them.
"""

from __future__ import annotations

import msgspec

from core.dam_kernels import BURST_MAX, RATE_HZ_MAX


class Retune(msgspec.Struct, frozen=True, kw_only=True):
    """A new rate for the dam of every shard.

    Attributes:
        rate_hz: Frames passed on average, 1 … `RATE_HZ_MAX`, frames/s.
        burst: Most frames passed at once, 1 … `BURST_MAX`.
        at_ns: Packet time from which it holds, ns since the epoch; when that lies in the past, as
            0 does, it holds from now on.

    Raises:
        ValueError: A field is out of its bounds.
    """

    rate_hz: int
    burst: int
    at_ns: int = 0

    def __post_init__(self) -> None:
        for name, high in (("rate_hz", RATE_HZ_MAX), ("burst", BURST_MAX), ("at_ns", 2**63 - 1)):
            low, value = int(name != "at_ns"), getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name}: want {low} … {high}, got {value}")
