"""Replays of topics, whole: against the capture they came from, stopped, resumed, and refused."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from core.batches import RecordBatch
from core.errors import PenstockError, SourceError
from core.link import LINK_USER0
from core.topics import FINDINGS, FLOWS, FLOWS_DLQ, TELEMETRY, TELEMETRY_DLQ
from core.undeliverable import undeliverable
from flows.replay import replay
from flows.summary import Summary
from tests.conftest import Kafka
from tests.fill import fill, made
from tests.flows.runs import (
    as_env,
    counts,
    findings,
    records,
    replayed,
    settings,
    start,
    told,
    wait_until,
)
from tests.kafka.topics import delete, put
from tests.records import Row, records_of
from tests.schemas import validator

OFF = {"dam": {"enabled": False}}
KEEN = {"anomaly": {"warm_rows": 60, "threshold": 0.02}}


@pytest.fixture
def topics(kafka: Kafka, request: pytest.FixtureRequest) -> Iterator[Callable[..., str]]:
    """Yield what makes topics of one test's own, `(partitions=1)`."""
    begun: list[str] = []

    def make(partitions: int = 1) -> str:
        name = "".join(c if c.isalnum() else "-" for c in request.node.name)
        begun.append(made(kafka.servers, f"{name}-{len(begun)}-{id(begun)}", partitions))
        return begun[-1]

    yield make
    if begun:
        delete(kafka.servers, *begun)


def kept(path: Path, folder: Path, topic: str, /, **sections: Any) -> RecordBatch:
    """Replay a capture, and return what it wrote to a topic."""
    run = {"sink": f"files:{folder}"} | sections.pop("run", {})
    replay(settings(path, run=run, files={"format": "parquet"}, **sections), lambda _: None)
    rows = []
    for each in sorted(folder.glob(f"{topic}/*.parquet")):
        table = pq.read_table(each)
        columns = [table[name].to_pylist() for name in ("key", "value")]
        columns.append(table["time"].cast("int64").to_pylist())
        columns += [table[name].to_pylist() for name in ("source", "ordinal", "seq")]
        rows += [Row(k.encode(), v.encode(), *rest) for k, v, *rest in zip(*columns, strict=True)]
    return records_of(topic, rows)


def of_topic(kafka: Kafka, topic: str, holds: str, **sections: Any) -> tuple[Summary, list[str]]:
    """Replay a topic that holds records of another, and return what was said, too."""
    said: list[str] = []
    run = {"paths": (f"kafka://{kafka.servers}/{topic}",)} | sections.pop("run", {})
    named = {"topics": {holds: topic}} if holds else {}
    given = settings(kafka=named, run=run, **sections)
    return replay(given, said.append), said


def by_key(lines: list[bytes]) -> dict[str, list[bytes]]:
    """Return records of devices, device by device."""
    found: dict[str, list[bytes]] = {}
    for line in lines:
        found.setdefault(json.loads(line)["id"], []).append(line)
    return found


@pytest.mark.parametrize(("partitions", "arrow"), [(1, False), (8, False), (3, True)])
def test_telemetry_gives_what_its_capture_gave(
    kafka: Kafka, topics: Callable[..., str], capture: Path, tmp_path: Path, partitions: int,
    arrow: bool,
) -> None:  # fmt: skip
    """Frames, scored rows and findings are those of the capture, whatever the partitions.

    The address a frame came from is in no record; where each device has one address and all use
    one port, as here, no feature shows it.
    """
    rules = OFF | KEEN
    whole = tmp_path / "whole"
    want = replayed(capture, **rules, run={"sink": f"files:{whole}", "shards": 2})
    topic = topics(partitions)
    held = kept(capture, tmp_path / "parquet", TELEMETRY, **rules)
    fill(kafka.servers, topic, [held], partitions=partitions, arrow=arrow)
    out = tmp_path / "out"
    found, said = of_topic(kafka, topic, TELEMETRY, **rules,
                           run={"sink": f"files:{out}", "shards": 2})  # fmt: skip
    assert said == []
    assert found.adds_up
    assert found.files.read == partitions
    assert (found.packets_in, found.frames, found.passed) == (want.frames,) * 3
    assert found.rows == want.rows
    assert found.findings == want.findings > 0
    mine, theirs = records(out), records(whole)
    for shard in ("0000", "0001"):
        assert by_key(mine[TELEMETRY, shard]) == by_key(theirs[TELEMETRY, shard])
        assert mine[FINDINGS, shard] == theirs[FINDINGS, shard]


def test_a_topic_of_several_writers_gives_what_its_capture_gave(
    kafka: Kafka, topics: Callable[..., str], capture: Path, tmp_path: Path
) -> None:
    """Written in turns, a second by each shard after the other, it is read in order of time."""
    rules = OFF | KEEN
    want = replayed(capture, **rules, run={"sink": f"files:{tmp_path / 'whole'}"})
    held = kept(capture, tmp_path / "parquet", TELEMETRY, **rules)
    columns = [held.key_list(), held.value_list()]
    columns += [getattr(held, name).tolist() for name in ("at_ns", "source", "ordinal", "seq")]
    rows: list[Any] = list(zip(*columns, strict=True))
    turns = sorted(rows, key=lambda row: (row[2] // 10**9, row[0][-1] % 3))
    topic = topics(2)
    fill(kafka.servers, topic, [records_of(TELEMETRY, [Row(*row) for row in turns])])
    found, said = of_topic(kafka, topic, TELEMETRY, **rules,
                           run={"sink": f"files:{tmp_path / 'out'}"})  # fmt: skip
    assert turns != rows
    assert said == []
    assert found.late == 0
    assert (found.rows, found.findings) == (want.rows, want.findings)
    assert findings(tmp_path / "out") == findings(tmp_path / "whole")


def test_scores_are_those_of_the_capture(
    kafka: Kafka, topics: Callable[..., str], capture: Path, tmp_path: Path
) -> None:
    """A scores file has one score for each record, in the merged order."""
    rules = OFF | KEEN
    topic = topics(1)
    fill(kafka.servers, topic, [kept(capture, tmp_path / "parquet", TELEMETRY, **rules)])
    replayed(capture, **rules, run={"scores": str(tmp_path / "want.npy")})
    summary, _ = of_topic(kafka, topic, TELEMETRY, **rules,
                          run={"scores": str(tmp_path / "found.npy")})  # fmt: skip
    want, found = np.load(tmp_path / "want.npy"), np.load(tmp_path / "found.npy")
    assert found.shape == (summary.packets_in,)
    assert np.isfinite(found).any()
    assert np.array_equal(found[np.isfinite(found)], want[np.isfinite(want)])


def test_flows_are_scored_and_not_written_again(
    kafka: Kafka, topics: Callable[..., str], capture: Path, tmp_path: Path
) -> None:
    """Each flow is one arrival of its source; findings may come of it, and no flows."""
    topic = topics(3)
    held = kept(capture, tmp_path / "parquet", FLOWS, capture={"by": "host"},
                flows={"active_s": 1, "idle_s": 1})  # fmt: skip
    fill(kafka.servers, topic, [held])
    host = {"capture": {"by": "host"}}
    found, said = of_topic(kafka, topic, FLOWS, **host, **KEEN,
                           run={"sink": f"files:{tmp_path / 'out'}"})  # fmt: skip
    assert said == []
    assert found.packets_in == found.passed == len(held) > 100
    assert found.rows["scored"] > 0
    assert set(counts(tmp_path / "out")) <= {FINDINGS}
    assert len(findings(tmp_path / "out")) == found.finding_records
    # In one partition it is the same.
    alone = topics(1)
    fill(kafka.servers, alone, [held])
    again, _ = of_topic(kafka, alone, FLOWS, **host, **KEEN,
                        run={"sink": f"files:{tmp_path / 'again'}"})  # fmt: skip
    assert again.rows == found.rows
    assert records(tmp_path / "again") == records(tmp_path / "out")


@pytest.mark.parametrize("by", ["device", "host"])
def test_dead_letters_are_judged_again(
    kafka: Kafka, topics: Callable[..., str], capture: Path, tmp_path: Path, by: str
) -> None:
    """The same rules reject the same packets, byte for byte; wider ones let frames through."""
    holds = TELEMETRY_DLQ if by == "device" else FLOWS_DLQ
    narrow = {"frame": {"body_bytes_max": 30}, "capture": {"by": by}}
    held = kept(capture, tmp_path / "parquet", holds, **narrow, **OFF)
    topic = topics(2)
    fill(kafka.servers, topic, [held])
    same, said = of_topic(kafka, topic, holds, **narrow, **OFF,
                          run={"sink": f"files:{tmp_path / 'same'}"})  # fmt: skip
    assert said == []
    assert same.adds_up
    assert sum(same.malformed.values()) == same.packets_in == len(held) > 0
    found = [line for lines in records(tmp_path / "same").values() for line in lines]
    assert sorted(found) == sorted(held.value_list())
    wide = {"capture": {"by": by}}
    wider, _ = of_topic(kafka, topic, holds, **wide, **OFF,
                        run={"sink": f"files:{tmp_path / 'wide'}"})  # fmt: skip
    assert (wider.passed > 0) == (by == "device")
    # Together with what passed at first they are what a replay under the wider rules passes.
    if by == "device":
        first = kept(capture, tmp_path / "first", TELEMETRY, **narrow, **OFF).value_list()
        all_of_them = kept(capture, tmp_path / "all", TELEMETRY, **wide, **OFF).value_list()
        late = [line for (t, _), lines in records(tmp_path / "wide").items() if t == TELEMETRY
                for line in lines]  # fmt: skip
        assert Counter(first + late) == Counter(all_of_them)


@pytest.mark.parametrize("holds", [TELEMETRY, TELEMETRY_DLQ, FLOWS, FLOWS_DLQ])
def test_what_is_no_record_becomes_a_dead_letter(
    kafka: Kafka, topics: Callable[..., str], tmp_path: Path, holds: str
) -> None:
    """Values that do not decode are counted and kept, and the run adds up."""
    topic = topics()
    odd = [b"no record", b"", b"{}", b"\xff\xff\xff\xff, which is no Arrow stream"]
    put(kafka.servers, topic, *odd)
    by = "device" if holds.startswith(TELEMETRY) else "host"
    found, said = of_topic(kafka, topic, holds, capture={"by": by},
                           run={"sink": f"files:{tmp_path}"})  # fmt: skip
    assert said == []
    assert found.adds_up
    assert found.malformed == {"record": 4}
    letters = TELEMETRY_DLQ if by == "device" else FLOWS_DLQ
    assert found.delivered == {letters: 4}
    kept_ = [json.loads(line) for line in records(tmp_path)[letters, "0000"]]
    for letter in kept_:
        validator(letters).validate(letter)
    assert [letter["reason"] for letter in kept_] == ["record"] * 4
    assert [letter["linktype"] for letter in kept_] == [LINK_USER0] * 4
    assert [letter["ordinal"] for letter in kept_] == [0, 1, 2, 3]
    # And such a letter, read back, is no packet either.
    again = topics()
    put(kafka.servers, again, *records(tmp_path)[letters, "0000"])
    found, _ = of_topic(kafka, again, letters, capture={"by": by})
    assert found.malformed == {"record": 4}


def test_refused_records_are_passed_over(
    kafka: Kafka, topics: Callable[..., str], tmp_path: Path
) -> None:
    """What the brokers refused is counted, said once with what helps, and in no topic."""
    topic = topics()
    letter = undeliverable(TELEMETRY, b"k", b"{}", 7, 1, 2, "record_too_large", "too large")[1]
    put(kafka.servers, topic, letter, letter)
    found, said = of_topic(kafka, topic, TELEMETRY_DLQ, run={"sink": f"files:{tmp_path}"})
    assert found.adds_up
    assert found.ignored == {"undeliverable": 2}
    assert found.delivered == {}
    assert sum("penstock dlq replay" in line for line in said) == 1


@pytest.mark.parametrize(("after", "number"), [([0, 3], signal.SIGKILL), ([2], signal.SIGTERM)])
def test_stop_and_resume(
    kafka: Kafka, topics: Callable[..., str], capture: Path, tmp_path: Path, after: list[int],
    number: signal.Signals,
) -> None:  # fmt: skip
    """Killed or told to stop, and resumed, a replay leaves what an uninterrupted one leaves."""
    topic = topics(4)
    held = kept(capture, tmp_path / "parquet", TELEMETRY, **OFF)
    fill(kafka.servers, topic, [held], partitions=4, arrow=True)
    rules: dict[str, Any] = KEEN | {
        "capture": {"batch_len": 64},
        "dam": {"enabled": True, "rate_hz": 200, "burst": 50, "queue_len_max": 300},
    }
    whole, _ = of_topic(kafka, topic, "", **rules,
                        run={"sink": f"files:{tmp_path / 'whole'}"})  # fmt: skip
    assert whole.findings
    assert whole.dropped
    sink, store, out = f"files:{tmp_path / 'out'}", tmp_path / "store", tmp_path / "out"

    def committed() -> int:
        return len(list(out.glob("*/[0-9]*.jsonl")))

    def reached(target: int) -> bool:
        return (store / "part-0.sqlite3").exists() and committed() >= target

    env = as_env(**rules | {"capture": {"batch_len": 64, "speed": 3}, "run": {"epoch_s": 0.02}})
    for files in after:
        target = committed() + files
        process = start(
            ["-m", "flows.cli", "replay", f"kafka://{kafka.servers}/{topic}", "--sink", sink,
             "--recovery", str(store), "--json"], tmp_path, env,
        )  # fmt: skip
        wait_until(process, partial(reached, target))
        process.send_signal(number)
        process.communicate()
    before = records(out)
    assert before != records(tmp_path / "whole")
    for resumes in (True, False):
        again, _ = of_topic(kafka, topic, "", **rules,
                            run={"sink": sink, "recovery": str(store)})  # fmt: skip
        assert told(again) == told(whole)
        assert records(out) == records(tmp_path / "whole")
        assert bool(again.packets_per_s) == resumes


def test_a_recovery_folder_of_captures_is_not_that_of_a_topic(
    kafka: Kafka, topics: Callable[..., str], capture: Path, tmp_path: Path
) -> None:
    """Nor the other way round: each is refused for the other."""
    topic = topics()
    fill(kafka.servers, topic, [kept(capture, tmp_path / "parquet", TELEMETRY, **OFF)])
    address = f"kafka://{kafka.servers}/{topic}"
    for first, second in ((str(capture), address), (address, str(capture))):
        store = str(tmp_path / f"store-{first == address}")
        replay(settings(run={"paths": (first,), "recovery": store}), lambda _: None)
        with pytest.raises(SourceError, match="recovery folder was written with other settings"):
            replay(settings(run={"paths": (second,), "recovery": store}), lambda _: None)


@pytest.mark.parametrize(
    ("code", "line", "more", "by"),
    [
        (2, "name it under kafka.topics", "/{topic}", "device"),
        (2, "replayed alone", "/{topic} captures", "device"),
        (2, "replay it with --by device", f"/{TELEMETRY}", "host"),
        (2, "holds findings", f"/{FINDINGS}", "device"),
        (1, "there is no such topic", "/{topic}-x", "device"),
    ],
)
def test_refusals_are_one_line(
    kafka: Kafka, topics: Callable[..., str], tmp_path: Path, code: int, line: str, more: str,
    by: str,
) -> None:  # fmt: skip
    """What is asked wrongly exits with 2, what is not there with 1; nothing is written."""
    paths = tuple(f"kafka://{kafka.servers}{more.format(topic=topics())}".split())
    run = {"paths": paths, "sink": f"files:{tmp_path / 'out'}"}
    with pytest.raises(PenstockError) as caught:
        replay(settings(run=run, capture={"by": by}), lambda _: None)
    assert caught.value.exit_code == code
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
