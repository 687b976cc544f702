"""Odd packets: what a simulated wire carries between the payloads of a scenario.

They are what no sender of datagrams can send: packets with a broken header, and packets that are
not for our port. `flows.simulate` builds them; `flows.send` leaves them out, and counts them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.scenario import Traffic

ODD = (
    "ethernet_short",
    "ipv4_short",
    "ipv4_version",
    "ipv4_ihl",
    "udp_short",
    "udp_length",
    "tcp",
    "arp",
    "ipv6",
    "other_port",
    "fragment",
)
"""Kinds of odd packets, in the order in which they take turns."""

ODD_SHARE = 0.004
"""Packets of each kind for each payload."""
ODD_EACH_MIN = 8
ODD_SCENARIOS = ("malformed", "mixed")


def odd_each(traffic: Traffic) -> int:
    """Return how many packets of each odd kind go along with a scenario."""
    if traffic.scenario not in ODD_SCENARIOS:
        return 0
    return max(int(ODD_SHARE * traffic.frames_max), ODD_EACH_MIN)
