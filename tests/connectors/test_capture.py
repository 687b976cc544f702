"""The capture source: portions, positions, resumes, damage and pace."""

from __future__ import annotations

import gzip
import os
import pickle
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.capture import PAGE, CapturePartition, CaptureSource, Position
from connectors.capture_files import list_captures
from connectors.capture_reader import Mark, Reader
from connectors.ledger import Ledger
from core.errors import SourceError, UsageError
from core.sections import CaptureSettings
from tests import captures as make
from tests.captures import SECOND_NS, Packet

if TYPE_CHECKING:
    from core.batches import PacketBatch

HOUR_NS = 3600 * SECOND_NS


class Row(NamedTuple):
    """One packet as the source hands it on, and its number in the replay."""

    number: int
    ordinal: int
    source: int
    packet: Packet


def rows(batch: PacketBatch) -> list[Row]:
    arena = batch.arena.tobytes()
    return [
        Row(
            batch.index + i,
            int(batch.ordinal[i]),
            batch.source,
            Packet(
                int(batch.at_ns[i]),
                arena[batch.start[i] : batch.start[i] + batch.caplen[i]],
                int(batch.wirelen[i]),
                int(batch.linktype[i]),
            ),
        )
        for i in range(len(batch))
    ]


class Replay:
    """A source with its notices and its part."""

    def __init__(
        self, *paths: Path | str, resume: Position | None = None, digest: str = "d",
        recovers: bool = False, **capture: Any,
    ) -> None:  # fmt: skip
        self.notices: list[str] = []
        self.ledger = Ledger()
        self.stopping = threading.Event()
        source = CaptureSource(
            paths=tuple(map(str, paths)),
            settings=CaptureSettings(**capture),
            ledger=self.ledger,
            digest=digest,
            stopping=self.stopping,
            notify=self.notices.append,
            recovers=recovers,
        )
        (part,) = source.list_parts()
        self.part: CapturePartition = source.build_part("step", part, resume)

    def step(self) -> list[Row] | None:
        """Return the packets of one call of the engine; nothing at the end."""
        try:
            return [row for batch in self.part.next_batch() for row in rows(batch)]
        except StopIteration:
            self.part.close()
            return None

    def rest(self) -> list[Row]:
        """Return all packets up to the end."""
        out: list[Row] = []
        while (found := self.step()) is not None:
            out += found
        return out

    def counts(self, *names: str) -> list[int]:
        """Return what the source has counted."""
        page = self.ledger.page(PAGE)
        return [page[name] for name in names]


def interfaces(count: int) -> bytes:
    """Return pcapng whose interfaces and sections come between the packets."""
    parts = [make.section(">"), make.interface(">", resolution=9)]
    for i, p in enumerate(make.packets(count)):
        if i == count // 2:
            parts = [b"".join(parts), make.section(), make.interface(), make.interface()]
        order = ">" if i < count // 2 else "<"
        if i % 5 == 4:
            parts.append(make.interface(order, linktype=101, resolution=0x8A))
        number = i % 2 if i % 10 > 5 else 0
        parts.append(make.enhanced(p.data, p.at_ns, p.wirelen, number, order))
    return b"".join(parts)


FORMATS = {
    "plain": make.pcap(make.packets(60)),
    "gzip": gzip.compress(make.pcap(make.packets(30)), mtime=0),
    "pcapng": interfaces(40),
    "members": b"".join(
        gzip.compress(part, mtime=0) for part in (interfaces(40)[:700], interfaces(40)[700:])
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one small capture of each format, and one that is cut short."""
    path = tmp_path_factory.mktemp("captures")
    for name, content in FORMATS.items():
        (path / f"{name}.pcap").write_bytes(content)
    (path / "cut.pcap").write_bytes(make.pcap(make.packets(9, first=500))[:-5])
    return path


def test_files_follow_one_another_by_first_packet(tmp_path: Path) -> None:
    """Whole files come one after another; packets are numbered in their file and in the replay."""
    (tmp_path / "b").write_bytes(make.pcap(make.packets(3)))
    (tmp_path / "a").write_bytes(make.pcap(make.packets(2, first=1)))
    replay = Replay(tmp_path)
    found = replay.rest()
    assert [row.packet for row in found] == make.packets(3) + make.packets(2, first=1)
    assert [row.number for row in found] == [0, 1, 2, 3, 4]
    assert [row.ordinal for row in found] == [0, 1, 2, 0, 1]
    assert len({row.source for row in found}) == 2
    assert replay.counts("packets_in", "files_read", "files_truncated") == [5, 2, 0]
    sums = [sum(r.packet.wirelen for r in found), sum(len(r.packet.data) for r in found)]
    assert replay.counts("bytes_in", "captured_bytes") == sums
    size = sum(p.stat().st_size for p in tmp_path.iterdir())
    assert replay.counts("file_bytes", "file_bytes_all") == [size, size]
    assert replay.notices == []


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chunk_bytes=st.integers(1, 3000), batch_len=st.integers(1, 70), ahead=st.integers(1, 3))
def test_portions_change_nothing(
    folder: Path, chunk_bytes: int, batch_len: int, ahead: int
) -> None:
    """Chunks smaller than a packet or larger than a file, and batches of any length, are alike."""
    want = Replay(folder).rest()
    sizes: dict[str, Any] = {"chunk_bytes": chunk_bytes, "batch_len": batch_len}
    sizes["read_ahead_batches"] = ahead
    assert Replay(folder, **sizes).rest() == want


@pytest.mark.parametrize("options", [{}, {"filter": "len > 500"}], ids=["all", "filtered"])
def test_any_position_resumes_with_exactly_the_rest(folder: Path, options: dict[str, Any]) -> None:
    """From the snapshot after any call on, and in other portions, the same packets follow."""
    want = Replay(folder, **options).rest()
    counted = ("packets_in", "bytes_in", "filtered", "files_read", "files_truncated")
    first = Replay(folder, batch_len=7, chunk_bytes=900, **options)
    done: list[Row] = []
    positions: list[tuple[int, bytes]] = []
    while (found := first.step()) is not None:
        done += found
        position = (len(done), pickle.dumps(first.part.snapshot()))
        if not positions or positions[-1][1] != position[1]:
            positions.append(position)
    assert done == want
    for at, saved in positions:
        sizes: dict[str, Any] = {"batch_len": 1 + at % 11, "chunk_bytes": 64 + at * 13}
        second = Replay(folder, resume=pickle.loads(saved), **sizes, **options)
        assert second.rest() == want[at:]
        assert second.counts(*counted) == first.counts(*counted)
        assert second.counts("packets_resumed") == [at]
    assert len(positions) > len(FORMATS)


def test_a_paced_replay_hands_on_what_is_due_and_resumes_inside_a_batch(tmp_path: Path) -> None:
    """Only packets that are due leave a batch, and a snapshot between two of them holds."""
    some = make.packets(9)
    late = [Packet(p.at_ns + HOUR_NS * (i > 3), p.data, p.wirelen) for i, p in enumerate(some)]
    at_once = [Packet(late[0].at_ns, p.data, p.wirelen) for p in late[:4]] + late[4:]
    path = tmp_path / "f"
    path.write_bytes(make.pcap(at_once))
    paced = Replay(path, speed=0.001)
    found: list[Row] = []
    while not found:
        found += paced.step() or []
    assert [row.packet for row in found] == at_once[:4]
    paced.stopping.set()
    assert paced.step() is None
    position = paced.part.snapshot()
    assert (position.skip, position.packets) == (4, 4)
    for options in ({}, {"batch_len": 3}, {"speed": 1e6}):
        rest = Replay(path, resume=position, **options).rest()
        assert [row.packet for row in rest] == at_once[4:]
        assert [row.number for row in rest] == [4, 5, 6, 7, 8]


def resumable(path: Path) -> Position:
    replay = Replay(path, batch_len=2)
    while not replay.step():
        pass
    replay.part.close()
    return replay.part.snapshot()


def changes(path: Path, what: str) -> None:
    """Change a folder of captures `a` and `b` in one way."""
    match what:
        case "changed":
            (path / "b").write_bytes(make.pcap(make.packets(6)))
        case "touched":
            os.utime(path / "b", ns=(1, 1))
        case "missing":
            (path / "b").unlink()
        case "added":
            (path / "c").write_bytes(make.pcap(make.packets(1, first=99)))


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("changed", r"/b: has changed since"),
        ("touched", r"/b: has changed since"),
        ("missing", r"/b: is missing or unreadable since"),
        ("added", r"/c: is not part of the recovered replay"),
    ],
)
def test_other_files_than_before_refuse_to_resume(tmp_path: Path, what: str, line: str) -> None:
    """A file that changed, went or came since the snapshot is named, with the cure."""
    for i, name in enumerate("ab"):
        (tmp_path / name).write_bytes(make.pcap(make.packets(5, first=i)))
    position = resumable(tmp_path)
    Replay(tmp_path, resume=position).rest()
    changes(tmp_path, what)
    with pytest.raises(SourceError, match=line) as error:
        Replay(tmp_path, resume=position)
    assert "--recovery" in str(error.value)
    assert "\n" not in str(error.value)


def test_other_settings_and_repeated_files_refuse_to_resume(tmp_path: Path) -> None:
    """Settings that shape results, and how often a file is named, are part of a snapshot."""
    path = tmp_path / "f"
    path.write_bytes(make.pcap(make.packets(5)))
    position = resumable(path)
    with pytest.raises(SourceError, match="other settings"):
        Replay(path, resume=position, digest="other")
    with pytest.raises(SourceError, match="not part of the recovered"):
        Replay(path, path, resume=position)


def test_pipes_are_refused_with_recovery(tmp_path: Path) -> None:
    """What cannot be read again is refused before anything is lost."""
    os.mkfifo(tmp_path / "fifo")
    reading = os.open(tmp_path / "fifo", os.O_RDWR)
    os.write(reading, make.pcap(make.packets(200)))
    with pytest.raises(UsageError, match="a pipe cannot be read again"):
        Replay(tmp_path / "fifo", recovers=True)
    os.close(reading)


def test_a_pipe_is_replayed_while_it_is_written(tmp_path: Path) -> None:
    """Packets are handed on before the writer is done, and a compressed rest is read to its end."""
    whole = make.packets(400)
    content = gzip.compress(make.pcap(whole)[:9000]) + gzip.compress(make.pcap(whole)[9000:])
    cut = len(gzip.compress(make.pcap(whole)[:9000])) + 20
    os.mkfifo(tmp_path / "fifo")
    begun = threading.Event()

    def write() -> None:
        with (tmp_path / "fifo").open("wb", buffering=0) as out:
            out.write(content[:cut])
            assert begun.wait(60)
            for at in range(cut, len(content), 100):
                out.write(content[at : at + 100])

    writer = threading.Thread(target=write)
    writer.start()
    replay = Replay(tmp_path / "fifo")
    found: list[Row] = []
    while not found:
        found += replay.step() or []
    begun.set()
    found += replay.rest()
    writer.join()
    assert [row.packet for row in found] == whole


def test_unreadable_and_damaged_files_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    """Each file that is skipped, cut or oddly linked gets one line and its place in the counts."""
    good = make.pcap(make.packets(4))
    files = {
        "1": good,
        "2.pcap": b"",
        "3": good[:-1],
        "4": gzip.compress(good)[:-9],
        "5": gzip.compress(good) + b"garbage",
        "6": make.pcap([Packet(0, b"radio", 5, 127)]),
        "7\n.pcap": b"no capture",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    replay = Replay(tmp_path)
    found = replay.rest()
    assert len(found) == 4 + 3 + 4 + 4 + 1
    names = ("files_read", "files_truncated", "files_unreadable")
    assert replay.counts(*names) == [5, 3, 2]
    said = "\n".join(replay.notices)
    for line in (
        "2.pcap: the file is empty; skipped",
        "7\\U0000000a.pcap: not a pcap or pcapng file",
        "3: ends inside a record",
        "4: ends inside its gzip data; read up to there",
        "5: something that is not gzip follows its gzip data; read up to there",
        "6: link type 127 is not decoded",
    ):
        assert line in said
    assert len(replay.notices) == 6


@pytest.mark.parametrize("expression", ["no such", "ether proto"])
def test_a_wrong_filter_ends_the_command_at_once(folder: Path, expression: str) -> None:
    """An expression libpcap refuses is reported before a thread is started."""
    before = threading.active_count()
    with pytest.raises(UsageError, match="filter"):
        Replay(folder, filter=expression)
    with pytest.raises(UsageError, match="filter"):
        Replay("/nowhere", filter=expression)
    assert threading.active_count() == before


def test_nothing_to_read_ends_at_once() -> None:
    """A replay of nothing ends, and says what was not there."""
    replay = Replay("/nowhere/at all")
    assert replay.rest() == []
    assert replay.counts("files_read", "files_unreadable") == [0, 1]


@pytest.mark.parametrize("what", ["append", "truncate", "replace", "unlink"])
def test_files_that_change_while_they_are_read(tmp_path: Path, what: str) -> None:
    """Growth, a cut, another file of the name and none at all end in packets, never in an error."""
    path, last = tmp_path / "f", tmp_path / "g"
    whole = make.packets(400)
    path.write_bytes(make.pcap(whole))
    last.write_bytes(make.pcap(make.packets(2, first=1000)))
    files = list_captures((str(tmp_path),), make.PACKET_BYTES_MAX, threading.Event()).files
    capture = CaptureSettings(read_ahead_batches=1, chunk_bytes=512)
    reader = Reader(files, capture, Mark(), 4, threading.Event())
    items = [reader.get(60)]  # the reader now holds at most the second batch, and waits
    match what:
        case "append":
            with path.open("ab") as out:
                out.write(make.pcap(make.packets(3, first=400))[24:])
            last.write_bytes(last.read_bytes() + make.pcap(make.packets(3, first=7))[24:])
        case "truncate":
            os.truncate(path, 5000)
            os.truncate(last, 30)
        case "replace":
            for each in (path, last):
                (tmp_path / "new").write_bytes(gzip.compress(b"other"))
                (tmp_path / "new").replace(each)
        case "unlink":
            path.unlink()
            last.unlink()
    while (item := items[-1]) is not None and not item.last:
        items.append(reader.get(60))
    found = [row for i in items if i and i.batch for row in rows(replace(i.batch, index=0))]
    kept = [row.packet for row in found if row.source == files[0].source]
    end = items[-1]
    assert end is not None
    assert end.error is None
    counts = (end.after.read, end.after.truncated, end.after.unreadable)
    if what == "append":
        assert kept == make.packets(403)
        assert (len(found), counts) == (403 + 5, (2, 0, 0))
    elif what == "truncate":
        assert kept == whole[: len(kept)]
        assert (0 < len(kept) < 400, counts) == (True, (1, 1, 1))
    else:
        assert kept == whole
        assert (len(found), counts) == (400, (1, 0, 1))
