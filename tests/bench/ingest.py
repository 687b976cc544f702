"""One `penstock run ingest` of our own for a benchmark: UDP → JSON → Kafka, on a free port.

Settings are the defaults, but for the rate of the dam, which lets all pass, the name of the topic,
and what a case says of the section `kafka`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from core.topics import TELEMETRY
from tests.bench.subject import Subject


class Ingest(Subject):
    """A live run."""

    def __init__(self, folder: Path, servers: str, topic: str, kafka: dict[str, str]) -> None:
        super().__init__(folder)
        settings = folder / "penstock.toml"
        given = "".join(f'{name} = "{value}"\n' for name, value in kafka.items())
        settings.write_text(
            "[dam]\nrate_hz = 1000000\nburst = 1000000\n"
            f'[kafka]\n{given}[kafka.topics]\n"{TELEMETRY}" = "{topic}"\n'
        )
        self.start([
            sys.executable, "-m", "flows.cli", "run", "ingest",
            "--udp", f"127.0.0.1:{self.port}", "--sink", f"kafka://{servers}",
            "--config", str(settings), "--json",
        ])  # fmt: skip
