"""The demonstration does what it says, and the README shows what it prints."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from core.reasons import MALFORMED
from core.topics import FINDINGS, TELEMETRY, TELEMETRY_DLQ
from flows import demo
from flows.simulate import REASON_OF
from flows.summary import Summary

ROOT = Path(__file__).resolve().parents[2]
TOPICS = (TELEMETRY, FINDINGS, TELEMETRY_DLQ)
COLUMNS = 80


@dataclass(frozen=True)
class Given:
    """One demonstration: where it wrote, what it printed, what it returned."""

    folder: Path
    screen: str
    summary: Summary

    def records(self, topic: str) -> list[bytes]:
        return demo.lines(self.folder / "records", topic)

    def command(self, word: str) -> list[str]:
        """Return the arguments of a command line it printed."""
        line = re.search(rf"^\$ \S+ ({word} .*)$", self.screen, re.MULTILINE)
        assert line, self.screen
        return line[1].split()


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """Give the demonstration once, on a terminal of 80 columns that is a string."""
    folder = tmp_path_factory.mktemp("demo")
    out = Console(file=io.StringIO(), width=COLUMNS, highlight=False)
    summary = demo.run(folder, out, Console(file=io.StringIO()))
    assert isinstance(out.file, io.StringIO)
    return Given(folder, out.file.getvalue(), summary)


def _command(arguments: list[str]) -> None:
    subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")},
        capture_output=True,
        check=True,
    )


def test_there_is_something_to_see(given: Given) -> None:
    """Every kind of loss happens: ignored, malformed in every way, queued, dropped twice over."""
    summary = given.summary
    made = {reason.name.lower() for reason in REASON_OF.values() if reason in MALFORMED}
    assert summary.packets_in >= 20_000
    assert set(summary.malformed) == made
    assert set(summary.ignored) == {"not_udp", "other_port", "fragment"}
    assert set(summary.dropped) == {"device_rate", "queue_full"}
    assert summary.queued_max == 1000
    assert summary.rows["scored"] > 0
    assert summary.rows["unscored"] == 0


def test_the_account_adds_up_on_the_screen(given: Given) -> None:
    """The printed table says what the summary says, and the numbers of its lines add up."""
    block = given.screen.split("packets in ")[1].split("3  what")[0]
    row = r"^(?:([−=]) (\w+))?\s+(?:[a-z0-9 ]+?)?\s+([\d,]+)(?:  |$)"
    rows = re.findall(row, block, re.MULTILINE)
    sign, signs, numbers = "", [], []
    for mark, _, number in rows:
        sign = mark or sign
        signs.append(sign)
        numbers.append(int(number.replace(",", "")))
    lost = sum(n for s, n in zip(signs, numbers, strict=True) if s == "−")
    assert given.summary.packets_in - lost == numbers[-1] == given.summary.passed
    assert numbers[signs.index("=")] == given.summary.frames


def test_what_was_planted_is_found(given: Given) -> None:
    """The herd, the flooding and the drifting device are each among the findings."""
    about = {json.loads(line)["resources"][0]["name"] for line in given.records(FINDINGS)}
    assert set(demo.planted().labels) <= about
    assert "not found" not in given.screen


def test_the_screen_fits(given: Given) -> None:
    """No line is wider than the terminal but the commands, and paths, which are there to copy."""
    wide = [
        line
        for line in given.screen.splitlines()
        if len(line) > COLUMNS and not line.startswith("$ ") and str(given.folder) not in line
    ]
    assert not wide


def test_the_printed_commands_do_the_same(given: Given, tmp_path: Path) -> None:
    """Whoever types the two command lines gets the same capture and the same records."""
    capture, sink = tmp_path / "again.pcap", tmp_path / "records"
    simulate, replay = given.command("simulate"), given.command("replay")
    _command(["simulate", str(capture), *simulate[2:]])
    assert capture.read_bytes() == (given.folder / "mixed.pcap").read_bytes()
    assert replay[-1] == f"files:{given.folder / 'records'}"
    _command([*replay[:-1], f"files:{sink}"])
    for topic in TOPICS:
        assert demo.lines(sink, topic) == given.records(topic)


def test_only_its_own_files_are_removed(tmp_path: Path) -> None:
    """A second demonstration starts with an empty folder of records, and spares what is not its."""
    ours, theirs = tmp_path / "records" / "x" / "y.jsonl", tmp_path / "thesis.txt"
    ours.parent.mkdir(parents=True)
    ours.touch()
    theirs.touch()
    assert demo.fresh(tmp_path) == tmp_path
    assert not ours.exists()
    assert theirs.exists()


def test_a_folder_that_cannot_be_written_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing can be written the demonstration goes to a temporary folder."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    chosen = demo.fresh(tmp_path / "file" / "demo")
    assert chosen.parent == tmp_path
    assert (chosen / "demo.toml").read_text() == demo.SETTINGS


def test_what_was_missed_and_what_was_found_in_vain_is_said() -> None:
    """A model that finds only what was not planted is shown to have done so."""
    features = [{"feature": "rate", "value": 9.0, "unit": "packets/s", "distance": 8.5}]
    wrong = {
        "start_time": 1_767_225_601_000,
        "count": 9,
        "resources": [{"name": "dev-000001"}],
        "evidences": [{"data": {"features": features}}],
    }
    new = wrong | {"resources": [{"name": "new-000301"}]}
    out = Console(file=io.StringIO(), width=COLUMNS, highlight=False)
    demo.print_findings(out, [*(dict(wrong) for _ in range(4)), new], demo.planted())
    assert isinstance(out.file, io.StringIO)
    screen = " ".join(out.file.getvalue().split())
    assert "1.0 s dev-000001 9 rate 9 packets/s, +8.5σ" in screen
    assert "… and 2 more" in screen
    assert "4 steady, 1 of the herd" in screen
    assert "planted and not found: herd, flood, drift" in screen


def _about(finding: dict[str, Any]) -> object:
    return finding["resources"], finding["finding_info"]["types"], finding["start_time"]


def test_the_readme_shows_real_records(given: Given) -> None:
    """The account and each record the README shows are those of the demonstration, byte for byte.

    A finding is compared by what it is about and when: its scores change with the model.
    """
    readme = (ROOT / "README.md").read_text()
    shown = re.findall(r"^\{.*\}$", readme, re.MULTILINE)
    exact = {line.decode() for topic in TOPICS for line in given.records(topic)}
    findings = [_about(json.loads(line)) for line in given.records(FINDINGS)]
    account = re.findall(r"^```text\n(packets in.*?)^```", readme, re.DOTALL | re.MULTILINE)
    assert len(account) == 1
    assert not [line for line in account[0].splitlines() if line not in given.screen]
    assert len(shown) >= len(TOPICS)
    for line in shown:
        record = json.loads(line)
        assert line in exact or ("class_uid" in record and _about(record) in findings), line
