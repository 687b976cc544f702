"""The claim on an output folder: one process at a time, and whose files they are."""

from __future__ import annotations

import errno
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from connectors.claim import Claim, Start, explained, recovery_id
from core.errors import SinkError

ROOT = Path(__file__).parents[2]


def test_start_file_comes_back_as_written(tmp_path: Path) -> None:
    """A start file is read as it was written, replaced whole, and forgotten."""
    claim = Claim(tmp_path, "0003", durable=True)
    assert claim.read() is None
    for first in ({}, {"telemetry.readings.v1": 7, "b": 1}):
        claim.write(Start(owner="someone", first=first))
        assert claim.read() == Start(owner="someone", first=first)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".0003.lock", ".0003.start"]
    claim.forget()
    claim.forget()
    assert claim.read() is None
    claim.release()
    claim.release()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"owner":1,"first":{}}'])
def test_a_strange_start_file_is_refused(tmp_path: Path, content: bytes) -> None:
    """What is not a start file is named, not guessed at."""
    (tmp_path / ".0000.start").write_bytes(content)
    claim = Claim(tmp_path, "0000", durable=False)
    with pytest.raises(SinkError, match=r"\.0000\.start: not a start file; choose another folder"):
        claim.read()
    claim.release()


def test_two_processes_cannot_write_one_part(tmp_path: Path) -> None:
    """While a process holds a part another is refused it, but may have the next one."""
    code = (
        "import sys; from pathlib import Path; from connectors.claim import Claim\n"
        "claim = Claim(Path(sys.argv[1]), '0000', durable=False)\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(SinkError, match="another process writes here"):
            Claim(tmp_path, "0000", durable=False)
        Claim(tmp_path, "0001", durable=False).release()
        other.kill()
    Claim(tmp_path, "0000", durable=False).release()


def test_a_recovery_store_keeps_its_name(tmp_path: Path) -> None:
    """A store has one name whoever asks, and one made anew in its place has another."""
    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(recovery_id, [tmp_path] * 32))
    assert len(names) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["store-id"]
    (tmp_path / "store-id").unlink()
    assert recovery_id(tmp_path) not in names
    with pytest.raises(SinkError, match="No such file or directory"):
        recovery_id(tmp_path / "missing")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO, None])
def test_errors_are_one_line_with_file_and_cure(code: int | None) -> None:
    """Whatever the system says, the user reads one line that begins with the file."""
    error = OSError(code, "many\nlines") if code is not None else OSError("many\nlines")
    text = str(explained(error, Path("/out/x")))
    assert text.startswith("/out/x: ")
    assert "; " in text
    assert "\n" not in text
