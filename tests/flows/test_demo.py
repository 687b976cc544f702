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

import msgspec
import pytest
from rich.console import Console

from connectors.read_back import Message
from core.errors import RunError
from core.reasons import MALFORMED
from core.topics import FINDINGS, TELEMETRY, TELEMETRY_DLQ
from flows import demo, demo_pages, simulate
from flows.summary import Summary
from tests.flows import runs

ROOT = Path(__file__).resolve().parents[2]
TOPICS = (TELEMETRY, FINDINGS, TELEMETRY_DLQ)
COLUMNS = 80


@dataclass(frozen=True)
class Given:
    """One demonstration: where it wrote, what it printed, what it returned."""

    folder: Path
    screen: str
    summary: Summary

    def command(self, word: str) -> list[str]:
        """Return the arguments of a command line it printed."""
        line = re.search(rf"^\$ \S+ ({word} .*)$", self.screen, re.MULTILINE)
        assert line, self.screen
        return line[1].split()

    def page(self, title: str) -> str:
        """Return what it printed under a title."""
        after = self.screen.split(title)[1]
        return re.split(r"^\d  ", after, maxsplit=1, flags=re.MULTILINE)[0]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """Give the demonstration once, on a terminal of 80 columns that is a string."""
    folder = tmp_path_factory.mktemp("demo")
    out = Console(file=io.StringIO(), width=COLUMNS, highlight=False)
    summary = demo.run(folder, out, Console(file=io.StringIO()))
    assert isinstance(out.file, io.StringIO)
    return Given(folder, out.file.getvalue(), summary)


@pytest.fixture(scope="module")
def records(given: Given, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    """Return what the command line writes into files where the demonstration had a broker."""
    sink = tmp_path_factory.mktemp("records")
    arguments = given.command("replay")
    assert arguments[-2:] == ["--sink", "embedded"]
    _command([*arguments[:-1], f"files:{sink}"])
    return {topic: lines for (topic, _), lines in runs.records(sink).items()}


def _command(arguments: list[str]) -> str:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")},
        capture_output=True,
        check=True,
        text=True,
    ).stdout


def test_there_is_something_to_see(given: Given) -> None:
    """Every kind of loss happens: ignored, malformed in every way, queued, dropped twice over."""
    summary = given.summary
    made = {reason.name.lower() for reason in simulate.REASON_OF.values() if reason in MALFORMED}
    assert summary.packets_in >= 20_000
    assert set(summary.malformed) == made
    assert set(summary.ignored) == {"not_udp", "other_port", "fragment"}
    assert set(summary.dropped) == {"device_rate", "queue_full"}
    assert summary.queued_max == 1000
    assert summary.rows["scored"] > 0
    assert summary.rows["unscored"] == 0


def test_the_account_adds_up_on_the_screen(given: Given) -> None:
    """The printed table says what the summary says, and the numbers of its lines add up."""
    block = given.page("packets in ")
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


def test_what_was_planted_is_found(given: Given, records: dict[str, list[bytes]]) -> None:
    """The herd, the flooding and the drifting device are each among the findings."""
    about = {json.loads(line)["resources"][0]["name"] for line in records[FINDINGS]}
    assert set(demo.planted().labels) <= about
    page = given.page("what the model found")
    assert "not found" not in page
    assert all(label in page for label in demo.planted().labels.values())


def test_all_that_was_delivered_was_consumed(given: Given, records: dict[str, list[bytes]]) -> None:
    """The page says of each topic that as many were consumed as delivered, as files would hold."""
    assert given.summary.volatile
    assert given.summary.delivered == {topic: len(lines) for topic, lines in records.items()}
    page = given.page("what a consumer")
    for topic, count in given.summary.delivered.items():
        assert re.search(rf"^{topic} +{count:,} +{count:,}  all of them *$", page, re.MULTILINE)
    assert "volatile: true" in page


def test_what_a_consumer_sees_is_what_was_sent(
    given: Given, records: dict[str, list[bytes]]
) -> None:
    """Each value on the page is a record of that topic, with its key, its time and its headers."""
    page = given.page("what a consumer")
    for topic in TOPICS:
        block = re.split(r"^(?=\S*\.v1)", page.split(f"\n{topic}\n")[1], flags=re.MULTILINE)[0]
        shown = [_fields(message) for message in block.split("\n\n") if message]
        assert len(shown) == (1 if topic == FINDINGS else 2)
        for fields in shown:
            whole, _, cut = fields["value"].partition(" … (")
            [line] = [line for line in records[topic] if line.decode().startswith(whole)]
            assert not cut or cut == f"{len(line):,} bytes)"
            assert f"ce_type={topic}" in fields["headers"]
            assert "content-type=application/json" in fields["headers"]
            assert re.fullmatch(r"partition \d  offset \d+  2026-01-01T\d\d:.*Z", fields["at"])
            if topic == TELEMETRY:
                assert fields["key"] == json.loads(line)["id"]


def _fields(message: str) -> dict[str, str]:
    """Put the rows of a message together by their labels."""
    fields: dict[str, str] = {}
    label = ""
    for row in message.splitlines():
        label = row[:9].strip() or label
        fields[label] = fields.get(label, "") + row[9:]
    return fields


def test_the_screen_fits(given: Given) -> None:
    """No line is wider than the terminal but the commands, and paths, which are there to copy."""
    wide = [
        line
        for line in given.screen.splitlines()
        if len(line) > COLUMNS and not line.startswith("$ ") and str(given.folder) not in line
    ]
    assert not wide


def test_the_printed_commands_do_the_same(given: Given, tmp_path: Path) -> None:
    """Whoever types the two command lines gets the same capture and the same account."""
    capture = tmp_path / "again.pcap"
    simulate, replay = given.command("simulate"), given.command("replay")
    _command(["simulate", str(capture), *simulate[2:]])
    assert capture.read_bytes() == (given.folder / "mixed.pcap").read_bytes()
    summary = msgspec.json.decode(_command([*replay, "--json"]))
    assert runs.timeless(summary) == runs.told(given.summary)


def test_it_knows_when_a_simulated_capture_begins() -> None:
    """The time the pages count from is that of the simulator."""
    assert demo.START_NS == simulate.START_NS


def test_a_simulation_that_fails_is_said_in_one_line(tmp_path: Path) -> None:
    """What the simulation complains of is the error of the demonstration."""
    wrong = ["simulate", str(tmp_path / "none" / "x.pcap")]
    with demo._running(wrong) as process, pytest.raises(RunError, match=r"none.*No such file") as e:
        demo._result(process)
    assert "penstock" not in str(e.value)
    assert "\n" not in str(e.value)


def test_only_its_own_files_are_removed(tmp_path: Path) -> None:
    """A second demonstration starts without a former capture, and spares what is not its."""
    ours, theirs = tmp_path / "mixed.pcap", tmp_path / "thesis.txt"
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
    info = {"types": ["anomalous_key"]}
    found = [f | {"finding_info": info | {"uid": n}} for n, f in enumerate([*[wrong] * 4, new])]
    out = Console(file=io.StringIO(), width=COLUMNS, highlight=False)
    demo_pages.print_findings(out, found, demo.planted())
    assert isinstance(out.file, io.StringIO)
    screen = " ".join(out.file.getvalue().split())
    assert "1.0 s dev-000001 9 anomalous_key rate 9 packets/s, +8.5σ" in screen
    assert "… and 2 more" in screen
    assert "4 steady, 1 of the herd" in screen
    assert "planted and not found: herd, flood, drift" in screen


def test_what_did_not_arrive_is_said(given: Given) -> None:
    """A topic of which less was consumed than delivered is shown so."""
    out = Console(file=io.StringIO(), width=COLUMNS, highlight=False)
    seen = demo_pages.Consumed()
    told = given.summary.finding_records
    for _ in range(told):
        seen(Message(FINDINGS, 0, 0, 0, None, {}, b"{}"))
    demo_pages.print_delivery(out, given.summary, seen)
    assert isinstance(out.file, io.StringIO)
    assert re.search(rf"{FINDINGS} +{told} +{told}  all of them", out.file.getvalue())
    assert re.search(rf"{TELEMETRY} +[\d,]+ +0  not equal", out.file.getvalue())


def _about(finding: dict[str, Any]) -> object:
    return finding["resources"], finding["finding_info"]["types"], finding["start_time"]


def test_the_readme_shows_real_records(given: Given, records: dict[str, list[bytes]]) -> None:
    """The account and each record the README shows are those of the demonstration, byte for byte.

    A finding is compared by what it is about and when: its scores change with the model.
    """
    readme = (ROOT / "README.md").read_text()
    shown = re.findall(r"^\{.*\}$", readme, re.MULTILINE)
    exact = {line.decode() for lines in records.values() for line in lines}
    findings = [_about(json.loads(line)) for line in records[FINDINGS]]
    account = re.findall(r"^```text\n(packets in.*?)^```", readme, re.DOTALL | re.MULTILINE)
    assert len(account) == 1
    assert not [line for line in account[0].splitlines() if line not in given.screen]
    pages = re.findall(r"^```text\n(topic|at) (.*?)^```", readme, re.DOTALL | re.MULTILINE)
    assert [first for first, _ in pages] == ["topic", "at"]
    for first, rest in pages:
        wanted = f"{first} {rest}".splitlines()
        screen = [line.rstrip() for line in given.screen.splitlines()]
        at = screen.index(wanted[0])
        assert screen[at : at + len(wanted)] == wanted
    assert len(shown) >= len(TOPICS)
    for line in shown:
        record = json.loads(line)
        assert line in exact or ("class_uid" in record and _about(record) in findings), line
