"""A pidfile: the number of this process, in a file that is locked for as long as it lives.

Laws:

1. The lock says whether somebody is there, not the number: a file that a crash left behind is taken
   over, whoever has its number by now.
2. Nothing but a pidfile is ever written to or removed: what holds anything else is refused.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from connectors.claim import explained
from core.errors import RunError, UsageError

_BYTES_MAX = 24
"""A number, white space, and one byte more than that."""


def hold_pidfile(path: Path) -> Callable[[], None]:
    """Write the number of this process into a file, and lock it.

    Args:
        path: The file; its folder must exist.

    Returns:
        A function that removes the file.

    Raises:
        RunError: A living process holds it, or it cannot be written.
        UsageError: It is something else than a pidfile.
    """
    try:
        number = _locked(path)
        os.ftruncate(number, 0)
        os.pwrite(number, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        raise explained(error, path) from error

    def remove() -> None:
        # Before the lock ends with the file: whoever waits for it opens another one.
        with suppress(OSError):
            path.unlink()
        os.close(number)

    return remove


def _locked(path: Path) -> int:
    """Return the open file when it is ours.

    Raises:
        OSError: It cannot be opened.
    """
    while True:
        with ExitStack() as stack:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            number = os.open(path, flags, 0o644)
            stack.callback(os.close, number)
            mine = os.fstat(number)
            _lock(path, number, _number_in(path, number, mine.st_mode))
            with suppress(FileNotFoundError):  # its holder removed it just now: once again
                if os.path.samestat(mine, path.stat(follow_symlinks=False)):
                    stack.pop_all()
                    return number


def _number_in(path: Path, number: int, mode: int) -> str:
    """Return the number in a pidfile; empty when there is none."""
    held = os.pread(number, _BYTES_MAX, 0) if stat.S_ISREG(mode) else b"?"
    if held and (not held.strip().isdigit() or len(held) == _BYTES_MAX):
        raise UsageError(f"{path}: not a pidfile; name another --pidfile")
    return held.decode().strip()


def _lock(path: Path, number: int, holder: str) -> None:
    try:
        fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        who = f"process {holder}" if holder else "another process"
        raise RunError(f"{path}: {who} runs with it; end that, or name another --pidfile") from (
            error
        )
