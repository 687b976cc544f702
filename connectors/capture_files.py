"""Captures on disk or in a pipe: found, identified, put in order.

Laws:

1. A path that cannot be replayed is named with its reason and skipped; only what the user asked
   for by name, or what looks like a capture by its name, counts as unreadable. Other files in a
   folder (notes, labels) are passed over and only counted.
2. Of a folder only regular files are read, because a pipe in it may never have a writer. A pipe
   named by the user is read, once: it stays open from here on.
3. The identity of a capture is a hash of the head of its content, wherever the content comes from:
   compressed or not, from a file or a pipe, it yields the same records. Different files of one
   replay that begin alike are told apart by their size and their last bytes, too.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np

from connectors.capture_stream import STDIN, CaptureStream, explained, open_capture
from core.capture import (
    BLOCK_BYTES_MAX,
    HEAD_LEN,
    CaptureDecoder,
    CaptureState,
    Packets,
    Status,
    begins_as_capture,
    sniff,
)
from core.errors import SourceError

IDENTITY_BYTES = 4096
"""Bytes of the uncompressed content that make up its identity: few, because a pipe is replayed
only once they have come."""
TAIL_BYTES = 4096
"""Bytes at the end of a file that tell it from others with the same head; those of gzip hold the
checksum of all."""
SEARCH_BYTES_MAX = 2 * BLOCK_BYTES_MAX
"""How far into a file its first packet is looked for."""
SUFFIXES = (".pcap", ".pcapng", ".cap", ".dmp", ".ntar", ".pcap.gz", ".pcapng.gz", ".cap.gz")


@dataclass(slots=True)
class CaptureFile:
    """One capture that was found readable.

    Attributes:
        path: Path as given, or `-`.
        state: Decoder state at its first packet record.
        linktypes: Link types its head speaks of.
        first_ns: Time of its first packet, ns since the epoch; -1 when none was found.
        source: Identity (`uint64`); see law 3.
        head_len: Bytes of content that its hash is made of.
        fingerprint: `(bytes on disk, modification time in ns, hash of the head)`, to notice a
            change; the first two are -1 for what is no file.
        stream: A pipe, open at its first byte; `None` for files.
    """

    path: str
    state: CaptureState
    linktypes: frozenset[int]
    first_ns: int
    source: int
    head_len: int
    fingerprint: tuple[int, int, int]
    stream: CaptureStream | None = None


@dataclass(slots=True)
class Listing:
    """The captures of a replay in replay order, and what could not be read."""

    files: list[CaptureFile] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    passed_over: int = 0


def open_stream(file: CaptureFile, stopping: threading.Event) -> CaptureStream:
    """Open a listed capture at the first byte of its uncompressed content.

    Args:
        file: The capture; a pipe can be opened once.
        stopping: See `open_capture`.

    Raises:
        SourceError: It is gone, cannot be read, or is another one by now.
    """
    if file.stream is not None:
        return file.stream
    stream = open_capture(file.path, stopping)
    head = _read_on(stream, file.head_len)
    if stream.is_file and _hash(head) == file.fingerprint[2]:
        stream.unread(head)
        return stream
    stream.close()
    raise SourceError("was replaced while the replay ran")


def list_captures(
    paths: tuple[str, ...], packet_bytes_max: int, stopping: threading.Event
) -> Listing:
    """Find the captures that paths name and order them by first packet, then path.

    Args:
        paths: Files, pipes, folders (searched with everything below them), `-` for standard input.
        packet_bytes_max: See `CaptureDecoder`.
        stopping: See `open_capture`.

    Returns:
        Readable files in replay order, and a reason for each that is not.
    """
    listing = Listing()
    for given in paths:
        if stopping.is_set():
            break
        if given == STDIN:
            if any(f.path == STDIN for f in listing.files):
                continue
            _add(listing, STDIN, packet_bytes_max, stopping, named=True)
        elif _is_folder(given):
            for path in _walk(given, listing):
                if stopping.is_set():
                    break
                named = path.lower().endswith(SUFFIXES)
                if _is_file(path):
                    _add(listing, path, packet_bytes_max, stopping, named=named)
                elif named:
                    listing.unreadable[path] = "is no regular file; name it itself to have it read"
                else:
                    listing.passed_over += 1
        else:
            _add(listing, given, packet_bytes_max, stopping, named=True)
    listing.files.sort(key=lambda f: (f.first_ns, f.path))
    _tell_apart(listing.files)
    return listing


def _walk(folder: str, listing: Listing) -> list[str]:
    """Name everything below a folder that is no folder; links to folders are not followed."""

    def refused(error: OSError) -> None:
        listing.unreadable[str(error.filename)] = str(explained(error))

    found = [
        os.path.join(at, name)  # noqa: PTH118  os.walk speaks of strings, and many
        for at, _, names in os.walk(folder, onerror=refused)
        for name in names
    ]
    return sorted(found)


def _is_folder(path: str) -> bool:
    return stat.S_ISDIR(_mode(path))


def _is_file(path: str) -> bool:
    return stat.S_ISREG(_mode(path))


def _mode(path: str) -> int:
    """Return the mode of what a path leads to, 0 when it leads nowhere."""
    try:
        return os.stat(path).st_mode  # noqa: PTH116  a path may be no path at all (NUL)
    except (OSError, ValueError):
        return 0


def _add(
    listing: Listing, path: str, packet_bytes_max: int, stopping: threading.Event, *, named: bool
) -> None:
    try:
        stream = open_capture(path, stopping)
        keep = path == STDIN or not stream.is_file
        try:
            file = _examine(path, stream, packet_bytes_max)
            file.stream = stream if keep else None
        except SourceError:
            keep = False
            raise
        finally:
            if not keep:
                stream.close()
    except SourceError as error:
        if named or (_is_file(path) and _claims_to_be_one(path)):
            listing.unreadable[path] = str(error)
        else:
            listing.passed_over += 1
    else:
        listing.files.append(file)


def _claims_to_be_one(path: str) -> bool:
    """Tell whether a file that could not be read as a capture begins as one does."""
    try:
        with Path(path).open("rb") as stream:
            return begins_as_capture(stream.read(4))
    except OSError:
        return False


def _examine(path: str, stream: CaptureStream, packet_bytes_max: int) -> CaptureFile:
    """Read the head of a capture up to its first packet, and put it back."""
    head = _read(stream, HEAD_LEN)
    state = sniff(head)
    if isinstance(state, str):
        raise SourceError(state)
    head += _read_on(stream, IDENTITY_BYTES - len(head))
    source = _hash(head[:IDENTITY_BYTES])
    decoder = CaptureDecoder(state, packet_bytes_max)
    first, at = Packets.empty(1), state.offset
    while True:
        buf = np.frombuffer(bytearray(head), np.uint8)
        status, at = decoder.decode(buf, at, len(head), first)
        if status != Status.MORE or first.count or len(head) >= SEARCH_BYTES_MAX:
            break
        more = _read_on(stream, len(head))
        if not more:
            break
        head += more
    if decoder.damage and first.count == 0:
        raise SourceError(decoder.damage)
    stream.unread(head)
    is_file = stream.is_file
    size, modified_ns = stream.status.st_size, stream.status.st_mtime_ns
    return CaptureFile(
        path=path,
        state=state,
        linktypes=decoder.linktypes,
        first_ns=int(first.at_ns[0]) if first.count else -1,
        source=source,
        head_len=min(len(head), IDENTITY_BYTES),
        fingerprint=(size, modified_ns, source) if is_file else (-1, -1, source),
    )


def _hash(head: bytes) -> int:
    return int.from_bytes(blake2b(head, digest_size=8).digest(), "big")


def _tell_apart(files: list[CaptureFile]) -> None:
    """Give files with the same head identities of their own, unless they are the same all over."""
    alike = Counter(file.source for file in files)
    for file in files:
        if alike[file.source] > 1 and file.stream is None:
            try:
                with open_capture(file.path, threading.Event()) as stream:
                    tail = stream.tail(TAIL_BYTES)
            except SourceError:
                continue  # gone in between; whoever opens it next will say so
            size, _, head = file.fingerprint
            file.source = _hash(b"%d %d " % (head, size) + tail)


def _read(stream: CaptureStream, count: int) -> bytes:
    """Read `count` bytes, or fewer when the content ends before, well or badly."""
    data = bytearray(count)
    have = 0
    while have < count:
        try:
            got = stream.readinto(memoryview(data)[have:])
        except SourceError:
            if have == 0:
                raise
            break
        if got == 0:
            break
        have += got
    return bytes(data[:have])


def _read_on(stream: CaptureStream, count: int) -> bytes:
    """Read as `_read` does, with damage as an end: whoever replays the capture meets it again."""
    try:
        return _read(stream, max(0, count))
    except SourceError:
        return b""
