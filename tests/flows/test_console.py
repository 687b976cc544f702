"""What a command writes where: a bar on terminals only, one object for programs, whole or not."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from connectors.clock import monotonic_ns
from connectors.stderr import engine_held_back
from core import kernels
from flows import carry
from flows.replay import replay
from tests.flows.runs import Done, environment, finish, penstock, settings, start

ESCAPE = "\x1b"


def on_a_terminal(arguments: list[str | Path], cwd: Path) -> Done:
    """Run the command line with standard error on a terminal, and the rest in pipes."""
    ours, theirs = pty.openpty()
    with start(["-m", "flows.cli", *arguments], cwd, {"TERM": "xterm"}, stderr=theirs) as process:
        os.close(theirs)
        assert process.stdout is not None
        shown = bytearray()
        try:
            while piece := os.read(ours, 65_536):
                shown += piece
        except OSError:  # how Linux says that the last writer has gone
            pass
        out = process.stdout.read()
    os.close(ours)
    return Done(process.returncode, out, shown.decode())


def test_a_bar_moves_on_a_terminal_only(capture: Path, tmp_path: Path) -> None:
    """It is drawn on standard error, wiped at the end, and says how many packets were read."""
    arguments: list[str | Path] = ["replay", capture, "--json", "--speed", "8"]
    seen = on_a_terminal([*arguments, "none.pcap"], tmp_path)
    assert seen.code == 0
    assert seen.summary["files"] == {"read": 1, "truncated": 0, "unreadable": 1}
    assert ESCAPE in seen.err
    assert re.search(r"[\d,]+ packets", seen.err)
    assert "penstock: none.pcap: No such file" in seen.err
    piped = finish(start(["-m", "flows.cli", *arguments], tmp_path))
    assert (piped.code, piped.err) == (0, "")
    assert piped.summary["packets_in"] == seen.summary["packets_in"]


def test_standard_input_is_a_capture(capture: Path, tmp_path: Path) -> None:
    """`-` reads a pipe; what is empty or closed is named, and nothing was read."""
    done = []
    for name in (str(capture), os.devnull):
        with Path(name).open("rb") as stream:
            command = ["-m", "flows.cli", "replay", "-", "--json"]
            done.append(finish(start(command, tmp_path, stdin=stream)))
    assert (done[0].code, done[0].err) == (0, "")
    assert done[0].summary["packets_in"] > 6_000
    assert done[1].code == 1
    assert done[1].line.startswith("penstock: -: ")


@pytest.mark.parametrize("arguments", [["config", "show"], ["--help"], ["--version"]])
def test_a_result_that_nobody_takes_is_a_failure(arguments: list[str], tmp_path: Path) -> None:
    """A full disk and a closed pipe end with code 1 and at most one line."""
    reader, writer = os.pipe()
    os.close(reader)
    with Path("/dev/full").open("wb") as full, os.fdopen(writer, "wb") as closed:
        for stdout in (full, closed):
            command = [sys.executable, "-m", "flows.cli", *arguments]
            done = subprocess.run(command, cwd=tmp_path, env=environment(), stdout=stdout,
                                  stderr=subprocess.PIPE, text=True, check=False)  # fmt: skip
            assert done.returncode == 1
            assert done.stderr.count("\n") <= 1
            assert "Traceback" not in done.stderr


def test_closed_streams_do_no_harm(capture: Path, tmp_path: Path) -> None:
    """Started without standard error and input, a replay still gives its result."""
    line = 'exec "$0" -m flows.cli replay "$1" no.pcap --json <&- 2>&-'
    command = ["bash", "-c", line, sys.executable, str(capture)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["files"]["read"] == 1


def test_a_closed_standard_output_is_one_line(tmp_path: Path) -> None:
    """Started without standard output, a command fails and says so."""
    command = ["bash", "-c", 'exec "$0" -m flows.cli config show >&-', sys.executable]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "penstock: standard output: closed; give results a place\n"


def test_a_table_is_shown_in_any_character_set(capture: Path, tmp_path: Path) -> None:
    """What the character set of standard output lacks is escaped."""
    done = penstock("replay", capture, cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert (done.code, done.err) == (0, "")
    assert "\\u2192 telemetry.readings.v1" in done.out


def test_only_the_engines_report_is_held_back(tmp_path: Path) -> None:
    """Python's own lines appear at once, other native output at the end, panics never."""
    program = (
        "import os, sys\n"
        "from connectors.stderr import engine_held_back\n"
        "with engine_held_back():\n"
        "    os.write(2, b'native\\n')\n"
        "    print('ours', file=sys.stderr)\n"
        "    os.write(2, b\"\\nthread 'worker' panicked at src/a.rs:1:2:\\nBox<dyn Any>\\n\")\n"
        "os.write(2, b'after\\n')\n"
    )
    done = finish(start(["-c", program], tmp_path))
    assert (done.code, done.err.split()) == (0, ["ours", "native", "after"])
    with engine_held_back():  # here standard error is pytest's
        sys.stderr.write("")


def test_seconds_include_what_was_compiled(capture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run for which kernels had to be compiled began when compiling did."""
    late_ns = [0]
    monkeypatch.setattr("flows.replay.monotonic_ns", lambda: monotonic_ns() + late_ns[0])
    monkeypatch.setattr(
        "flows.run.load_kernels", lambda: late_ns.append(late_ns.pop() + 100 * 10**9)
    )
    paced = settings(capture, capture={"speed": 1e6})
    assert replay(paced, lambda _: None).seconds >= 100
    assert replay(settings(capture), lambda _: None).seconds < 100


def test_compiling_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    """The first kernel that has to be compiled is announced; nothing listens afterwards."""
    with carry.announcing_compilation() as compiled:
        for listener in kernels.on_compile:
            for name in ("first", "second"):
                listener(name)
    assert compiled == ["first", "second"]
    assert capsys.readouterr().err.count("compiling kernels") == 1
    assert kernels.on_compile == []
