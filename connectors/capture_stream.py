"""The bytes of one capture, from a file or a pipe, inflated on the way.

Laws:

1. A read returns what is there: from a pipe whatever has come, from a file as much as was asked for.
2. Waiting for a pipe ends within `POLL_MS` of being told to stop.
3. What was read before damage is returned before the damage is raised.

Nothing here is buffered by Python's `io`: its locks abort the interpreter when it ends while a
thread still waits for standard input.
"""

from __future__ import annotations

import io
import os
import select
import stat
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

from connectors.inflate import MAGIC, Inflater
from core.errors import SourceError

POLL_MS = 100
PIPE_BYTES = 64 << 10

_CURES = {
    "ENOENT": "check the path",
}


class CaptureStream:
    """Uncompressed content of a capture, read once from its beginning.

    Attributes:
        status: What the operating system says of the file.
        is_file: Whether it can be opened and read again.
    """

    def __init__(self, raw: io.FileIO, stopping: threading.Event) -> None:
        """Take over an open file and find out whether it is gzip.

        Args:
            raw: File, pipe or terminal; closed with this stream.
            stopping: Once set, whoever waits for a pipe gets a `SourceError`.

        Raises:
            SourceError: It is a terminal, or cannot be read.
        """
        self._raw, self._stopping = raw, stopping
        self.status = os.fstat(raw.fileno())
        self.is_file = stat.S_ISREG(self.status.st_mode)
        self._poll = select.poll()
        self._poll.register(raw.fileno(), select.POLLIN)
        self._ahead = b""
        self._inflater: Inflater | None = None
        self._taken = 0
        self._failure = ""
        self._begin()

    def _begin(self) -> None:
        if self._raw.isatty():
            raise SourceError("is a terminal; pipe a capture into it")
        head = b""
        while len(head) < len(MAGIC) and (more := self._take(len(MAGIC) - len(head))):
            head += more
        if head == MAGIC:
            self._inflater = Inflater(self._take_gzip)
            self._first = head
        else:
            self._ahead = head
