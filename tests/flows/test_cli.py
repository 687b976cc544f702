"""The command line: results on one stream, lines for people on the other, codes that mean it."""

from __future__ import annotations

import os
import socket
import sys
import tomllib
from pathlib import Path
from typing import Protocol

import msgspec
import pytest

from flows import cli
from flows.summary import Summary
from tests.flows.runs import ROOT, Done, finish, penstock, records, start

HEAVY = {"numba", "numpy", "pyarrow", "bytewax", "river", "scapy", "rich", "prometheus_client"}


@pytest.fixture
def here(tmp_path: Path, capture: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder that holds the capture as a.pcap, without settings from outside."""
    (tmp_path / "a.pcap").symlink_to(capture)
    (tmp_path / "empty").mkdir()
    (tmp_path / "zero.pcap").touch()
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PENSTOCK_")]:
        monkeypatch.delenv(name)
    return tmp_path


class Asks(Protocol):
    """Calls the entry point in this process."""

    def __call__(self, *arguments: str) -> Done: ...


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Asks:
    """Return what runs a command line here, without the seconds it takes to import everything."""

    def asked(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["penstock", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        seen = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Done(code, seen.out, seen.err)

    return asked


REFUSED = [
    (["replay", "a.pcap", "--by", "hots"], 'capture.by: "hots" is refused; must be "device" or'),
    (
        ["replay", "a.pcap", "--port", "-1"],
        "capture.port: -1 is refused; must be integer, 0",
    ),
    (["replay", "a.pcap", "--port", "x"], "Invalid value for '--port'"),
    (["replay", "a.pcap", "--rate", "0"], "--rate: dam.rate_hz: 0 is refused"),
    (["replay", "a.pcap", "--rate", "-1"], "--rate: dam.rate_hz: -1 is refused"),
    (["replay", "a.pcap", "--rate", "nan"], "--rate: 'nan' is not a whole number; give one, or of"),
    (["replay", "a.pcap", "--rate", "1" * 30], "--rate: dam.rate_hz: 1111"),
    (["replay", "a.pcap", "--rate", "1" * 5000], "--rate: "),
    (["replay", "a.pcap", "--burst", "0"], "--burst: dam.burst: 0 is refused"),
    (["replay", "a.pcap", "--speed", "0"], "--speed: nothing would be read at 0"),
    (["replay", "a.pcap", "--speed", "-2"], "--speed: capture.speed: -2.0 is refused"),
    (["replay", "a.pcap", "--speed", "nan"], "--speed: capture.speed: NaN is refused"),
    (["replay", "a.pcap", "--speed", "1e999"], "--speed: capture.speed: Infinity is refused"),
    (["replay", "a.pcap", "--speed", "fast"], "--speed: 'fast' is not a number; give one, or max"),
    (["replay", "a.pcap", "--sink", "file:x"], "--sink: run.sink"),
    (["replay", "a.pcap", "--filter", "bogus foo"], "filter 'bogus foo': can't parse"),
    (
        ["replay", "a.pcap", "--filter", "x y", "--sink", "files:o", "--recovery", "r"],
        "filter 'x y'",
    ),
    (["replay", "a.pcap", "--scores", "s", "--recovery", "r"], "exclude one another"),
    (["replay", "-", "--recovery", "r"], "standard input (-) cannot be read again"),
    (["replay", "a.pcap", "--config", "no.toml"], "no.toml: cannot be read: No such file"),
    (["replay", ""], "PATH: run.paths"),
    (["replay", "a\0b"], "PATH: run.paths"),
    (["replay"], "Missing argument 'PATH…'; see penstock replay --help"),
    (["replay", "a.pcap", "--rat", "1"], "No such option: --rat"),
    (["replai", "a.pcap"], "No such command 'replai'"),
    (["config", "shwo"], "No such command 'shwo'"),
    (["simulate", "x.pcap", "--scenario", "fload"], "did you mean 'flood'"),
    (["simulate", "x.pcap", "--rate", "nan"], "rate_hz nan is out of bounds"),
]


@pytest.mark.parametrize(("arguments", "said"), REFUSED)
def test_what_makes_no_sense_is_one_line_and_code_2(
    here: Path, ask: Asks,
    arguments: list[str], said: str,
) -> None:  # fmt: skip
    """The flag is named with what it may be; nothing is printed as a result, nothing is made."""
    before = sorted(here.iterdir())
    done = ask(*arguments)
    assert done.code == 2
    assert done.line.startswith("penstock: ")
    assert said in done.line
    assert done.out == ""
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PENSTOCK_DAM_RATE", "1", "PENSTOCK_DAM_RATE: unknown setting; did you mean PENSTOCK_DA"),
        ("PENSTOCK_DAM_RATE_HZ", "x", "PENSTOCK_DAM_RATE_HZ: dam.rate_hz"),
        ("PENSTOCK_ANOMALY_DETECTOR", "foo", "anomaly.detector: 'foo' is unknown; want one of"),
        ("PENSTOCK_CAPTURE_FILTER", "port", "filter 'port': "),
    ],
)
def test_the_environment_is_refused_alike(
    here: Path, ask: Asks, monkeypatch: pytest.MonkeyPatch,
    name: str, value: str, said: str,
) -> None:  # fmt: skip
    """A variable of ours that is unknown or out of bounds ends the command with code 2."""
    monkeypatch.setenv(name, value)
    done = ask("replay", "a.pcap")
    assert (done.code, done.out) == (2, "")
    assert said in done.line


def test_a_file_of_settings_is_found_and_checked(
    here: Path, ask: Asks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`penstock.toml` is read, flags win over it, and unknown keys name the nearest known one."""
    (here / "penstock.toml").write_text('[capture]\nby = "host"\n[dam]\nburst = 7\n')
    shown = ask("config", "show")
    assert shown.code == 0
    table = tomllib.loads(shown.out)
    assert (table["capture"]["by"], table["dam"]["burst"]) == ("host", 7)
    assert "burst = 7  # penstock.toml" in shown.out
    assert ask("config", "check", "penstock.toml").out == "penstock.toml: ok\n"
    for flags, by in (((), "host"), (("--by", "device"), "device")):
        assert ask("replay", "a.pcap", *flags, "--json").summary["by"] == by
    (here / "penstock.toml").write_text("[dam]\nbrust = 7\n")
    for arguments in (("config", "check", "penstock.toml"), ("replay", "a.pcap")):
        done = ask(*arguments)
        assert done.code == 2
        assert "penstock.toml: dam.brust: unknown setting; did you mean dam.burst?" in done.line


@pytest.mark.parametrize(
    ("arguments", "code", "lines"),
    [
        (["a.pcap"], 0, 0),
        (["a.pcap", "--strict"], 0, 0),
        (["a.pcap", "zero.pcap"], 0, 1),
        (["a.pcap", "no.pcap", "--strict"], 1, 1),
        (["zero.pcap", "no.pcap"], 1, 2),
        (["empty"], 1, 1),
        (["a.pcap", "--filter", "udp port 1"], 0, 0),
    ],
)
def test_codes_say_whether_anything_was_read(
    here: Path, ask: Asks,
    arguments: list[str], code: int, lines: int,
) -> None:  # fmt: skip
    """Exit 0 if anything was read, 1 if nothing or, strictly, not all; always with the summary."""
    done = ask("replay", *arguments, "--json")
    assert done.code == code
    assert done.err.count("\n") == lines
    assert "Traceback" not in done.err
    summary = msgspec.convert(done.summary, Summary)
    assert summary.adds_up
    assert summary.files.unreadable == sum(name in arguments for name in ("no.pcap", "zero.pcap"))
    assert list(done.summary) == list(Summary.__struct_fields__)


def test_strictness_may_be_a_setting(
    here: Path, ask: Asks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`run.strict` counts like its flag."""
    monkeypatch.setenv("PENSTOCK_RUN_STRICT", "true")
    assert ask("replay", "a.pcap", "zero.pcap", "--json").code == 1


def test_without_json_people_get_a_table(here: Path, ask: Asks) -> None:
    """It names every count by reason and where the records lie."""
    done = ask("replay", "a.pcap", "--sink", "files:[b]out", "--rate", "200",
                 "--burst", "9")  # fmt: skip
    assert (done.code, done.err) == (0, "")
    for name in ("packets in", "ignored: fragment", "malformed: bad_magic", "passed", "packets/s",
                 "telemetry.readings.v1.dlq", "[b]out"):  # fmt: skip
        assert name in done.out
    assert records(here / "[b]out")


@pytest.mark.parametrize(
    ("sink", "said"), [("null", "nowhere: null sink"), ("embedded", "a broker now gone, read back")]
)
def test_people_are_told_that_nothing_stays(here: Path, ask: Asks, sink: str, said: str) -> None:
    """Counts by topic look alike whether or not anything was kept."""
    assert said in ask("replay", "a.pcap", "--sink", sink).out


def test_another_port_is_proposed_where_nothing_came_to_ours(here: Path, ask: Asks) -> None:
    """Headers that do not decode say nothing of ports; frames that do not, do."""
    advice = "name another --port"
    assert advice in ask("replay", "a.pcap", "--port", "8888").line
    assert advice not in ask("replay", "a.pcap").err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.pcap/s.npy", "a.pcap/s.npy"),
        ("/proc/s.npy", "/proc/s.npy"),
    ],
)
def test_scores_to_an_impossible_place_fail_first(
    here: Path, ask: Asks,
    name: str, said: str,
) -> None:  # fmt: skip
    """Before a packet is read, with the cure."""
    done = ask("replay", "a.pcap", "--scores", name)
    assert (done.code, done.out) == (1, "")
    assert said in done.line
    assert "give --scores" in done.line


def test_a_port_in_use_is_named(here: Path, ask: Asks, monkeypatch: pytest.MonkeyPatch) -> None:
    """So is a host that does not exist; both before a packet is read."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = str(holder.getsockname()[1])
        places = (("127.0.0.1", taken), ("no-host", "9"), ("x" * 300, "9"), ("192.0.2.1", "9"))
        for host, port in places:
            monkeypatch.setenv("PENSTOCK_METRICS_HOST", host)
            monkeypatch.setenv("PENSTOCK_METRICS_PORT", port)
            done = ask("replay", "a.pcap")
            assert (done.code, done.out) == (1, "")
            assert done.line.startswith(f"penstock: metrics.port {port} on ")


def test_nothing_heavy_is_loaded_for_help() -> None:
    """`--help`, `--version` and a refused flag answer before numpy or the engine is imported."""
    for arguments in (["--help"], ["replay", "--help"], ["--version"], ["replay"]):
        done = finish(start(["-X", "importtime", "-m", "flows.cli", *arguments], ROOT))
        modules = {line.rsplit("|")[-1].strip() for line in done.err.splitlines() if "|" in line}
        assert not {m for m in modules if m.partition(".")[0] in HEAVY - {"rich"}}
        assert "rich.console" not in modules
        assert "typer" in modules


def test_the_version_is_the_projects(tmp_path: Path) -> None:
    """A clone knows its version without being installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    done = penstock("--version", cwd=tmp_path)
    assert (done.code, done.out) == (0, f"penstock {project['version']}\n")
    assert done.err == ""


def test_help_names_the_commands(ask: Asks) -> None:
    """Asked for, help is a result; in place of a missing command it is a message, and code 2."""
    asked_for = ask("--help")
    assert (asked_for.code, asked_for.err) == (0, "")
    missing = ask()
    assert (missing.code, missing.out) == (2, "")
    for name in ("replay", "simulate", "config", "--version"):
        assert name in asked_for.out
        assert name in missing.err
