"""Recordings: what cannot be written is said in one line, and no packets are a capture, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.recording import Recording
from core.errors import SinkError
from core.link import LINK_ETHERNET, LINK_RAW
from core.wire import pcap_head
from tests.connectors.test_live import packets


def test_an_empty_recording_is_a_capture(tmp_path: Path) -> None:
    """A run that saw nothing leaves a file that can be read."""
    path = tmp_path / "a.pcap"
    recording = Recording(path)
    recording.close()
    recording.close()
    assert path.read_bytes() == pcap_head(LINK_RAW)


def test_one_link_type_a_file(tmp_path: Path) -> None:
    """Packets of another link type are refused, because the file could not say so."""
    recording = Recording(tmp_path / "a.pcap")
    first, second = packets(1), packets(2)
    first.linktype[:] = LINK_ETHERNET
    recording.write(first, None)
    with pytest.raises(SinkError, match="one link type"):
        recording.write(second, None)
    recording.close()


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    """A folder, and a disk that is full, are named with the cure."""
    with pytest.raises(SinkError, match="cannot be recorded to: Is a directory"):
        Recording(tmp_path)
    full = Recording(Path("/dev/full"))
    with pytest.raises(SinkError, match="No space left"):
        full.write(packets(1), None)
    full.close()
