"""The docket: findings that are open, and what is told of them when.

Laws:

1. A key and a rule have one finding at a time. The first sighting that is worth it opens it; those
   that follow are told at most once in `update_s`; it is closed when it was not seen for `quiet_s`
   of packet time, and a later sighting opens another one.
2. Every finding that was opened is closed once: after the quiet time, when there are more than
   `open_max` and it is the one not seen for longest, or when the input ends.
3. At most `per_window_max` findings are opened in a window; the rest is counted, and opened in a
   later one if it lasts.
4. A case that is muted is followed and not told; it is counted once, and told as opened when it is
   seen and not muted any more. What was told as opened is told as closed.
5. What is told follows from windows and the sightings in them. How they were cut into batches, and
   how often somebody looked at the time, changes nothing.

Not here: what is seen (`models.judge`, `models.watch`), and what a message looks like
(`core.findings`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.findings import CLOSE, CREATE, UPDATE, Finding, uid_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from core.sighting import Sighting

SECOND_NS = 1_000_000_000
QUIET, EVICTED, INPUT_END = "quiet", "evicted", "input_end"


@dataclass(slots=True)
class Case:
    """One finding that is open.

    Attributes:
        uid: Its identity.
        source, ordinal: Of the packet it began with.
        first_ns, last_ns, packets, sightings, strongest: As in `core.findings.Finding`.
        told: Messages about it so far.
        told_ns: When the last one was.
        seen_ns: End of the last window in which it was seen.
    """

    uid: str
    source: int
    ordinal: int
    first_ns: int
    last_ns: int
    packets: int
    sightings: int
    strongest: Sighting
    told: int
    told_ns: int
    seen_ns: int


class Docket:
    """The open findings of one shard.

    Args:
        quiet_s: Packet time without a sighting after which a finding is closed.
        update_s: Shortest packet time between two messages about an open finding.
        open_max: Findings open at once.
        per_window_max: Findings opened in one window.
        window_ns: Length of a window.
    """

    def __init__(
        self, *, quiet_s: int, update_s: int, open_max: int, per_window_max: int, window_ns: int
    ) -> None:
        self._quiet_ns, self._update_ns = quiet_s * SECOND_NS, update_s * SECOND_NS
        self._open_max, self._per_window_max = open_max, per_window_max
        self._window_ns = window_ns
        # In the order in which they were last seen, so that the first is the next to be closed.
        self._open: dict[tuple[str, str], Case] = {}
        self._opened = (-1, 0)  # a window, and how many were opened in it
        self.suppressed = 0
        """Sightings that would have opened a finding, had the window had room for it."""
        self.muted = 0
        """Cases that were muted when they began."""

    def __len__(self) -> int:
        return len(self._open)

    @property
    def next_ns(self) -> int | None:
        """When the next finding is closed, if nobody is seen until then; `None` if none is open."""
        first = next(iter(self._open.values()), None)
        if first is None:
            return None
        # Nothing is decided within a window (law 5), so that it waits for the end of this one.
        return -(-self._due_ns(first) // self._window_ns) * self._window_ns

    def take(
        self, sightings: Iterable[Sighting], until_ns: int,
        is_muted: Callable[[Sighting], bool] = lambda _: False,
    ) -> list[Finding]:  # fmt: skip
        """Follow the cases by what was seen in windows that are over.

        Args:
            sightings: Window by window, in the order of time.
            until_ns: Begin of the window that is open.
            is_muted: Whether a sighting is not to be told.
        """
        told: list[Finding] = []
        for seen in sightings:
            self._close_quiet(seen.window_ns, told)
            self._follow(seen, is_muted(seen), told)
        self._close_quiet(until_ns, told)
        return told

    def finish(self) -> list[Finding]:
        """Close what is open when the input ends."""
        told: list[Finding] = []
        for case in self._open.values():
            self._end(case, case.last_ns, INPUT_END, told)
        self._open.clear()
        return told

    def _follow(self, seen: Sighting, muted: bool, told: list[Finding]) -> None:
        """Open a case, or go on with one."""
        name, end_ns = (seen.rule, seen.key), seen.window_ns + self._window_ns
        case = self._open.pop(name, None)
        if case is None:
            if seen.opens and (muted or self._may_open(seen.window_ns)):
                self._begin(seen, end_ns, muted, told)
            return
        self._open[name] = case
        case.last_ns, case.seen_ns = max(case.last_ns, seen.last_ns), end_ns
        case.first_ns = min(case.first_ns, seen.first_ns)
        case.packets += seen.packets
        case.sightings += 1
        if seen.strength > case.strongest.strength:
            case.strongest = seen
        if muted or (not case.told and not (seen.opens and self._may_open(seen.window_ns))):
            return
        if not case.told or end_ns - case.told_ns >= self._update_ns:
            case.told_ns = end_ns
            told.append(self._tell(case, UPDATE if case.told else CREATE, case.last_ns))

    def _begin(self, seen: Sighting, end_ns: int, muted: bool, told: list[Finding]) -> None:
        if len(self._open) == self._open_max:
            self._end(self._open.pop(next(iter(self._open))), end_ns, EVICTED, told)
        case = Case(
            uid=uid_of(seen), source=seen.source, ordinal=seen.ordinal, first_ns=seen.first_ns,
            last_ns=seen.last_ns, packets=seen.packets, sightings=1, strongest=seen, told=0,
            told_ns=end_ns, seen_ns=end_ns,
        )  # fmt: skip
        self._open[seen.rule, seen.key] = case
        if muted:
            self.muted += 1
        else:
            told.append(self._tell(case, CREATE, case.last_ns))

    def _end(self, case: Case, at_ns: int, why: str, told: list[Finding]) -> None:
        """Tell that a case is closed, if it was told that it was open."""
        if case.told:
            told.append(self._tell(case, CLOSE, at_ns, why))

    def _may_open(self, window_ns: int) -> bool:
        """Tell whether one more finding may be opened in a window, and count it."""
        opened = self._opened[1] if self._opened[0] == window_ns else 0
        if opened == self._per_window_max:
            self.suppressed += 1
            return False
        self._opened = (window_ns, opened + 1)
        return True

    def _due_ns(self, case: Case) -> int:
        return case.seen_ns + self._quiet_ns

    def _close_quiet(self, until_ns: int, told: list[Finding]) -> None:
        """Close what was not seen for so long, by the begin of the window that is next."""
        while self._open:
            name, case = next(iter(self._open.items()))
            if self._due_ns(case) > until_ns:
                return
            del self._open[name]
            self._end(case, self._due_ns(case), QUIET, told)

    @staticmethod
    def _tell(case: Case, activity: int, at_ns: int, ended: str = "") -> Finding:
        case.told += 1
        return Finding(
            activity=activity, uid=case.uid, number=case.told - 1, at_ns=at_ns,
            first_ns=case.first_ns, last_ns=case.last_ns, packets=case.packets,
            sightings=case.sightings, strongest=case.strongest, source=case.source,
            ordinal=case.ordinal, ended=ended,
        )  # fmt: skip

    def snapshot(self) -> dict[str, Any]:
        """Return the cases themselves: whoever keeps them must pickle them."""
        counts = (self.suppressed, self.muted)
        return {"open": self._open, "opened": self._opened, "counts": counts}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self._open, self._opened = state["open"], state["opened"]
        self.suppressed, self.muted = state["counts"]
