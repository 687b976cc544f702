"""The commands that speak to brokers: what they print, and what never reaches a terminal."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest
import typer

from core.config import render_toml
from core.errors import PenstockError, SettingError, UsageError
from core.sections import KafkaSettings, Settings
from core.topics import FINDINGS, TELEMETRY, TELEMETRY_DLQ, TOPICS
from flows.kafka_cli import dlq_app, topics_app
from tests.conftest import Kafka
from tests.flows.runs import ROOT, Done
from tests.kafka.letters import HOSTILE, MIXED, READING, record, write
from tests.kafka.renamed import renamed
from tests.kafka.topics import create, read

HEAVY = {"confluent_kafka", "msgspec", "numba", "numpy", "pyarrow", "rich", "river"}


class Asks(Protocol):
    """Gives a command, with the settings of the test, and returns what it says."""

    def __call__(self, app: typer.Typer, *arguments: str) -> Done: ...


@pytest.fixture
def names(kafka: Kafka, request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Names of topics that are this test's own, by the names they have here."""
    with renamed(kafka.servers, request.node.nodeid) as found:
        yield found.topics


@pytest.fixture
def ask(names: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Asks:
    """Return what gives a command here."""
    file = tmp_path / "kafka.toml"
    settings = Settings(kafka=KafkaSettings(topics=names))
    file.write_text(render_toml(settings, {}))

    def asked(app: typer.Typer, *arguments: str) -> Done:
        code = app([*arguments, "--config", str(file)], standalone_mode=False)
        seen = capsys.readouterr()
        for text in (seen.out, seen.err):  # whatever is printed can be
            assert all(line.isprintable() for line in text.split("\n"))
        return Done(code or 0, seen.out, seen.err)

    return asked


def as_json(done: Done) -> Any:
    """What a command printed, which is one object."""
    assert done.code == 0
    assert done.out.count("\n") == 1
    return msgspec.json.decode(done.out)


@pytest.fixture
def letters(kafka: Kafka, names: dict[str, str]) -> str:
    """The address of a topic that holds one of every kind."""
    create(kafka.servers, names[TELEMETRY_DLQ])
    write(kafka.servers, names[TELEMETRY_DLQ], MIXED)
    return f"kafka://{kafka.servers}/{names[TELEMETRY_DLQ]}"


@pytest.mark.parametrize(
    ("what", "heavy"),
    [("flows.kafka_cli", HEAVY), ("flows.replay, flows.hosted", {"confluent_kafka"})],
)
def test_nothing_is_imported_that_is_not_needed(what: str, heavy: set[str]) -> None:
    """Help comes before anything that speaks to brokers; so do runs that need none."""
    script = f"import sys, {what}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not heavy & {name.split(".")[0] for name in done.stdout.split()}


def test_topics_are_created_once(kafka: Kafka, names: dict[str, str], ask: Asks) -> None:
    """Each topic is said to be created, then to be there, with what differs."""
    create(kafka.servers, names[TELEMETRY], partitions=3)
    done = ask(topics_app, "create", f"kafka://{kafka.servers}")
    lines = done.out.splitlines()
    assert len(lines) == len(TOPICS)
    there = f"{names[TELEMETRY]}: there already, 3 partitions; partitions 3, not 8"
    assert f"{there}; message.timestamp.type CreateTime, not LogAppendTime" in lines
    assert f"{names[FINDINGS]}: created, 2 partitions" in lines
    found = as_json(ask(topics_app, "create", f"kafka://{kafka.servers}", "--json"))["topics"]
    assert [each["created"] for each in found] == [False] * len(TOPICS)
    assert {each["layout"]["name"] for each in found} == set(names.values())


def test_topics_are_described(kafka: Kafka, names: dict[str, str], ask: Asks) -> None:
    """A table for people, an object for programs; a topic that is missing is said to be."""
    create(kafka.servers, names[TELEMETRY], retention_ms="-1")
    write(kafka.servers, names[TELEMETRY], [b"x"] * 1234)
    table = ask(topics_app, "describe", f"kafka://{kafka.servers}").out
    [row] = [line for line in table.splitlines() if f" {names[TELEMETRY]} " in line]
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [
        names[TELEMETRY], "1", "1", "for ever", "CreateTime", "delete", "1,048,588",
        "1,234", "device id or sender",
    ]  # fmt: skip
    [row] = [line for line in table.splitlines() if f" {names[FINDINGS]} " in line]
    assert "missing" in row
    found = as_json(ask(topics_app, "describe", f"kafka://{kafka.servers}", TELEMETRY, "--json"))
    [only] = found["topics"]
    assert (only["records"], only["retention_ms"]) == (1234, -1)
    with pytest.raises(UsageError, match=r"no such topic: .*; did you mean .*telemetry"):
        ask(topics_app, "describe", f"kafka://{kafka.servers}", f"{names[TELEMETRY]}s")
    with pytest.raises(UsageError, match=r"no such topic: kwxkwx; leave it out to see Penstock's$"):
        ask(topics_app, "describe", f"kafka://{kafka.servers}", "kwxkwx")


def test_dead_letters_are_listed(
    kafka: Kafka, names: dict[str, str], letters: str, ask: Asks
) -> None:
    """Counts by topic and reason; no topic is something else than no letters."""
    table = ask(dlq_app, "list", f"kafka://{kafka.servers}").out
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines()]
    for row in (
        [names[TELEMETRY_DLQ], "", "7"],
        ["", "topic_unknown", "2"],
        ["", "(unreadable)", "2"],
        [names[FINDINGS + ".dlq"], "no such topic", ""],
    ):
        assert row in cells
    found = as_json(ask(dlq_app, "list", f"kafka://{kafka.servers}", "--json"))["topics"]
    assert found[0]["reasons"]["record_invalid"] == 1
    assert found[1]["records"] is None


def test_dead_letters_are_shown(letters: str, ask: Asks) -> None:
    """Packets in hexadecimal, values as text, and nothing that could paint a terminal."""
    found = as_json(ask(dlq_app, "show", letters, "--json"))["records"]
    packet, refused, _, cut, _, hostile, empty = found
    assert packet == {
        "at": "2026-01-01T00:00:00.005937259Z", "reason": "body_not_json",
        "source": "00000000000000ff", "ordinal": 0, "bytes": 100, "head": bytes(range(64)).hex(),
        "partition": 0, "offset": 0,
    }  # fmt: skip
    assert (refused["topic"], refused["key"], refused["whole"]) == (TELEMETRY, "dev-1", True)
    assert refused["head"] == READING.decode()
    assert refused["error"] == r"Broker: no \U0000001b[31m"
    assert (cut["whole"], cut["bytes"]) == (False, len(READING) + 70_000)
    assert hostile["reason"] == empty["reason"] == "(unreadable)"
    assert hostile["head"] == HOSTILE[:64].decode(errors="replace")
    text = ask(dlq_app, "show", letters, "--limit", "2").out
    assert r"head      \U0000001b[31m red" in text
    assert text.count("offset") == 2
    text = ask(dlq_app, "show", letters, "--reason", "record_invalid").out
    assert text.startswith("at        2026-01-01T00:00:00.005937259Z\nreason    record_invalid\n")
    none = ask(dlq_app, "show", letters, "--reason", "tcp_header")
    assert (none.out, none.err.endswith("no dead letters of reason tcp_header\n")) == ("", True)


def test_dead_letters_are_put_back(
    kafka: Kafka, names: dict[str, str], letters: str, ask: Asks
) -> None:
    """The account is printed, and what helps those that cannot be put back."""
    trial = ask(dlq_app, "replay", letters, "--dry-run")
    assert f"would be put back into {TELEMETRY} │ 2" in trial.out
    done = ask(dlq_app, "replay", letters)
    assert done.code == 0
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.out.splitlines()]
    for row in (
        ["records read", "7"], [f"put back into {TELEMETRY}", "2"],
        ["cannot be put back: value_cut", "1"], ["packets that do not decode", "1"],
        ["unreadable", "2"],
    ):  # fmt: skip
        assert row in cells
    assert f"decode: 1; penstock replay {letters} reads them again" in done.err
    assert "longer than a dead letter holds: 1; replay the captures they came from" in done.err
    assert len(read(kafka.servers, names[TELEMETRY])) == 2
    assert done.err.endswith("puts the same records back again, with the same ce_id\n")
    assert "back again" not in trial.err
    found = as_json(ask(dlq_app, "replay", letters, "--json", "--reason", "record_invalid"))
    again = read(kafka.servers, names[TELEMETRY])
    assert (len(again), len({dict(each.headers)["ce_id"] for each in again})) == (3, 2)
    assert (found["replayed"], found["skipped"]) == ({TELEMETRY: 1}, 4)


def test_what_is_refused_again_fails_the_command(
    kafka: Kafka, names: dict[str, str], ask: Asks
) -> None:
    """A record that does not arrive makes the exit code 1, and the table says why."""
    create(kafka.servers, names[TELEMETRY], max_message_bytes="100")
    create(kafka.servers, names[TELEMETRY_DLQ])
    write(kafka.servers, names[TELEMETRY_DLQ], [record(1)])
    done = ask(dlq_app, "replay", f"kafka://{kafka.servers}/{TELEMETRY_DLQ}")
    assert done.code == 1
    assert "FAILED: Broker: Message size too large │ 1" in done.out


@pytest.mark.parametrize(
    ("app", "arguments", "line"),
    [
        (topics_app, ["create", "127.0.0.1:1"], "not an address of Kafka; want kafka://HOST:PORT"),
        (topics_app, ["create", "kafka://a:1/t"], "/t does not belong there"),
        (dlq_app, ["show", "kafka://a:1"], "names no topic; want kafka://HOST:PORT"),
        (dlq_app, ["replay", "kafka://a:1/x"], "x: not a dead-letter topic; these are: "),
        (dlq_app, ["replay", "kafka://a:1/x", "--to", "b"], "b: not an address of Kafka"),
        (
            dlq_app,
            ["show", "kafka://a:1/x", "--reason", "body_not_jsn"],
            "--reason: body_not_jsn is none; did you mean body_not_json?",
        ),
        (dlq_app, ["show", "kafka://a:1/x", "--reason", "kwx"], "kwx is none; these are: record_"),
    ],
)
def test_what_is_asked_wrongly(
    app: typer.Typer, arguments: list[str], line: str, ask: Asks
) -> None:
    """One line says what is wrong, before anything is done."""
    with pytest.raises(UsageError) as caught:
        ask(app, *arguments)
    assert line in str(caught.value)


def test_settings_are_checked_first(tmp_path: Path) -> None:
    """What no client can be built with is refused before a broker is spoken to."""
    file = tmp_path / "kafka.toml"
    file.write_text('[kafka.options]\nacks = "1"\n')
    for app, command in ((topics_app, "describe"), (dlq_app, "list")):
        with pytest.raises(SettingError, match=r"would let records be lost"):
            app([command, "kafka://127.0.0.1:1", "--config", str(file)], standalone_mode=False)


def test_nobody_to_ask(ask: Asks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a broker every command fails with one line that names the cause."""
    monkeypatch.setenv("PENSTOCK_KAFKA_CONNECT_S", "1")
    for app, arguments in (
        (topics_app, ["create", "kafka://127.0.0.1:1"]),
        (dlq_app, ["list", "kafka://127.0.0.1:1"]),
    ):
        with pytest.raises(PenstockError, match=r"\(Connection refused\); start one") as caught:
            ask(app, *arguments)
        assert caught.value.exit_code == 1
