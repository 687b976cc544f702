"""Runs without the compiler, for the tests that hold kernels to their plain Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT, env=os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def printed(file: str) -> str:
    """Return what a test file prints when it is run as a program, in plain Python."""
    done = _run("-W", "error", file)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def rest_passes(file: str) -> None:
    """Let every test of a file pass in plain Python, but for the one that asks for it."""
    done = _run("-m", "pytest", "-q", "-p", "no:cacheprovider", file, "-k", "not plain_python")
    assert done.returncode == 0, done.stdout
