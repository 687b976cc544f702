"""Small file systems, for the tests of what happens when a disk is full."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def mount(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Mount something on a folder, or skip where no such command is installed."""
    if shutil.which("mount") is None:
        pytest.skip("a full disk needs mount(8), which is not installed")
    command = ["mount", *options, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@contextmanager
def small_disk_at(folder: Path, size: str) -> Iterator[Path]:
    """Lend a file system of a size, such as `256k`; skip where this user may not mount one."""
    folder.mkdir()
    done = mount(folder, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")
    if done.returncode != 0:
        pytest.skip(f"a full disk needs the right to mount: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
