"""Datagrams of other formats than the device frame, from a capture to their records."""

from __future__ import annotations

import json
import signal
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.errors import SourceError, UsageError
from core.topics import FINDINGS, TELEMETRY, TELEMETRY_DLQ
from flows.replay import replay
from flows.run import Run
from tests.flows.datagrams import FORMATS, WHY, Sent, host
from tests.flows.runs import findings, on_workers, penstock, records, replayed, settings, told
from tests.flows.test_recovery import RULES, halt
from tests.schemas import validator


def rules(kind: str, **sections: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the settings of a run of a format that queues, drops and finds."""
    capture = RULES["capture"] | {"format": kind, "json_key": "from.host"}
    return RULES | sections | {"capture": capture | sections.get("capture", {})}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_datagram_is_accounted_for(
    captures: Callable[[str], Path], said: list[Sent], tmp_path: Path, kind: str
) -> None:
    """Records say what was sent by whom, in order; the malformed are dead letters by reason."""
    off = {"dam": {"enabled": False}}
    given = rules(kind, **off, run={"sink": f"files:{tmp_path}"})
    summary = replayed(captures(kind), **given)
    assert summary.adds_up
    assert summary.frames == summary.passed == len(said)
    assert dict(summary.malformed) == dict.fromkeys(WHY[kind], 1)
    found = records(tmp_path)
    valid = validator(TELEMETRY, "raw" if kind == "raw" else "datagram")
    for line, sent in zip(found[TELEMETRY, "0000"], said, strict=True):
        record = json.loads(line)
        valid.validate(record)
        assert record["ts"] == sent.at_ns
        if kind == "raw":
            assert record["id"] == f"10.1.{sent.device >> 8}.{sent.device & 255}"
            assert b64decode(record["data_base64"]).decode() == sent.body
            continue
        assert record["id"] == host(sent.device)
        if kind == "json":
            assert record["data"]["v"] == json.loads(sent.body or "null")
        else:
            assert record["data"]["message"] == sent.body
    dead = [json.loads(line) for line in found.get((TELEMETRY_DLQ, "0000"), [])]
    assert [each["reason"] for each in dead] == WHY[kind]
    for each in dead:
        validator(TELEMETRY_DLQ).validate(each)


@pytest.mark.parametrize("kind", FORMATS)
def test_findings_name_keys_as_records_do(
    captures: Callable[[str], Path], said: list[Sent], tmp_path: Path, kind: str
) -> None:
    """Long keys, which are hashes within, are told by their texts."""
    replayed(captures(kind), **rules(kind, run={"sink": f"files:{tmp_path}"}))
    told_of = {each["resources"][0]["name"] for each in findings(tmp_path)}
    keys = {f"10.1.{s.device >> 8}.{s.device & 255}" if kind == "raw" else host(s.device)
            for s in said}  # fmt: skip
    assert told_of - {"*"}
    assert told_of <= keys | {"*"}


@pytest.mark.parametrize("kind", FORMATS)
def test_batches_and_workers_change_nothing(
    captures: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    """Records and findings are the same however arrivals were cut and shared out."""
    found = []
    for name, batch_len, workers in (("a", 64, 1), ("b", 999, 1), ("c", 4096, 2)):
        run = {"sink": f"files:{tmp_path / name}", "shards": 3}
        given = rules(kind, capture={"batch_len": batch_len}, run=run)
        on_workers(settings(captures(kind), **given), workers)
        found.append(records(tmp_path / name))
    assert found[0] == found[1] == found[2]
    assert {topic for topic, _ in found[0]} >= {TELEMETRY, FINDINGS}


@pytest.mark.parametrize("kind", FORMATS)
def test_killed_and_resumed(captures: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    """What waits, and the texts of keys that are told of, survive a crash."""
    given = rules(kind)
    summary = replayed(captures(kind), **given, run={"sink": f"files:{tmp_path / 'whole'}"})
    whole = records(tmp_path / "whole")
    sink, store = f"files:{tmp_path / 'out'}", str(tmp_path / "store")
    for files in (1, 20):
        halt(["-m", "flows.cli", "replay", str(captures(kind)), "--format", kind, "--json-key",
              "from.host", "--sink", sink, "--recovery", store, "--json"],
             tmp_path, files, signal.SIGKILL)  # fmt: skip
    assert records(tmp_path / "out") != whole
    again = replayed(captures(kind), **given, run={"sink": sink, "recovery": store})
    assert told(again) == told(summary)
    assert records(tmp_path / "out") == whole


def test_a_resume_under_another_key_is_refused(
    captures: Callable[[str], Path], tmp_path: Path
) -> None:
    """Format and key shape the records, so a run is not resumed under others."""
    run = {"sink": f"files:{tmp_path / 'out'}", "recovery": str(tmp_path / "store")}
    replay(settings(captures("json"), **rules("json"), run=run), lambda _: None)
    for other in ({"json_key": "id"}, {"format": "raw"}):
        with pytest.raises(SourceError, match="other settings"):
            replay(settings(captures("json"), **rules("json", capture=other), run=run), print)


def test_dead_letters_of_datagrams_are_told_on_the_command_line(
    captures: Callable[[str], Path], tmp_path: Path
) -> None:
    """The flags are those of the settings, and the summary names the reasons."""
    done = penstock("replay", captures("json"), "--format", "json", "--json-key", "from.host",
                    "--rate", "off", "--json", cwd=tmp_path)  # fmt: skip
    assert done.code == 0
    assert done.summary["malformed"] == dict.fromkeys(WHY["json"], 1)
    for flags, words in ((("--format", "xml"), "capture.format"),
                         (("--json-key", "a..b"), "capture.json_key"),
                         (("--format", "raw", "--by", "host"), "by device only")):  # fmt: skip
        wrong = penstock("replay", captures("json"), *flags, cwd=tmp_path)
        assert wrong.code == 2
        assert (
            words in wrong.line or words.replace("capture.", "--").replace("_", "-") in wrong.line
        )


def test_a_format_is_of_device_mode(captures: Callable[[str], Path]) -> None:
    """By host there is no payload to read; asked for, it is refused before anything is opened."""
    given = settings(captures("raw"), capture={"by": "host", "format": "raw"})
    with pytest.raises(UsageError, match="by device only"):
        Run(given, notify=print)
