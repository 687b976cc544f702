"""Settings read again: some change at once, others are named, and a bad file changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.settings import load
from connectors.supervisor import Supervisor
from core.controls import Retune
from core.sections import Settings
from flows.reload import Reload, differences


class Told(Supervisor):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__({})
        self.states: list[str] = []

    def reloading(self) -> None:
        """Note it."""
        self.states.append("reloading")

    def reloaded(self) -> None:
        """Note it."""
        self.states.append("reloaded")


class Case:
    """A run whose settings lie in a file, and a flag."""

    def __init__(self, folder: Path, text: str = "") -> None:
        self.file = folder / "penstock.toml"
        self.file.write_text(text)
        self.said: list[str] = []
        self.given: list[Retune] = []
        self.told = Told()
        self.reload = Reload(self.read(), self.read, self.given.append, self.told, self.said.append)

    def read(self) -> Settings:
        """Read the file, under the flag."""
        return load(str(self.file), [("--burst", {"dam": {"burst": 7}})], env={}).settings

    def says(self, text: str) -> str:
        """Reload with this file; return the line."""
        self.file.write_text(text)
        self.said.clear()
        self.told.states.clear()
        self.reload()
        assert self.told.states == ["reloading", "reloaded"]
        (line,) = self.said
        assert "\n" not in line
        return line


def test_a_rate_changes_and_the_rest_is_named(tmp_path: Path) -> None:
    """What needs a restart is named until there is one; a flag is stronger than the file."""
    case = Case(tmp_path)
    assert case.says("") == "reloaded: nothing changed"
    assert case.says("[dam]\nrate_hz = 500\nburst = 9\n[kafka]\nlinger_ms = 5\n") == (
        "reloaded: dam.rate_hz = 500 (was 10000); needs a restart: kafka.linger_ms"
    )
    assert case.given == [Retune(rate_hz=500, burst=7)]
    assert case.says("[dam]\nrate_hz = 500\nqueue_len_max = 3\n[kafka]\nlinger_ms = 5\n") == (
        "reloaded: needs a restart: dam.queue_len_max, kafka.linger_ms"
    )
    assert case.says("") == "reloaded: dam.rate_hz = 10000 (was 500)"
    assert case.given[1:] == [Retune(rate_hz=10_000, burst=7)]


@pytest.mark.parametrize("text", ["[dam]\nrate_hz = 0\n", "[dam\n", "[dam]\nrte_hz = 5\n"])
def test_a_bad_file_changes_nothing(tmp_path: Path, text: str) -> None:
    """Not even what is right in it."""
    case = Case(tmp_path)
    line = case.says("[dam]\nburst = 3\n" + text.replace("[dam]\n", ""))
    assert line.startswith("not reloaded, everything stays as it was: ")
    assert str(case.file) in line
    assert case.given == []
    assert case.says("") == "reloaded: nothing changed"


def test_a_file_that_is_gone_changes_nothing(tmp_path: Path) -> None:
    """A file that was named must be there."""
    case = Case(tmp_path)
    case.file.unlink()
    case.reload()
    assert "not reloaded" in case.said[0]
    assert case.given == []


def test_a_dam_that_is_off_stays_off(tmp_path: Path) -> None:
    """Its rate is taken note of, and nobody is sent one."""
    case = Case(tmp_path, off := "[dam]\nenabled = false\n")
    assert case.says(f"{off}rate_hz = 5\n") == (
        "reloaded: dam.rate_hz = 5 (was 10000) (the dam is off)"
    )
    assert case.says("[dam]\nrate_hz = 5\n") == "reloaded: needs a restart: dam.enabled"
    assert case.given == []


def test_differences_are_named_in_order() -> None:
    """All sections are compared."""
    flags = [("t", {"metrics": {"port": 1}, "capture": {"port": 2}})]
    assert differences(Settings(), load(None, flags, env={}).settings) == [
        "capture.port", "metrics.port"
    ]  # fmt: skip
