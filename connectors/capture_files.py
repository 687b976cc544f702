"""Capture files on disk or standard input: found, opened, inflated, put in order.

Law: a path that cannot be replayed is named with its reason and skipped; only what the user asked
for by name, or what looks like a capture by its name, counts as unreadable. Other files in a
folder (notes, labels) are passed over and only counted.
"""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np

from core.capture import CaptureDecoder, CaptureState, Packets, Status, sniff
from core.errors import SourceError

STDIN = "-"
HEAD_BYTES = 65_536
"""Bytes of the uncompressed file that make up its identity."""
SUFFIXES = (".pcap", ".pcapng", ".cap", ".dmp", ".ntar", ".pcap.gz", ".pcapng.gz", ".cap.gz")

Stream = io.BufferedReader | gzip.GzipFile

# What a damaged, encrypted or vanished file raises while it is read or inflated.
READ_ERRORS = (OSError, EOFError, zlib.error)


class Rewound(io.RawIOBase):
    """A stream with its first bytes put back in front; for standard input, which cannot seek."""

    def __init__(self, head: bytes, rest: Stream) -> None:
        super().__init__()
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        """Return `True`; see `io.IOBase`."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # narrower than Buffer
        """Read what is there without waiting for the buffer to fill; see `io.RawIOBase`."""
        view = memoryview(buffer)
        if self._head:
            count = min(len(self._head), len(view))
            view[:count] = self._head[:count]
            self._head = self._head[count:]
            return count
        chunk = self._rest.read1(len(view))
        view[: len(chunk)] = chunk
        return len(chunk)


@dataclass(slots=True)
class CaptureFile:
    """One capture that was found readable.

    Attributes:
        path: Path as given, or `-`.
        state: Decoder state at its first packet record.
        first_ns: Time of its first packet, ns since the epoch; -1 when it holds none.
        source: Identity: a hash of the first 64 KiB of its uncompressed content (`uint64`).
        fingerprint: `(bytes on disk, modification time in ns, source)`, to notice a change.
        stream: Standard input, already open at its first byte; `None` for files.
    """

    path: str
    state: CaptureState
    first_ns: int
    source: int
    fingerprint: tuple[int, int, int]
    stream: Rewound | None = None


@dataclass(slots=True)
class Listing:
    """The captures of a replay in replay order, and what could not be read."""

    files: list[CaptureFile] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    passed_over: int = 0


def open_stream(file: CaptureFile) -> Stream | Rewound:
    """Open a capture at the first byte of its uncompressed content.

    Raises:
        SourceError: It is gone, or may not be read.
    """
    if file.stream is not None:
        return file.stream
    try:
        return _inflate(Path(file.path).open("rb"))
    except OSError as error:
        raise SourceError(f"{file.path}: {error.strerror}; restore it and start again") from error


def list_captures(paths: tuple[str, ...], packet_bytes_max: int) -> Listing:
    """Find the captures that paths name and order them by first packet, then path.

    Args:
        paths: Files, folders (searched with everything below them), `-` for standard input.
        packet_bytes_max: See `CaptureDecoder`.

    Returns:
        Readable files in replay order, and a reason for each that is not.
    """
    listing = Listing()
    for given in paths:
        if given == STDIN:
            _add(listing, STDIN, packet_bytes_max, named=True)
        elif Path(given).is_dir():
            for path in sorted(p for p in Path(given).rglob("*") if p.is_file()):
                _add(listing, str(path), packet_bytes_max, named=path.name.endswith(SUFFIXES))
        else:
            _add(listing, given, packet_bytes_max, named=True)
    listing.files.sort(key=lambda f: (f.first_ns, f.path))
    return listing


def _add(listing: Listing, path: str, packet_bytes_max: int, *, named: bool) -> None:
    try:
        found = _examine(path, packet_bytes_max)
    except READ_ERRORS as error:
        found = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(found, CaptureFile):
        listing.files.append(found)
    elif named:
        listing.unreadable[path] = found
    else:
        listing.passed_over += 1


def _examine(path: str, packet_bytes_max: int) -> CaptureFile | str:
    """Read the head of a file; return the reason when it is no capture."""
    size = modified_ns = -1
    if path == STDIN:
        if sys.stdin is None or sys.stdin.isatty():
            return "standard input is a terminal; pipe a capture into it"
        stream = _inflate(sys.stdin.buffer)
        name = "standard input"
    else:
        name = path
        status = Path(path).stat()
        size, modified_ns = status.st_size, status.st_mtime_ns
        stream = _inflate(Path(path).open("rb"))
    try:
        head = _read_head(stream)
    except READ_ERRORS as error:
        head = b""
        if size != 0:
            return f"cannot be inflated: {error}"
    finally:
        if path != STDIN:
            stream.close()
    state = sniff(head)
    if isinstance(state, str):
        return state if name == path else f"{name}: {state}"
    source = int.from_bytes(blake2b(head, digest_size=8).digest(), "big")
    buf = np.frombuffer(bytearray(head), np.uint8)
    first = Packets.empty(1)
    decoder = CaptureDecoder(state, packet_bytes_max)
    status_after, _ = decoder.decode(buf, state.offset, len(head), first)
    if status_after == Status.DAMAGED and first.count == 0:
        return decoder.damage
    return CaptureFile(
        path=path,
        state=state,
        first_ns=int(first.at_ns[0]) if first.count else -1,
        source=source,
        fingerprint=(size, modified_ns, source),
        stream=Rewound(head, stream) if path == STDIN else None,
    )


def _inflate(raw: io.BufferedReader) -> Stream:
    """Wrap a stream in gzip when it begins as gzip does."""
    if raw.peek(2)[:2] == b"\x1f\x8b":
        inflating = gzip.GzipFile(fileobj=raw)
        inflating.myfileobj = raw  # so that closing one closes the other
        return inflating
    return raw


def _read_head(stream: Stream) -> bytes:
    """Read the first 64 KiB; what a truncated gzip still yields counts as the head."""
    parts: list[bytes] = []
    count = 0
    while count < HEAD_BYTES:
        try:
            part = stream.read1(HEAD_BYTES - count)
        except READ_ERRORS:
            if parts:
                break
            raise
        if not part:
            break
        parts.append(part)
        count += len(part)
    return b"".join(parts)
