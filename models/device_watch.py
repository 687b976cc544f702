"""Watching devices: floods, frames replayed or spoofed, silence, shifts of size and of entropy.

Laws: those of `models.watch`. Datagrams that are no device frames have no sequence to be watched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from core import rules
from models.device_kernels import INTS, SUMS, TAGS, watch_devices
from models.watch import Table, evidence, fresh_scalars, room, rule_of, sightings
from models.watch_kernels import LAST, OTHER, PACKETS, THRESHOLD, VALUE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.batches import FrameBatch
    from core.finding_sections import DetectSettings
    from core.names import Names
    from core.row_log import Rows
    from core.sighting import Evidence, Sighting
    from models.watch import Seen

RULES = (
    rules.FLOOD, rules.SEQUENCE_REPLAY, rules.TWO_SENDERS, rules.DEVICE_SILENT, rules.SIZE_SHIFT,
    rules.ENTROPY_SHIFT,
)  # fmt: skip
"""In the order of the numbers that the kernel gives them."""
PER_FRAME = 5
"""Most sightings of one frame, but for those of silence."""


class DeviceWatch:
    """The watch of one shard over devices.

    Args:
        settings: Thresholds.
        window_ns: Length of a window.
        keys_max: Devices remembered at most.
        seed: Secret of the key table's hash; results do not depend on it.
        has_seq: Whether frames have sequence numbers.
        names: Texts of keys that are hashes, where any are.
    """

    def __init__(
        self, settings: DetectSettings, *, window_ns: int, keys_max: int, seed: int, has_seq: bool,
        names: Names | None = None,
    ) -> None:  # fmt: skip
        s = settings
        self._limits = np.array([
            s.device_flood_hz, s.flood_factor, s.replay_frames, s.sender_turns, s.silent_s,
            s.silent_gaps, s.shift,
        ], np.float64)  # fmt: skip
        self._window_ns, self._idle_ns = window_ns, s.key_idle_s * 1_000_000_000
        self._has_seq, self._names = has_seq, names
        self._columns = (
            np.zeros((keys_max, INTS), np.int64),
            np.zeros((keys_max, SUMS)),
            np.zeros((keys_max, TAGS), np.uint64),
        )
        ints, sums, tags = self._columns
        self._devices = Table(keys_max, seed, {"ints": ints, "sums": sums, "tags": tags})
        self._scalars = fresh_scalars()
        self.unseen = 0

    def update(self, frames: FrameBatch) -> list[Sighting]:
        """Look at frames; return what was seen, in the order of time."""
        out = room(PER_FRAME * len(frames) + len(self._devices.table))
        sizes = np.zeros(2, np.int64)
        f = frames
        watch_devices(
            self._devices.table.arrays(), self._columns, self._scalars, self._limits,
            self._window_ns, self._idle_ns, self._has_seq,
            (f.arena, f.at_ns, f.clock_ns, f.key_hi, f.key_lo, f.peer_hi, f.peer_lo, f.size, f.body,
             f.body_len, f.seq, f.source, f.ordinal),
            out, sizes,
        )  # fmt: skip
        self.unseen += int(sizes[1])
        return sightings(
            out, int(sizes[0]), self._window_ns, _wording, self._names, is_device=True
        )  # fmt: skip

    def rows(self) -> dict[str, Rows]:
        """Return what is kept in logs, by name."""
        return {"watched": self._devices}

    def snapshot(self) -> tuple[NDArray[np.int64], int]:
        """Return what is no device's own."""
        return self._scalars.copy(), self.unseen

    def restore(self, state: Any) -> None:
        """Go on from a snapshot; the devices are loaded next."""
        self._scalars[:], self.unseen = state


def _wording(at: int, out: Seen) -> tuple[str, str, tuple[Evidence, ...]]:
    """Return rule, title and evidence of what was seen."""
    rule = rule_of(RULES, at, out)
    row = out[2][at]
    value, least, other, last = row[VALUE], row[THRESHOLD], row[OTHER], row[LAST]
    if rule == rules.FLOOD:
        title = f"{int(out[0][at, PACKETS])} frames within a second, of usually {other:.1f}"
        given = [("rate", value, "frames/s", least), ("usual_rate", other, "frames/s", None)]
    elif rule == rules.SEQUENCE_REPLAY:
        title = f"frames that come again or go back in sequence, the last numbered {other:.0f}"
        given = [("replayed", value, "frames", least), ("sequence", other, "number", None)]
    elif rule == rules.TWO_SENDERS:
        title = "two addresses take turns in sending as this device"
        given = [("turns", value, "turns", least)]
    elif rule == rules.DEVICE_SILENT:
        title = f"silent for {value:.1f} s, of usually {other:.1f}"
        given = [("silence", value, "s", least), ("usual_gap", other, "s", None)]
    else:
        name, unit = ("size", "bytes") if rule == rules.SIZE_SHIFT else ("entropy", "bits/byte")
        title = f"bodies of {last:.4g} {unit}, of usually {other:.4g}"
        given = [("deviation_sum", value, "deviations", least)]
        given += [(name, last, unit, None), (f"usual_{name}", other, unit, None)]
    return rule, title, tuple(evidence(*each) for each in given)
