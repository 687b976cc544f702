"""Evidence: the packets of each finding as a capture of its own, for whoever has to look at it.

Laws:

1. The packets that led to a finding are there when it is told: what arrived lately is kept in a
   ring, and what is of the finding's key, from a little before its first packet on, goes into the
   file at once. The file grows no further than `packets_max` and `bytes_max`.
2. A file has the identity of its finding as its name, and appears whole. One that is there, of a
   run before, is left as it is.
3. All files together hold at most `total_bytes_max`, those of earlier runs among them; a finding
   for which there is no room has none, and says so by naming none.
4. Evidence is no reason to fail: when it cannot be written, one line says so, and there is no more.

Delivery guarantee: at most once. A crash loses the ring, and of findings that are open the packets
since their file was written.

Source: draft-ietf-opsawg-pcap, with times in nanoseconds.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.batches import gather
from core.errors import SinkError
from core.findings import CLOSE, CREATE
from core.plain import plain
from core.wire import as_raw, pcap_head, pcap_records

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from core.batches import FrameBatch, HeaderBatch, PacketBatch
    from core.findings import Finding

BEFORE_NS = 5_000_000_000
"""How long before the first packet of a finding its evidence begins."""
OPEN_MAX = 256
"""Findings whose packets are gathered at once; of others only what the ring holds is written."""
_HEAD_BYTES = 24
_RECORD_BYTES = 16


@dataclass(frozen=True, slots=True)
class _Kept:
    """Packets of one batch in memory of their own, with whom they are from and to."""

    packets: PacketBatch
    key: tuple[NDArray[np.uint64], NDArray[np.uint64]]
    peer: tuple[NDArray[np.uint64], NDArray[np.uint64]]


@dataclass(slots=True)
class _Pile:
    """What was gathered for one finding.

    Attributes:
        hi, lo: Its key; `None` when it is about all of them.
        either: Whether packets to the key are of it, too.
        from_ns: Since when.
        records: The packets, as records of a capture.
        size, count: Their bytes, and how many they are.
        linktype: Of the first; a capture holds one. -1: none yet.
        written: How many the file holds.
    """

    hi: int | None
    lo: int
    either: bool
    from_ns: int
    records: list[bytes] = field(default_factory=list)
    size: int = _HEAD_BYTES
    count: int = 0
    linktype: int = -1
    written: int = 0

    def of(self, kept: _Kept) -> NDArray[np.int64]:
        """Return which packets are of it."""
        mask = kept.packets.at_ns >= self.from_ns
        if self.hi is not None:
            hi, lo = np.uint64(self.hi), np.uint64(self.lo)
            ours = (kept.key[0] == hi) & (kept.key[1] == lo)
            if self.either:
                ours |= (kept.peer[0] == hi) & (kept.peer[1] == lo)
            mask &= ours
        return np.flatnonzero(mask)


class Evidence:
    """The folder of evidence of one run; steps of all workers use it.

    Args:
        folder: Where files go; made when it is not there.
        packets_max, bytes_max: Most packets and bytes of one finding.
        total_bytes_max: Most bytes of all files.
        ring_bytes: Most bytes of packets that are kept in case a finding is about them.
        notify: Told in one line when evidence ends.

    Raises:
        SinkError: The folder cannot be written.
    """

    def __init__(
        self, folder: Path, *, packets_max: int, bytes_max: int, total_bytes_max: int,
        ring_bytes: int, notify: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._folder, self._notify = folder, notify
        self._packets_max, self._bytes_max = packets_max, bytes_max
        self._ring_bytes, self._left = ring_bytes, total_bytes_max
        self._lock = threading.Lock()
        self._ring: deque[_Kept] = deque()
        self._held = 0
        self._piles: dict[str, _Pile] = {}
        self._ended = False
        try:
            # What devices say is nobody else's business.
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in folder.iterdir():
                if path.name.startswith(".") and path.name.endswith(".part"):
                    path.unlink()
                elif path.suffix == ".pcap":
                    self._left -= path.stat().st_size
            self._put(".writable", b"")
            (folder / ".writable.pcap").unlink()
        except OSError as error:
            raise SinkError(
                f"{plain(str(folder))}: no evidence can be written there: {error.strerror}; "
                "name a folder that can be written"
            ) from error

    def see(self, packets: PacketBatch, headers: HeaderBatch, frames: FrameBatch) -> None:
        """Keep the packets of a batch that are frames, and hand them to findings that are open."""
        if len(frames) == 0 or self._ended:
            return
        kept = _keep(as_raw(packets, headers), frames, packets.index)
        with self._lock:
            self._ring.append(kept)
            self._held += int(kept.packets.arena.size)
            while self._held > self._ring_bytes and len(self._ring) > 1:
                self._held -= int(self._ring.popleft().packets.arena.size)
            for pile in self._piles.values():
                self._gather(pile, kept)

    def note(self, told: Sequence[Finding], *, either: bool) -> frozenset[str]:
        """Follow what is told of findings; return which of them have a file.

        Args:
            told: What is told, in order.
            either: Whether packets to a key are of it, as those from it are.
        """
        files = set()
        with self._lock:
            for each in told:
                if each.activity == CREATE and not self._ended:
                    self._begin(each, either=either)
                pile = self._piles.get(each.uid)
                if pile is not None and each.activity == CLOSE:
                    self._write(each.uid, pile)
                    del self._piles[each.uid]
                if (self._folder / _name(each.uid)).exists():
                    files.add(each.uid)
        return frozenset(files)

    def close(self) -> None:
        """Write what was gathered since for findings that are open."""
        with self._lock:
            for uid, pile in self._piles.items():
                self._write(uid, pile)
            self._piles.clear()

    def _begin(self, finding: Finding, *, either: bool) -> None:
        """Begin the file of a finding with what is in the ring."""
        if (self._folder / _name(finding.uid)).exists():
            return
        seen = finding.strongest
        hi = None if finding.key == "*" else seen.key_hi
        pile = _Pile(hi, seen.key_lo, either, finding.first_ns - BEFORE_NS)
        for kept in self._ring:
            self._gather(pile, kept)
        self._write(finding.uid, pile)
        if pile.written and len(self._piles) < OPEN_MAX:
            self._piles[finding.uid] = pile

    def _gather(self, pile: _Pile, kept: _Kept) -> None:
        """Add the packets of a finding, as long as there is room for them."""
        room = self._packets_max - pile.count
        if room <= 0 or pile.size >= self._bytes_max:
            return
        rows = pile.of(kept)[:room]
        if rows.size and pile.linktype < 0:
            pile.linktype = int(kept.packets.linktype[rows[0]])
        rows = rows[kept.packets.linktype[rows] == pile.linktype]
        ends = np.cumsum(kept.packets.caplen[rows].astype(np.int64) + _RECORD_BYTES)
        rows = rows[ends + pile.size <= self._bytes_max]
        if rows.size:
            pile.records.append(pcap_records(kept.packets.take(rows)).tobytes())
            pile.size += len(pile.records[-1])
            pile.count += int(rows.size)

    def _write(self, uid: str, pile: _Pile) -> None:
        """Write the file of a finding anew, if there is more than it holds."""
        if self._ended or pile.count == pile.written:
            return
        before = (self._folder / _name(uid)).stat().st_size if pile.written else 0
        if pile.size - before > self._left:
            return
        try:
            self._put(uid, b"".join([pcap_head(pile.linktype), *pile.records]))
        except OSError as error:
            self._ended = True
            self._piles, self._ring = {}, deque()
            self._notify(
                f"{plain(str(self._folder))}: no more evidence is written: {error.strerror}"
            )
            return
        self._left -= pile.size - before
        pile.written = pile.count

    def _put(self, uid: str, data: bytes) -> None:
        """Let a file appear with all that is in it."""
        beside = self._folder / f".{_name(uid)}.part"
        try:
            beside.touch(0o600)
            beside.write_bytes(data)
            beside.replace(self._folder / _name(uid))
        except OSError:
            with suppress(OSError):
                beside.unlink()
            raise


def _name(uid: str) -> str:
    return f"{uid}.pcap"


def _keep(packets: PacketBatch, frames: FrameBatch, first: int) -> _Kept:
    """Copy the packets of frames into memory of their own."""
    chosen = packets.take(frames.index - first)
    arena = np.require(chosen.arena, requirements=["C", "W"])
    own: dict[str, Any] = {"arena": gather(arena, chosen.start, chosen.caplen)}
    sizes = chosen.caplen.astype(np.int64)
    own |= {"start": np.cumsum(sizes) - sizes}
    copied = replace(chosen, **own)
    return _Kept(
        copied, (frames.key_hi.copy(), frames.key_lo.copy()),
        (frames.peer_hi.copy(), frames.peer_lo.copy()),
    )  # fmt: skip
