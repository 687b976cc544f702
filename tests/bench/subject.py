"""A process under measurement: it listens on a UDP port, and ends with whoever started it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.kafka.broker import LEASH

PATIENCE_S = 60.0


class Subject:
    """One of them, with a folder of its own.

    Attributes:
        folder: Where it writes what it says: `stdout`, `stderr`.
        port: Where it listens: one that nobody had when it was chosen.
        pid: The number of its process.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            asked.bind(("127.0.0.1", 0))
            self.port = int(asked.getsockname()[1])

    def start(self, command: Sequence[str]) -> None:
        """Start the process."""
        leash = (sys.executable, "-ISE", str(LEASH), str(os.getpid()))
        with (
            (self.folder / "stdout").open("wb") as out,
            (self.folder / "stderr").open("wb") as said,
        ):
            self._process = subprocess.Popen(
                [*leash, *command], stdin=subprocess.DEVNULL, stdout=out, stderr=said
            )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def said(self) -> str:
        """What it said about itself, the head of each file."""
        files = (self.folder / name for name in ("stderr", "said", "failed"))
        return "\n".join(path.read_text(errors="replace")[:2000] for path in files if path.exists())
