"""A command that ends with the process that started it, however that ends.

`python leash.py PARENT_PID COMMAND…` becomes the command, which the kernel kills when its parent
is gone: the JVM of a test that was killed with `kill -9` is killed too.

Source: Linux, prctl(2), PR_SET_PDEATHSIG; kept across execve(2).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Put on the leash, and become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it died before we were on the leash
        sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
