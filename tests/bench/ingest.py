"""One `penstock run ingest` of our own for a benchmark: UDP → JSON → Kafka, on a free port.

Settings are the defaults, but for the rate of the dam, which lets all pass, and the name of the
topic.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from core.topics import TELEMETRY
from tests.bench.rsyslog import free_port

PATIENCE_S = 60.0


class Ingest:
    """A live run with a folder of its own.

    Attributes:
        port: Where it listens.
        pid: The number of its process.
        summary: What it printed, once it has ended.
    """

    def __init__(self, folder: Path, servers: str, topic: str) -> None:
        folder.mkdir(parents=True)
        self.port, self._folder = free_port(), folder
        self.summary: dict[str, Any] = {}
        settings = folder / "penstock.toml"
        settings.write_text(
            "[dam]\nrate_hz = 1000000\nburst = 1000000\n"
            f'[kafka.topics]\n"{TELEMETRY}" = "{topic}"\n'
        )
        command = ["-m", "flows.cli", "run", "ingest", "--udp", f"127.0.0.1:{self.port}",
                   "--sink", f"kafka://{servers}", "--config", str(settings), "--json"]  # fmt: skip
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, *command], stdin=subprocess.DEVNULL, stdout=out, stderr=said
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
            return
        if text := (self._folder / "stdout").read_text():
            self.summary = json.loads(text)

    @property
    def said(self) -> str:
        """What it said about itself."""
        return (self._folder / "stderr").read_text(errors="replace")[:2000]
