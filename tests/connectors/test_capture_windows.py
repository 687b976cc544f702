"""Where the windows of a capture begin, whatever it is read in."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from connectors.capture_windows import windows_of
from core.errors import SourceError, UsageError
from core.sections import CaptureSettings
from tests.captures import SECOND_NS, Packet, pcap

TIMES_MS = [0, 400, 999, 1000, 900, 5000, 5001]
"""One steps back, and some windows have no packet."""


def written(path: Path) -> str:
    packets = [Packet(1_600_000_000 * SECOND_NS + t * 1_000_000, b"x" * 40, 40) for t in TIMES_MS]
    path.write_bytes(pcap(packets))
    return str(path)


@pytest.mark.parametrize("batch_len", [1, 2, 8192])
def test_windows_begin_where_the_time_of_the_replay_crosses(tmp_path: Path, batch_len: int) -> None:
    """A packet that steps back happens when the one before it did, in batches of any size."""
    settings = CaptureSettings(batch_len=batch_len)
    found = windows_of(written(tmp_path / "a.pcap"), settings, SECOND_NS)
    assert found.packets == len(TIMES_MS)
    assert found.begin.tolist() == [0, 3, 5]
    assert (found.at_ns - 1_600_000_000 * SECOND_NS).tolist() == [0, SECOND_NS, 5 * SECOND_NS]


def test_captures_are_read_as_a_replay_reads_them(tmp_path: Path) -> None:
    """Compressed, without a packet, or cut short: as many packets as a replay counts."""
    data = Path(written(tmp_path / "a.pcap")).read_bytes()
    (tmp_path / "b.pcap.gz").write_bytes(gzip.compress(data))
    (tmp_path / "none.pcap").write_bytes(data[:24])
    (tmp_path / "cut.pcap").write_bytes(data[:-1])
    counts = [
        windows_of(str(tmp_path / name), CaptureSettings(), SECOND_NS).packets
        for name in ("b.pcap.gz", "none.pcap", "cut.pcap")
    ]
    assert counts == [7, 0, 6]
    none = windows_of(str(tmp_path / "none.pcap"), CaptureSettings(), SECOND_NS)
    assert none.begin.dtype == none.at_ns.dtype == np.int64


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """It is read twice, so pipes, topics and folders are not what can be evaluated."""
    os.mkfifo(tmp_path / "pipe")
    for path in ("-", "kafka://localhost:9092/t", str(tmp_path), str(tmp_path / "pipe")):
        with pytest.raises(UsageError, match="is no file; name one capture"):
            windows_of(path, CaptureSettings(), SECOND_NS)
    (tmp_path / "text.pcap").write_text("no capture at all, but a text")
    for name in ("text.pcap", "none.pcap"):
        with pytest.raises(SourceError, match=r".*; name a capture that can be read"):
            windows_of(str(tmp_path / name), CaptureSettings(), SECOND_NS)
