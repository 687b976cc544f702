"""Live runs for tests: a command that receives on loopback, and what is sent to it."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from core.frame import encode_frame
from tests.flows.runs import PATIENCE_S, Done, start
from tests.netns import Namespace

RECEIVING = re.compile(r"udp (?:\[([^\]]+)\]|([^:]+)):(\d+): receiving|packet (\S+): capturing")


@dataclass
class LiveRun:
    """A command that receives.

    Attributes:
        process: The process.
        places: Address and port of each of its sockets, or interface and 0, in order.
    """

    process: subprocess.Popen[str]
    places: list[tuple[str, int]] = field(default_factory=list)
    _lines: list[str] = field(default_factory=list)
    _ended: bool = False
    _came: threading.Condition = field(default_factory=threading.Condition)
    _reader: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._came:
                self._lines.append(line)
                found = RECEIVING.search(line)
                if found:
                    place = found[1] or found[2] or found[4]
                    self.places.append((place, int(found[3] or 0)))
                self._came.notify_all()
        with self._came:
            self._ended = True
            self._came.notify_all()

    def wait_for(self, sockets: int) -> None:
        """Wait until so many sockets receive."""
        with self._came:
            done = self._came.wait_for(
                lambda: len(self.places) >= sockets or self._ended, PATIENCE_S
            )
        assert done, "never received"
        assert len(self.places) >= sockets, "".join(self._lines)

    def send(self, *payloads: bytes, place: int = 0) -> None:
        """Send datagrams to one of its sockets, from one port."""
        host, port = self.places[place]
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            for payload in payloads:
                sender.sendto(payload, (host, port))

    def stop(self, number: signal.Signals = signal.SIGINT) -> Done:
        """Send a signal, and wait for the end."""
        self.process.send_signal(number)
        return self.end()

    def end(self) -> Done:
        """Wait for the end."""
        assert self.process.stdout is not None
        out = self.process.stdout.read()
        code = self.process.wait(timeout=PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return Done(code, out, "".join(self._lines))


@contextmanager
def live(
    *arguments: str | Path, cwd: Path, sockets: int = 1, where: Namespace | None = None,
    env: dict[str, str] | None = None,
) -> Iterator[LiveRun]:  # fmt: skip
    """Yield `penstock run ingest` with these arguments, once so many of its sockets receive."""
    command = ["-m", "flows.cli", "run", "ingest", *arguments, "--json"]
    process = start(command, cwd, env, prefix=where.execute([]) if where is not None else [])
    with followed(process, sockets) as run:
        yield run


@contextmanager
def followed(process: subprocess.Popen[str], sockets: int) -> Iterator[LiveRun]:
    """Yield a process that was started, once so many of its sockets receive; kill it at the end."""
    run = LiveRun(process)
    try:
        run.wait_for(sockets)
        yield run
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=PATIENCE_S)
        run._reader.join(PATIENCE_S)
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


def frames(count: int, device: str = "dev-1", first: int = 0) -> list[bytes]:
    """Return well-formed device frames, numbered on."""
    return [encode_frame(device, first + i, b'{"v":%d}' % i) for i in range(count)]
