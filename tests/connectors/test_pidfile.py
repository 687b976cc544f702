"""A pidfile says which process runs, and keeps a second one from running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from connectors.pidfile import hold_pidfile
from core.errors import PenstockError, RunError, UsageError

HOLDER = """
import signal, sys
from pathlib import Path
from connectors.pidfile import hold_pidfile
remove = hold_pidfile(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.readline()
remove()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """Start a process that holds a pidfile until it is told to end."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_it_holds_the_number_and_goes(tmp_path: Path) -> None:
    """While a run lasts the file has its number; when it ends the file is gone."""
    path = tmp_path / "penstock.pid"
    remove = hold_pidfile(path)
    assert path.read_text() == f"{os.getpid()}\n"
    remove()
    assert not path.exists()


def test_a_living_one_is_not_taken_over(tmp_path: Path) -> None:
    """Two runs with one file: the second is told, in one line, the number of the first."""
    path = tmp_path / "penstock.pid"
    with holder(path) as first:
        with pytest.raises(RunError) as told:
            hold_pidfile(path)
        assert str(told.value).startswith(f"{path}: process {first.pid} runs with it")
        assert path.read_text() == f"{first.pid}\n"
        first.communicate("end\n")
    hold_pidfile(path)()


def test_a_stale_one_is(tmp_path: Path) -> None:
    """What a killed run left behind hinders nobody, though its number may live again."""
    path = tmp_path / "penstock.pid"
    with holder(path) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert path.read_text() == f"{first.pid}\n"
    remove = hold_pidfile(path)
    assert path.read_text() == f"{os.getpid()}\n"
    remove()
    path.write_text("1\n")
    hold_pidfile(path)()


@pytest.mark.parametrize("text", ["[dam]\nrate_hz = 5\n", "12 13", "1" * 30])
def test_nothing_else_is_written_to(tmp_path: Path, text: str) -> None:
    """A file that is no pidfile stays as it is."""
    path = tmp_path / "penstock.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match="not a pidfile"):
        hold_pidfile(path)
    assert path.read_text() == text


def test_what_cannot_be_a_file_is_refused(tmp_path: Path) -> None:
    """No folder, a folder, a link and a pipe: one line each, and nothing hangs."""
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "pipe")
    for path in ("missing/penstock.pid", ".", "link", "pipe"):
        with pytest.raises(PenstockError) as told:
            hold_pidfile(tmp_path / path)
        assert "\n" not in str(told.value)
    assert not (tmp_path / "elsewhere").exists()
