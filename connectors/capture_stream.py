"""The bytes of one capture, from a file or a pipe, inflated on the way.

Laws:

1. A read returns what is there: of a pipe whatever has come, of a file all that was asked for.
2. What was read before damage is returned before the damage is raised.
3. Waiting for a pipe ends within `POLL_MS` of being told to stop.

Python's `io` buffers nothing here: the lock of a buffered standard input aborts the interpreter
when it ends while a thread still waits for input.
"""

from __future__ import annotations

import errno
import io
import os
import select
import stat
import sys
import threading
from typing import Self

from connectors.inflate import MAGIC, Inflater
from core.errors import SourceError

STDIN = "-"
POLL_MS = 100
PIPE_BYTES = 64 << 10

_CURES = {
    errno.ENOENT: "check the path",
    errno.EACCES: "give this user the right to read it",
    errno.EPERM: "give this user the right to read it",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.EISDIR: "name a capture file",
}


def explained(error: OSError | ValueError) -> SourceError:
    """Return what the operating system complains of, with the cure; the path is not named."""
    code = getattr(error, "errno", None) or 0
    what = os.strerror(code) if code else str(error).partition("\n")[0]
    return SourceError(f"{what}; {_CURES[code]}" if code in _CURES else what)


def open_capture(path: str, stopping: threading.Event) -> CaptureStream:
    """Open a capture at the first byte of its uncompressed content.

    Args:
        path: A file or pipe, or `-` for standard input.
        stopping: Once set, whoever waits for a pipe or reads on in a file gets a `SourceError`.

    Raises:
        SourceError: It cannot be opened or read, or is a terminal; the path is not named.
    """
    try:
        if path == STDIN:
            # Closed standard input is `None`, a replaced one has no number.
            raw = io.FileIO(sys.stdin.fileno() if sys.stdin else -1, "rb", closefd=False)
        else:
            # Opened without waiting: a named pipe may have no writer yet (law 3).
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
            raw = io.FileIO(path, "rb", opener=lambda name, _: os.open(name, flags))
    except (OSError, ValueError) as error:
        if path == STDIN:
            raise SourceError("standard input cannot be read; pipe a capture into it") from error
        raise explained(error) from error
    try:
        return CaptureStream(raw, stopping)
    except SourceError:
        raw.close()
        raise


class CaptureStream:
    """Uncompressed content of a capture, read once from its beginning.

    Attributes:
        status: What the operating system said of the file when it was opened.
        is_file: Whether it can be opened and read again.
        at_byte: Bytes consumed of what is on disk or came through the pipe.
    """

    def __init__(self, raw: io.FileIO, stopping: threading.Event) -> None:
        """Take over an open file, and find out whether it is gzip; see `open_capture`."""
        self._raw, self._stopping = raw, stopping
        self.status = os.fstat(raw.fileno())
        self.is_file = stat.S_ISREG(self.status.st_mode)
        self.at_byte = 0
        self._poll = select.poll()
        self._poll.register(raw.fileno(), select.POLLIN)
        if raw.isatty():
            raise SourceError("is a terminal; pipe a capture into it")
        self._damage: SourceError | None = None
        self._inflater: Inflater | None = None
        self._ahead = b""
        while len(self._ahead) < len(MAGIC):
            more = self._take(len(MAGIC) - len(self._ahead))
            if not more:
                break
            self._ahead += more
        if self._ahead == MAGIC:
            self._inflater = Inflater(self._take, MAGIC)
            self._ahead = b""

    def readinto(self, view: memoryview) -> int:
        """Fill a buffer as far as law 1 says.

        Args:
            view: Writable bytes, at least one.

        Returns:
            Bytes read; 0 at the end.

        Raises:
            SourceError: What follows cannot be read; every later call raises it again.
        """
        have = 0
        while have < len(view):
            try:
                got = self._read_some(view[have:])
            except SourceError as error:
                self._damage = error
                if have == 0:
                    raise
                break
            have += got
            if got == 0 or not self.is_file:
                break
        return have

    def unread(self, data: bytes) -> None:
        """Put bytes back in front of what follows."""
        self._ahead = data + self._ahead

    def skip_to(self, offset: int) -> None:
        """Go forward to an offset of the uncompressed content of a stream not yet read from.

        Raises:
            SourceError: It cannot be read up to there.
        """
        if self.is_file and self._inflater is None and offset >= len(self._ahead):
            os.lseek(self._raw.fileno(), offset - len(self._ahead), os.SEEK_CUR)
            self.at_byte += offset - len(self._ahead)
            self._ahead = b""
            return
        scratch = memoryview(bytearray(1 << 20))
        while offset:
            got = self.readinto(scratch[: min(offset, len(scratch))])
            if got == 0:
                raise SourceError("ends before the recovered position")
            offset -= got

    def tail(self, count: int) -> bytes:
        """Return up to `count` bytes at the end of a file as they are on disk.

        Raises:
            SourceError: They cannot be read.
        """
        try:
            return os.pread(self._raw.fileno(), count, max(0, self.status.st_size - count))
        except OSError as error:
            raise explained(error) from error

    def close(self) -> None:
        """Close the file."""
        self._raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _read_some(self, view: memoryview) -> int:
        """Make one attempt at filling a buffer; return 0 at the end."""
        if self._ahead:
            data = self._ahead[: len(view)]
            self._ahead = self._ahead[len(data) :]
        elif self._damage is not None:
            raise self._damage
        elif self._inflater is None:
            return self._raw_into(view)
        else:
            data = self._inflater.read(len(view))
        view[: len(data)] = data
        return len(data)

    def _take(self, count: int) -> bytes:
        """Return up to `count` bytes as they are on disk; none at the end."""
        buffer = bytearray(count if self.is_file else min(count, PIPE_BYTES))
        return bytes(memoryview(buffer)[: self._raw_into(memoryview(buffer))])

    def _raw_into(self, view: memoryview) -> int:
        try:
            while True:
                if self.is_file and self._stopping.is_set():
                    raise SourceError("was stopped before more of it came")
                while not self.is_file and not self._poll.poll(POLL_MS):
                    if self._stopping.is_set():
                        raise SourceError("was stopped before more of it came")
                count = self._raw.readinto(view)
                if count is not None:
                    self.at_byte += count
                    return count
        except OSError as error:
            raise explained(error) from error
