"""The unit of systemd: its command line is one of ours, and its times fit the settings."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from core.sections import KafkaSettings
from flows.cli import app

UNIT = Path(__file__).resolve().parent.parent / "deploy" / "penstock.service"


@pytest.fixture(scope="module")
def unit() -> dict[str, str]:
    """Return the directives of all sections; what is given twice is joined by a blank."""
    found: dict[str, str] = {}
    for name, value in re.findall(r"^([A-Z]\w+)=(.*)$", UNIT.read_text(), re.MULTILINE):
        found[name] = f"{found[name]} {value}" if name in found else value
    return found


def test_the_command_exists(unit: dict[str, str]) -> None:
    """What is started is `penstock run ingest` with options it has."""
    _, run, ingest, *rest = shlex.split(unit["ExecStart"])
    command = typer.main.get_command(app)
    for word in (run, ingest):
        command = command.commands[word]  # type: ignore[attr-defined]  # a group has some
    known = {option for each in command.params for option in each.opts}
    assert {word for word in rest if word.startswith("-")} <= known


def test_it_is_told_and_tells(unit: dict[str, str]) -> None:
    """The protocol is that of `connectors.supervisor`, and a reload is the signal we hear."""
    assert unit["Type"] == "notify"
    assert unit["NotifyAccess"] == "main"
    assert unit["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert "AF_UNIX" in unit["RestrictAddressFamilies"]
    assert unit["RestartPreventExitStatus"] == "2"


def test_its_times_fit(unit: dict[str, str]) -> None:
    """A stop is given longer than a run takes to deliver the rest."""
    assert int(unit["TimeoutStopSec"]) > KafkaSettings().shutdown_s
    assert int(unit["TimeoutStartSec"]) > int(unit["WatchdogSec"]) > KafkaSettings().connect_s


def test_it_has_no_rights_it_does_not_need(unit: dict[str, str]) -> None:
    """No user of the machine, no capability, and nothing to write to but its own folders."""
    assert unit["DynamicUser"] == unit["NoNewPrivileges"] == "yes"
    assert unit["ProtectSystem"] == "strict"
    assert unit["AmbientCapabilities"] == unit["CapabilityBoundingSet"] == ""
    assert unit["SystemCallFilter"] == "@system-service ~@privileged"
    # The kernels over packets are compiled while it runs.
    assert unit["MemoryDenyWriteExecute"] == "no"
