"""Datagrams of other formats delivered to Kafka, and replayed from there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.topics import FINDINGS, TELEMETRY, TELEMETRY_DLQ
from flows.replay import replay
from flows.summary import Summary
from tests.flows.datagrams import FORMATS, WHY, Sent
from tests.flows.deliveries import Place
from tests.flows.runs import records, replayed, settings
from tests.flows.test_recovery import RULES
from tests.kafka.topics import read

KEEN = {"dam": {"enabled": False}, "anomaly": RULES["anomaly"]}


def by_key(lines: list[bytes]) -> dict[str, list[bytes]]:
    """Return records key by key."""
    found: dict[str, list[bytes]] = {}
    for line in lines:
        found.setdefault(json.loads(line)["id"], []).append(line)
    return found


def again(place: Place, topic: str, kind: str, folder: Path) -> Summary:
    """Replay a topic into files, its datagrams taken for those of a format."""
    given = settings(
        capture={"format": kind, "json_key": "from.host"}, kafka={"topics": place.names}, **KEEN,
        run={"paths": (f"{place.sink}/{place.names[topic]}",), "sink": f"files:{folder}"},
    )  # fmt: skip
    said: list[str] = []
    summary = replay(given, said.append)
    assert said == []
    return summary


@pytest.mark.parametrize("kind", FORMATS)
def test_what_was_delivered_comes_back(
    place: Place, captures: Callable[[str], Path], said: list[Sent], tmp_path: Path, kind: str
) -> None:
    """Messages have the key of their record and no `seq`; replayed, each record is the same again.

    Read as what they are not, they are dead letters; dead letters are judged by the format asked
    for.
    """
    capture: dict[str, Any] = {"format": kind, "json_key": "from.host"}
    whole = tmp_path / "whole"
    want = replayed(captures(kind), capture=capture, **KEEN, run={"sink": f"files:{whole}"})
    replay(
        settings(captures(kind), capture=capture, **KEEN, kafka={"topics": place.names},
                 run={"sink": place.sink}),
        lambda _: None,
    )  # fmt: skip
    sent = read(place.servers, place.names[TELEMETRY])
    assert len(sent) == want.frames == len(said)
    for message in sent:
        assert (message.key or b"").decode() == json.loads(message.value or b"")["id"]
        assert "seq" not in dict(message.headers)

    found = again(place, TELEMETRY, kind, tmp_path / "again")
    assert found.adds_up
    assert (found.packets_in, found.frames, found.passed) == (want.frames,) * 3
    mine, theirs = records(tmp_path / "again"), records(whole)
    assert by_key(mine[TELEMETRY, "0000"]) == by_key(theirs[TELEMETRY, "0000"])
    if kind == "json":  # of which the size is told, too
        assert mine[FINDINGS, "0000"] == theirs[FINDINGS, "0000"]

    other = again(place, TELEMETRY, "frame", tmp_path / "other")
    assert (other.frames, dict(other.malformed)) == (0, {"record": want.frames})
    if WHY[kind]:
        dead = again(place, TELEMETRY_DLQ, kind, tmp_path / "dead")
        assert dict(dead.malformed) == dict(want.malformed)
