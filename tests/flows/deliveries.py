"""Deliveries to Kafka for tests: a place to deliver to, what should arrive there, and what did.

What should arrive is what the files sink of the same replay wrote, as Parquet: the records, their
keys and times, in order. What did arrive is read back with an ordinary consumer.
"""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from core.topics import TELEMETRY, TOPICS
from flows.replay import replay
from tests.flows.runs import Done, finish, settings, start
from tests.kafka.topics import Message, Meter, delete, partitions, read

SECOND_NS = 1_000_000_000
ARROW = b"application/vnd.apache.arrow.stream"


class Sent(NamedTuple):
    """A record as it was meant to be delivered."""

    topic: str
    shard: str
    key: bytes
    value: bytes
    at_ns: int
    seq: int
    source: int
    ordinal: int

    @property
    def ce_id(self) -> str:
        """Its id, less the hash that is added where one packet has several records."""
        return f"{self.topic}:{self.ordinal}"

    @property
    def headers(self) -> tuple[tuple[str, bytes], ...]:
        """Its headers, less that hash."""
        second, ns = divmod(self.at_ns, SECOND_NS)
        time = f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}.{ns:09d}Z"
        found = [
            ("ce_specversion", b"1.0"),
            ("ce_type", self.topic.encode()),
            ("ce_source", f"urn:penstock:capture:{self.source:016x}".encode()),
            ("ce_id", self.ce_id.encode()),
            ("ce_time", time.encode()),
            ("content-type", b"application/json"),
        ]
        if self.topic == TELEMETRY:
            found.append(("seq", self.seq.to_bytes(4, "big")))
        return tuple(found)


def _rows(table: pa.Table, topic: str, shard: str) -> list[Sent]:
    columns = table.cast(
        pa.schema([
            ("time", pa.int64()), ("key", pa.binary()), ("value", pa.binary()),
            ("seq", pa.uint32()), ("source", pa.uint64()), ("ordinal", pa.int64()),
        ])
    ).to_pydict()  # fmt: skip
    each = zip(*(columns[name] for name in ("key", "value", "time", "seq", "source", "ordinal")),
               strict=True)  # fmt: skip
    return [Sent(topic, shard, *row) for row in each]


def written(*captures: Path, folder: Path, **sections: dict[str, Any]) -> dict[str, list[Sent]]:
    """Replay into Parquet files; return the records by topic, in order within each shard."""
    run = sections.pop("run", {}) | {"sink": f"files:{folder}"}
    given = settings(*captures, run=run, files={"format": "parquet"}, **sections)
    replay(given, lambda _: None)
    found: dict[str, list[Sent]] = {}
    for path in sorted(folder.glob("*/[0-9]*.parquet")):
        topic, shard = path.parent.name, path.name.partition("-")[0]
        found.setdefault(topic, []).extend(_rows(pq.read_table(path), topic, shard))
    return found


class Place:
    """Topics of one test, on brokers that others may use too.

    Args:
        servers: Where the brokers are.
        folder: Where runs are started; its name tells these topics from those of other tests.
        inside: Where to read back, if that is another address.

    Attributes:
        names: What the topics are called there, by the names they have here.
    """

    def __init__(self, servers: str, folder: Path, inside: str = "") -> None:
        self.servers = servers
        self.inside = inside or servers
        self.folder = folder
        prefix = re.sub("[^A-Za-z0-9]+", "-", "-".join(folder.parts[-3:]))
        self.names = {topic: f"{prefix}.{topic}" for topic in TOPICS}

    @property
    def sink(self) -> str:
        """Where runs deliver to."""
        return f"kafka://{self.servers}"

    def configure(self, **sections: dict[str, Any]) -> None:
        """Write the settings that a run started in the folder finds."""
        kafka = {"topics": self.names} | sections.pop("kafka", {})
        lines = []
        for section, table in {"kafka": kafka, **sections}.items():
            lines.append(f"[{section}]")
            lines += [f"{key} = {_toml(value)}" for key, value in table.items()]
        text = "\n".join(lines)
        tomllib.loads(text)
        (self.folder / "penstock.toml").write_text(text)

    def command(self, *arguments: str | Path) -> list[str]:
        """Return what starts a replay that delivers here."""
        return ["-m", "flows.cli", "replay", *map(str, arguments), "--sink", self.sink, "--json"]

    def run(self, *arguments: str | Path, **env: str) -> Done:
        """Replay to the end, and deliver here."""
        return finish(start(self.command(*arguments), self.folder, env))

    @contextmanager
    def running(self, *arguments: str | Path, **env: str) -> Iterator[subprocess.Popen[str]]:
        """Start a replay that delivers here; whatever happens, it has ended afterwards."""
        process = start(self.command(*arguments), self.folder, env)
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()

    def arrived(self, topic: str) -> list[Message]:
        """Return all that arrived."""
        return read(self.inside, self.names[topic])

    def meter(self, *topics: str) -> Meter:
        """Return what counts messages as they arrive."""
        return Meter(self.inside, *(self.names[topic] for topic in topics))

    def clear(self) -> None:
        """Delete the topics."""
        if made := partitions(self.inside).keys() & set(self.names.values()):
            delete(self.inside, *sorted(made))


def said(done: Done) -> list[str]:
    """Return what a run said, but for the topics it made."""
    assert "Traceback" not in done.err
    return [line for line in done.err.splitlines() if "created topic" not in line]


def _toml(value: object) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f'"{key}" = {_toml(v)}' for key, v in value.items())
        return "{ " + inner + " }"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def opened(messages: Iterable[Message], topic: str) -> list[tuple[int, Sent]]:
    """Return the records of Arrow messages with their partitions, in order; check what they say."""
    found: list[tuple[int, Sent]] = []
    for message in messages:
        headers = dict(message.headers)
        table = pa.ipc.open_stream(message.value).read_all()
        rows = _rows(table, topic, "")
        assert (message.key, headers["content-type"]) == (None, ARROW)
        assert int(headers["rows"]) == len(rows) > 0
        assert is_timely(message, rows[-1])
        of_first = dict(rows[0].headers)
        for name in ("ce_specversion", "ce_type", "ce_source", "ce_time"):
            assert headers[name] == of_first[name]
        found += [(message.partition, row) for row in rows]
    return found


def plainly(message: Message, topic: str) -> Message:
    """Return a message without the hash in its id, whose form is checked."""
    headers = list(message.headers)
    at = next(i for i, (name, _) in enumerate(headers) if name == "ce_id")
    if not TOPICS[topic].one_per_packet:
        id_, _, digest = headers[at][1].rpartition(b":")
        assert re.fullmatch(rb"[0-9a-f]{16}", digest)
        headers[at] = ("ce_id", id_)
    return replace(message, headers=tuple(headers))


def is_timely(message: Message, row: Sent) -> bool:
    """Tell whether a message has the time of the brokers, or else that of its record."""
    return message.has_brokers_time or message.timestamp_ms == max(1, row.at_ns // 1_000_000)


def check_order(arrived: list[tuple[int, Sent]], sent: list[Sent]) -> None:
    """Check that each key is in one partition, where each shard's records of it are in order.

    A record that arrived again counts where it arrived first.
    """
    homes: dict[bytes, set[int]] = {}
    place: dict[tuple[bytes, bytes, int, int], int] = {}
    for at, (partition, row) in enumerate(arrived):
        homes.setdefault(row.key, set()).add(partition)
        place.setdefault((row.key, row.value, row.source, row.ordinal), at)
    assert {key for key, where in homes.items() if len(where) > 1} == set()
    last: dict[tuple[str, bytes], int] = {}
    for row in sent:
        at = place[row.key, row.value, row.source, row.ordinal]
        assert at > last.get((row.shard, row.key), -1), row
        last[row.shard, row.key] = at


def check_messages(
    arrived: list[Message], sent: list[Sent], topic: str, *, ordered: bool = True
) -> int:
    """Check that each record arrived as it should be; return how many arrived once more.

    Identity, value, key and headers of a duplicate are those of the first.
    """
    wanted = {(row.source, row.ordinal, row.value): row for row in sent}
    assert len(wanted) == len(sent)
    found: list[tuple[int, Sent]] = []
    for message in (plainly(message, topic) for message in arrived):
        headers = dict(message.headers)
        source = int(headers["ce_source"].rpartition(b":")[2], 16)
        row = wanted[source, int(headers["ce_id"].rpartition(b":")[2]), message.value]
        assert is_timely(message, row)
        assert (message.key, message.headers) == (row.key, row.headers)
        found.append((message.partition, row))
    counts = Counter(row for _, row in found)
    missing = [row for row in sent if row not in counts]
    assert missing == [], f"{len(missing)} of {len(sent)} are missing in {topic}"
    ids = {(dict(m.headers)["ce_source"], dict(m.headers)["ce_id"]) for m in arrived}
    assert len(ids) == len(sent)
    if ordered:
        check_order(found, sent)
    return len(found) - len(sent)


def check_rows(arrived: list[Message], sent: list[Sent], topic: str) -> int:
    """Check the same of Arrow messages; return how many records arrived once more."""
    found = opened(arrived, topic)
    counts = Counter(row for _, row in found)
    assert set(counts) == {row._replace(shard="") for row in sent}
    check_order(found, sent)
    return len(found) - len(sent)
