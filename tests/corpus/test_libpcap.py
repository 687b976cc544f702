"""libpcap as the oracle of reading captures: how many packets, how long, and when.

`tcpdump -r - --count` counts; pcapy tells every packet. Differences are listed in
`differences.py`; that Penstock's count is right there, scapy's own reader says.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import pcapy
import pytest
from numpy.typing import NDArray
from scapy.utils import RawPcapReader

from connectors.capture_files import list_captures
from core.capture import CaptureDecoder, Packets, sniff
from tests.corpus.differences import DIFFERENCES, NEGATIVE_FRACTION
from tests.corpus.runs import Replayed, inflated

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.corpus

SNAP_LEN_MAX = 262_144
PCAPNG = b"\x0a\x0d\x0d\x0a"

Table: TypeAlias = NDArray[np.int64]


class Counted(NamedTuple):
    """Packets of a capture, `None` when it was refused, and whether its end was reached."""

    packets: int | None
    whole: bool


@pytest.fixture(scope="module")
def counted(captures: dict[str, Path]) -> dict[str, Counted]:
    """Count every capture with tcpdump."""
    tcpdump = shutil.which("tcpdump")
    if tcpdump is None:
        pytest.skip("tcpdump is not installed: no counts by libpcap to compare with")

    def count(path: Path) -> Counted:
        done = subprocess.run(
            [tcpdump, "-r", "-", "--count"], input=inflated(path), capture_output=True, check=False
        )
        said = re.match(rb"(\d+) packets?\n", done.stdout)
        return Counted(int(said[1]) if said else None, done.returncode == 0)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(captures, pool.map(count, captures.values()), strict=True))


@pytest.fixture(scope="module")
def told(captures: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Table]:
    """Return `(seconds, µs, captured, on the wire)` of the packets libpcap reads, by capture."""
    path = tmp_path_factory.mktemp("inflated") / "capture"
    found = {}
    for name, capture in captures.items():
        path.write_bytes(inflated(capture))
        rows = []
        try:
            reader = pcapy.open_offline(str(path))
            header, _ = reader.next()
            while header is not None:
                rows.append((*header.getts(), header.getcaplen(), header.getlen()))
                header, _ = reader.next()
        except pcapy.PcapError:
            pass  # what was read until then is compared; where it ended is the counts' business
        table = np.array(rows, np.int64).reshape(len(rows), 4)
        table[:, :2] &= 0xFFFF_FFFF  # pcapy takes the unsigned fields of a record as signed
        found[name] = table
    return found


def ours(raw: bytes) -> Packets:
    """Decode a capture that lies in memory."""
    state = sniff(raw[:65_536])
    assert not isinstance(state, str), state
    out = Packets.empty(len(raw) // 16 + 1)
    buf = np.frombuffer(bytearray(raw), np.uint8)
    CaptureDecoder(state, SNAP_LEN_MAX).decode(buf, state.offset, buf.size, out)
    return out


@pytest.mark.slow
def test_counts_equal_libpcaps(
    alone: dict[str, dict[str, Replayed]], counted: dict[str, Counted]
) -> None:
    """Each capture counts and ends as libpcap has it, or differs exactly as it is listed."""
    different = {}
    for name, (summary, _) in alone["host"].items():
        whole = not (summary.files.truncated or summary.files.unreadable)
        if counted[name] != (summary.packets_in, whole):
            assert whole, name
            different[name] = (summary.packets_in, counted[name].packets)
    assert different == {name: (d.packets, d.libpcap) for name, d in DIFFERENCES.items()}
    assert all(d.reason for d in DIFFERENCES.values())


def test_where_libpcap_stops_scapy_counts_the_same(captures: dict[str, Path]) -> None:
    """Of captures libpcap gives up on, another reader counts as many packets as Penstock."""
    for name, difference in DIFFERENCES.items():
        with RawPcapReader(str(captures[name])) as reader:
            assert len(list(reader)) == difference.packets, name


def test_times_and_lengths_equal_libpcaps(
    captures: dict[str, Path], told: dict[str, Table]
) -> None:
    """Every packet's time (to the µs) and lengths are libpcap's, which cuts at the snap length."""
    compared = 0
    for name, path in captures.items():
        raw = inflated(path)
        got, want = ours(raw), told[name]
        assert got.count == len(want) or name in DIFFERENCES, name
        rows = slice(0, len(want))
        compared += len(want)
        later = np.flatnonzero(got.at_ns[rows] // 1000 != want[:, 0] * 1_000_000 + want[:, 1])
        assert later.tolist() == NEGATIVE_FRACTION.get(name, []), name
        assert (got.wirelen[rows] == want[:, 3]).all(), name
        snap = SNAP_LEN_MAX
        if raw[:4] != PCAPNG:
            # Penstock, like scapy, keeps what the record holds beyond the file's snap length.
            snap = int.from_bytes(raw[16:20], "little" if raw[0] in (0xD4, 0x4D, 0x34) else "big")
        snap = snap if 0 < snap <= SNAP_LEN_MAX else SNAP_LEN_MAX
        assert (np.minimum(got.caplen[rows], snap) == want[:, 2]).all(), name
    assert compared > 250_000


def test_the_order_of_a_replay_is_that_of_libpcaps_first_times(
    corpus: Path, captures: dict[str, Path], told: dict[str, Table]
) -> None:
    """Captures are listed by the first time libpcap reads, then path, empty ones in front."""
    first = {
        str(captures[name]): int(table[0, 0] * 1_000_000 + table[0, 1]) if len(table) else -1
        for name, table in told.items()
        if name not in DIFFERENCES
    }
    listed = list_captures((str(corpus / "captures"),), SNAP_LEN_MAX, threading.Event()).files
    known = {f.path: max(f.first_ns, -1000) // 1000 for f in listed if f.path in first}
    assert known == first
    assert list(known) == sorted(first, key=lambda path: (first[path], path))
