"""Captures for benchmarks, written by numpy in seconds and never kept in the project."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np

from core.capture import CaptureDecoder, Packets, sniff
from core.scenario import Traffic

HEADER = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262_144, 1)
COMPOSITE = "captures/kitsune-mirai/composite-dev.pcap.gz"
PORT = 9999


def composite(corpus: Path, packets: int, path: Path) -> int:
    """Write a real host trace over and over, each time later; return its packets."""
    raw = gzip.decompress((corpus / COMPOSITE).read_bytes())
    buf = np.frombuffer(bytearray(raw), np.uint8)
    state = sniff(raw[:64])
    assert not isinstance(state, str), state
    found = Packets.empty(1_000_000)
    CaptureDecoder(state, 262_144).decode(buf, state.offset, buf.size, found)
    count = found.count
    record = found.start[:count] - state.record_len
    words = np.frombuffer(raw, np.uint8)[state.offset :].copy()
    at = record - state.offset
    span = int((found.at_ns[count - 1] - found.at_ns[0]) // 1_000_000_000) + 1
    seconds = (found.at_ns[:count] // 1_000_000_000).astype(np.uint32)
    written = 0
    with path.open("wb") as out:
        out.write(raw[: state.offset])
        for turn in range(-(-packets // count)):
            later = (seconds + np.uint32(turn * span)).astype("<u4").view(np.uint8).reshape(-1, 4)
            for i in range(4):
                words[at + i] = later[:, i]
            out.write(words.tobytes())
            written += count
    return written


def _records(payloads: np.ndarray, at_ns: np.ndarray, source: np.ndarray) -> bytes:
    """Wrap equally long UDP payloads in Ethernet and IPv4; checksums are left at zero."""
    count, size = payloads.shape
    length = 14 + 20 + 8 + size
    rows = np.zeros((count, 16 + length), np.uint8)
    head = np.zeros((count, 4), "<u4")
    head[:, 0], head[:, 1] = at_ns // 1_000_000_000, at_ns % 1_000_000_000
    head[:, 2] = head[:, 3] = length
    rows[:, :16] = head.view(np.uint8).reshape(count, 16)
    frame = bytearray(42)
    frame[12:14] = b"\x08\x00"
    frame[14:24] = struct.pack(">BBHHHBB", 0x45, 0, 28 + size, 0, 0, 64, 17)
    frame[30:34] = bytes([10, 255, 255, 254])
    frame[34:42] = struct.pack(">HHHH", 40_000, PORT, 8 + size, 0)
    rows[:, 16 : 16 + 42] = np.frombuffer(bytes(frame), np.uint8)
    rows[:, 42:46] = source.astype(">u4").view(np.uint8).reshape(count, 4)
    rows[:, 58:] = payloads
    return rows.tobytes()


def unique_sources(packets: int, path: Path) -> int:
    """Write packets of which each has a source address of its own, 200,000 a second."""
    with path.open("wb") as out:
        out.write(HEADER)
        for begin in range(0, packets, 500_000):
            number = np.arange(begin, min(begin + 500_000, packets))
            payload = np.zeros((number.size, 22), np.uint8)
            at_ns = 1_767_225_600_000_000_000 + number * 5_000
            out.write(_records(payload, at_ns, (0x0A000000 + number).astype(np.uint32)))
    return packets


def device_frames(packets: int, path: Path) -> int:
    """Write frames of 1,000 devices as the simulator plans them, 200,000 a second."""
    traffic = Traffic(
        "steady", 1000, 200_000.0, packets / 200_000, np.random.default_rng(1),
        1_767_225_600_000_000_000,
    )  # fmt: skip
    written = 0
    with path.open("wb") as out:
        out.write(HEADER)
        for plan in traffic.slices():
            # Payloads of one length at a time keep numpy's rows equal; order within a slice of
            # time is by time all the same.
            blocks: dict[int, bytes] = {}
            for size in np.unique(plan.length).tolist():
                rows = np.flatnonzero(plan.length == size)
                payload = plan.arena[plan.start[rows][:, None] + np.arange(size)]
                source = (0x0A010000 + plan.device[rows]).astype(np.uint32)
                blocks[size] = _records(payload, plan.at_ns[rows], source)
            whole = np.zeros(len(plan), np.int64)
            whole[:] = plan.length + 58
            end = np.cumsum(whole)
            joined = np.empty(int(end[-1]), np.uint8)
            for size, block in blocks.items():
                rows = np.flatnonzero(plan.length == size)
                place = (end[rows] - size - 58)[:, None] + np.arange(size + 58)
                joined[place] = np.frombuffer(block, np.uint8).reshape(-1, size + 58)
            out.write(joined.tobytes())
            written += len(plan)
    return written


def corpus() -> Path | None:
    """Return the folder of real captures, if there is one."""
    folder = os.environ.get("PENSTOCK_CORPUS")
    return Path(folder) if folder else None
