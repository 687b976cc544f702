"""Standard error while the engine runs: ours to write to, not the engine's.

Bytewax is written in Rust. When a step raises, Rust prints a page about a panic before the error
reaches Python, where it becomes one line for the user. That page is held back; whatever else a
library wrote meanwhile is passed on when the run is over.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

FD = 2
PANIC = re.compile(rb"(?m)^thread '[^\n]*' (?:\(\d+\) )?panicked at .*", re.DOTALL)
"""A panic's report, and everything after it: other threads' reports of the same failure."""


@contextmanager
def engine_held_back() -> Iterator[None]:
    """Keep native code off standard error; Python's `sys.stderr` goes on as before."""
    try:
        is_ours = sys.stderr.fileno() == FD
    except (AttributeError, OSError, ValueError):
        is_ours = False
    if not is_ours:  # closed, or somebody else's, as in tests
        yield
        return
    before = sys.stderr
    before.flush()
    terminal = os.dup(FD)
    held = os.memfd_create("stderr")
    os.dup2(held, FD)
    sys.stderr = os.fdopen(
        os.dup(terminal), "w", buffering=1, encoding=before.encoding, errors=before.errors
    )
    try:
        yield
    finally:
        sys.stderr.close()
        sys.stderr = before
        os.dup2(terminal, FD)
        os.close(terminal)
        _pass_on(held)


def _pass_on(held: int) -> None:
    """Write what was held back, but for reports of panics."""
    with os.fdopen(held, "rb") as stream:
        stream.seek(0)
        rest = PANIC.sub(b"", stream.read())
    while rest:
        rest = rest[os.write(FD, rest) :]
