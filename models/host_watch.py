"""Watching hosts: floods, scans, brute force on login services, beacons.

Laws: those of `models.watch`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from core import rules
from core.host import key_text
from models.contact_kernels import CONTACT_INTS, CONTACT_SUMS
from models.host_kernels import INTS, SUMS, TAGS, watch_hosts
from models.watch import Table, evidence, fresh_scalars, room, rule_of, sightings
from models.watch_kernels import (
    LAST,
    OTHER,
    PACKETS,
    PEER_HI,
    PEER_LO,
    PORT,
    THRESHOLD,
    VALUE,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.batches import FrameBatch
    from core.finding_sections import DetectSettings
    from core.row_log import Rows
    from core.sighting import Evidence, Sighting
    from models.watch import Seen

RULES = (
    rules.FLOOD, rules.SCAN_HORIZONTAL, rules.SCAN_VERTICAL, rules.BRUTE_FORCE, rules.BEACONING,
)  # fmt: skip
"""In the order of the numbers that the kernel gives them."""
PER_PACKET = 5
"""Most sightings of one packet."""


class HostWatch:
    """The watch of one shard over hosts.

    Args:
        settings: Thresholds.
        window_ns: Length of a window.
        keys_max: Hosts remembered at most.
        seed: Secret of the key tables' hashes; results do not depend on it.
    """

    def __init__(
        self, settings: DetectSettings, *, window_ns: int, keys_max: int, seed: int
    ) -> None:
        s = settings
        self._limits = np.array([
            s.host_flood_hz, s.flood_factor, s.scan_calls, s.login_tries, s.login_forgiven_s,
            s.beacon_calls, s.beacon_s, s.beacon_jitter,
        ], np.float64)  # fmt: skip
        self._logins = np.zeros(65_536, np.uint8)
        self._logins[[int(port) for port in s.login_ports]] = 1
        self._window_ns, self._idle_ns = window_ns, s.key_idle_s * 1_000_000_000
        self._columns = (
            np.zeros((keys_max, INTS), np.int64),
            np.zeros((keys_max, SUMS)),
            np.zeros((keys_max, TAGS), np.uint64),
        )
        ints, sums, tags = self._columns
        self._hosts = Table(keys_max, seed, {"ints": ints, "sums": sums, "tags": tags})
        self._contact_columns = (
            np.zeros((s.contacts_max, CONTACT_INTS), np.int64),
            np.zeros((s.contacts_max, CONTACT_SUMS)),
        )
        ints, sums = self._contact_columns
        self._contacts = Table(s.contacts_max, seed, {"ints": ints, "sums": sums})
        self._scalars = fresh_scalars()
        self.unseen = 0

    def update(self, frames: FrameBatch) -> list[Sighting]:
        """Look at packets; return what was seen, in the order of time."""
        out = room(PER_PACKET * len(frames))
        sizes = np.zeros(2, np.int64)
        f = frames
        watch_hosts(
            self._hosts.table.arrays(), self._contacts.table.arrays(), self._columns,
            self._contact_columns, self._scalars, self._limits, self._logins, self._window_ns,
            self._idle_ns,
            (f.at_ns, f.clock_ns, f.key_hi, f.key_lo, f.peer_hi, f.peer_lo, f.proto, f.sport,
             f.dport, f.ethertype, f.tcp_flags, f.source, f.ordinal),
            out, sizes,
        )  # fmt: skip
        self.unseen += int(sizes[1])
        return sightings(out, int(sizes[0]), self._window_ns, _wording, None, is_device=False)

    def rows(self) -> dict[str, Rows]:
        """Return what is kept in logs, by name."""
        return {"watched": self._hosts, "contacts": self._contacts}

    def snapshot(self) -> tuple[NDArray[np.int64], int]:
        """Return what is no host's own."""
        return self._scalars.copy(), self.unseen

    def restore(self, state: Any) -> None:
        """Go on from a snapshot; hosts and contacts are loaded next."""
        self._scalars[:], self.unseen = state


def _wording(at: int, out: Seen) -> tuple[str, str, tuple[Evidence, ...]]:
    """Return rule, title and evidence of what was seen."""
    rule = rule_of(RULES, at, out)
    ints, tags, row = out[0][at], out[1][at], out[2][at]
    value, least, other, last = row[VALUE], row[THRESHOLD], row[OTHER], row[LAST]
    peer = key_text(int(tags[PEER_HI]), int(tags[PEER_LO]), is_device=False)
    peer = f"[{peer}]:{ints[PORT]}" if ":" in peer else f"{peer}:{ints[PORT]}"
    if rule == rules.FLOOD:
        title = f"{int(ints[PACKETS])} packets within a second that wait for no answer, of usually"
        title += f" {other:.1f}"
        given = [("rate", value, "packets/s", least), ("usual_rate", other, "packets/s", None)]
    elif rule in (rules.SCAN_HORIZONTAL, rules.SCAN_VERTICAL):
        across = rule == rules.SCAN_HORIZONTAL
        title = f"{value:.0f} more first contacts failed than succeeded, with about "
        title += f"{other if across else last:.0f} hosts and {last if across else other:.0f} ports"
        given = [("failed_calls", value, "contacts", least)]
        given += [("hosts", other if across else last, "hosts", None)]
        given += [("ports", last if across else other, "ports", None)]
    elif rule == rules.BRUTE_FORCE:
        title = f"{value:.0f} connections or more in quick succession to {peer}"
        given = [("tries", value, "connections", least), ("port", ints[PORT], "port", None)]
    else:
        title = f"calls {peer} every {other:.1f} s, by {100.0 * last:.1f} % exactly"
        given = [("calls", value, "intervals", least), ("interval", other, "s", None)]
        given += [("jitter", last, "of the interval", None)]
    return rule, title, tuple(evidence(*each) for each in given)
