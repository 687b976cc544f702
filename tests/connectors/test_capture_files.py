"""Finding captures: files, folders, pipes and standard input, in order and with reasons."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from connectors.capture_files import Listing, list_captures, open_stream
from connectors.capture_stream import PIPE_BYTES, CaptureStream, open_capture
from core.errors import SourceError
from tests import captures as make
from tests.captures import Packet

SOME = make.packets(3)
TEXT = bytes(range(256)) * 4000


def listed(*paths: object) -> Listing:
    return list_captures(tuple(map(str, paths)), make.PACKET_BYTES_MAX, threading.Event())


def stopped() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


def content(stream: CaptureStream) -> bytes:
    out, view = b"", memoryview(bytearray(10_000))
    with stream:
        while count := stream.readinto(view):
            out += view[:count]
    return out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with captures, notes, and things that only look like captures."""
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "late.pcap").write_bytes(make.pcap(make.packets(2, first=50)))
    (tmp_path / "early.pcapng.gz").write_bytes(gzip.compress(make.pcapng(make.packets(2))))
    (tmp_path / "no-suffix").write_bytes(make.pcap(make.packets(1, first=9)))
    (tmp_path / "README.md").write_text("labels")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "empty.pcap").touch()
    (tmp_path / "zeros.pcap").write_bytes(bytes(500))
    (tmp_path / "cut").write_bytes(make.pcap([])[:20])
    (tmp_path / "gone.pcap").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.pcap")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def test_folders_yield_captures_in_order_of_their_first_packets(folder: Path) -> None:
    """Captures are ordered by time, notes passed over, and what looks like a capture is named."""
    listing = listed(folder)
    names = [f.path.removeprefix(f"{folder}/") for f in listing.files]
    assert names == ["early.pcapng.gz", "no-suffix", "a/b/late.pcap"]
    assert listing.passed_over == 3
    reasons = {Path(path).name: reason for path, reason in listing.unreadable.items()}
    assert sorted(reasons) == ["cut", "empty.pcap", "gone.pcap", "pipe.pcap", "zeros.pcap"]
    assert reasons["empty.pcap"] == "the file is empty"
    assert "00 00 00 00" in reasons["zeros.pcap"]
    assert "no regular file" in reasons["pipe.pcap"]


def test_files_of_one_moment_are_ordered_by_path(tmp_path: Path) -> None:
    """The path decides between equal first packets; a capture of none comes first."""
    for name in ("b", "a", "c"):
        (tmp_path / name).write_bytes(make.pcap(SOME))
    (tmp_path / "none").write_bytes(make.pcap([]))
    paths = [tmp_path / name for name in ("c", "none", "b", "a")]
    assert [Path(f.path).name for f in listed(*paths).files] == ["none", "a", "b", "c"]


def test_what_cannot_be_opened_is_named_with_its_cure(tmp_path: Path) -> None:
    """Paths that lead nowhere, through a file, or are none, are named and do not end the rest."""
    (tmp_path / "good").write_bytes(make.pcap(SOME))
    (tmp_path / "link").symlink_to("link")
    paths = [
        tmp_path / "missing",
        tmp_path / "good" / "below",
        tmp_path / ("long" * 100),
        tmp_path / "link",
        "nul\0nul",
    ]
    listing = listed(*paths, tmp_path / "good")
    assert len(listing.files) == 1
    assert list(listing.unreadable) == [str(p) for p in paths]
    assert listing.unreadable[str(paths[0])] == "No such file or directory; check the path"
    assert all(len(reason.splitlines()) == 1 for reason in listing.unreadable.values())


def test_a_folder_that_may_not_be_searched_is_named(tmp_path: Path) -> None:
    """A folder without permission is unreadable, not empty."""
    (tmp_path / "closed").mkdir(mode=0)
    tmp_path.chmod(0o755)
    # Root may search any folder: it becomes somebody else, in the folder, once all is imported.
    script = (
        "import os, sys, threading\n"
        "from connectors.capture_files import list_captures\n"
        "os.chdir(sys.argv[1]); os.geteuid() or os.setuid(65534)\n"
        "print(list_captures(('.',), 65536, threading.Event()).unreadable)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False
    )
    want = "{'./closed': 'Permission denied; give this user the right to read it'}\n"
    assert done.stdout == want, done.stderr


def test_a_first_packet_behind_large_blocks_is_found(tmp_path: Path) -> None:
    """Blocks of a few hundred kilobytes before the first packet do not hide its time."""
    at = SOME[0].at_ns // 1000
    blocks = make.section() + make.block(0x0A, bytes(300_000)) + make.interface()
    (tmp_path / "keys").write_bytes(blocks + make.enhanced(b"x", at + 5, 1))
    (tmp_path / "plain").write_bytes(make.pcap(SOME))
    files = listed(tmp_path).files
    assert [Path(f.path).name for f in files] == ["plain", "keys"]
    assert files[1].first_ns == at * 1000 + 5000


def test_identity_is_of_the_content_however_it_comes(tmp_path: Path) -> None:
    """Plain, compressed and through a pipe a capture has one identity."""
    whole = make.pcap(make.packets(500))
    (tmp_path / "plain").write_bytes(whole)
    (tmp_path / "packed").write_bytes(gzip.compress(whole))
    found = [listed(tmp_path / name).files[0] for name in ("plain", "packed")]
    os.mkfifo(tmp_path / "fifo")
    with subprocess.Popen(["cp", tmp_path / "plain", tmp_path / "fifo"]) as writer:
        piped = listed(tmp_path / "fifo").files[0]
        assert content(open_stream(piped, threading.Event())) == whole
        assert writer.wait() == 0
    assert {f.source for f in [*found, piped]} == {found[0].source}
    assert piped.fingerprint[:2] == (-1, -1)


def test_files_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    """Files with one head differ in identity when they differ in size or end; copies do not."""
    some = make.packets(900)
    changed = [*some[:-1], Packet(some[-1].at_ns, bytes(len(some[-1].data)), some[-1].wirelen)]
    for name, packets in {"a": some, "b": changed, "c": some[:-1], "d": some}.items():
        (tmp_path / name).write_bytes(make.pcap(packets))
    a, b, c, d = (f.source for f in listed(tmp_path).files)
    assert a == d
    assert len({a, b, c}) == 3
    again = listed(tmp_path).files
    assert [f.source for f in again] == [a, b, c, d]
    for file in again:
        open_stream(file, threading.Event()).close()


def test_a_capture_that_changed_before_its_turn_is_refused(tmp_path: Path) -> None:
    """A file replaced or gone since it was listed is not read under the old one's name."""
    path = tmp_path / "f"
    path.write_bytes(make.pcap(SOME))
    (file,) = listed(path).files
    path.write_bytes(make.pcap(SOME) + b"more")
    open_stream(file, threading.Event()).close()
    for other in (make.pcapng(SOME), b"", gzip.compress(b"")):
        path.write_bytes(other)
        with pytest.raises(SourceError, match="replaced"):
            open_stream(file, threading.Event())
    path.unlink()
    with pytest.raises(SourceError, match="No such file"):
        open_stream(file, threading.Event())
    os.mkfifo(path)
    with pytest.raises(SourceError, match=r"stopped|replaced"):
        open_stream(file, stopped())


@pytest.mark.parametrize("packed", [False, True])
def test_standard_input_is_read_through_a_pipe(
    monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    """What comes through a pipe, compressed or not, is read whole after its head was looked at."""
    whole = make.pcap(make.packets(300))
    reading, writing = os.pipe()
    with os.fdopen(reading) as stdin, os.fdopen(writing, "wb") as out:
        monkeypatch.setattr(sys, "stdin", stdin)
        out.write(gzip.compress(whole) if packed else whole)
        out.close()
        (file,) = listed("-", "-").files
        assert (file.path, file.first_ns) == ("-", SOME[0].at_ns)
        assert content(open_stream(file, threading.Event())) == whole


def test_a_slow_pipe_is_read_as_it_comes() -> None:
    """A read returns what has come, one byte at first, and does not wait for more."""
    reading, writing = os.pipe()
    view = memoryview(bytearray(100))
    with os.fdopen(writing, "wb", buffering=0) as out:
        out.write(b"ab")
        with CaptureStream(io.FileIO(reading, "rb"), threading.Event()) as stream:
            assert [stream.readinto(view), bytes(view[:2])] == [2, b"ab"]
            out.write(b"c")
            assert [stream.readinto(view), bytes(view[:1])] == [1, b"c"]
            os.set_blocking(reading, False)
            out.write(b"d" * 7)
            assert stream.readinto(view) == 7
            out.close()
            assert stream.readinto(view) == 0
            assert stream.at_byte == 10


def test_waiting_for_a_pipe_ends_with_the_run(tmp_path: Path) -> None:
    """A pipe with no writer, and one whose writer is silent, do not hold up a run that stops."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SourceError, match="stopped"):
        open_capture(str(tmp_path / "fifo"), stopped())
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb", buffering=0) as out, io.FileIO(reading, "rb") as raw:
        out.write(b"ab")
        stream = CaptureStream(raw, stopped())
        view = memoryview(bytearray(9))
        assert stream.readinto(view) == 2
        with pytest.raises(SourceError, match="stopped"):
            stream.readinto(view)


def test_a_run_that_stops_looks_at_no_further_file(tmp_path: Path) -> None:
    """A stop ends the search for captures, also inside a file that inflates to nothing for long."""
    for name in ("a.pcap", "b.pcap"):
        (tmp_path / name).write_bytes(make.pcap(SOME))
    listing = list_captures((str(tmp_path), str(tmp_path / "a.pcap")), 1 << 18, stopped())
    assert (listing.files, listing.unreadable) == ([], {})
    stopping = threading.Event()
    (tmp_path / "c.pcap.gz").write_bytes(gzip.compress(b"") * 40_000 + b"?")
    with open_capture(str(tmp_path / "c.pcap.gz"), stopping) as stream:
        stopping.set()
        with pytest.raises(SourceError, match="stopped"):
            stream.readinto(memoryview(bytearray(9)))


def test_terminals_and_closed_input_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal, a closed standard input and a folder in its place are named with the cure."""
    control, terminal = os.openpty()
    with os.fdopen(control, "rb"), os.fdopen(terminal) as stdin:
        name = os.ttyname(terminal)
        monkeypatch.setattr(sys, "stdin", stdin)
        assert "is a terminal" in listed("-").unreadable["-"]
        assert "is a terminal" in listed(name).unreadable[name]
    assert "pipe a capture into it" in listed("-").unreadable["-"]
    monkeypatch.setattr(sys, "stdin", None)
    assert "pipe a capture into it" in listed("-").unreadable["-"]
    assert listed("/dev/null").unreadable["/dev/null"] == "the file is empty"


@pytest.mark.parametrize("packed", [False, True])
def test_streams_of_files_read_skip_and_put_back(tmp_path: Path, packed: bool) -> None:
    """A file's stream fills what it is given, skips to any offset, returns what was put back."""
    path = tmp_path / "f"
    path.write_bytes(gzip.compress(TEXT) if packed else TEXT)
    for offset in (0, 1, 2, 3, PIPE_BYTES, len(TEXT) - 1, len(TEXT)):
        stream = open_capture(str(path), threading.Event())
        stream.skip_to(offset)
        assert content(stream) == TEXT[offset:]
    with open_capture(str(path), threading.Event()) as stream:
        view = memoryview(bytearray(500_000))
        assert stream.readinto(view) == 500_000
        stream.unread(bytes(view[-9:]))
        assert stream.readinto(view[:10]) == 10
        assert bytes(view[:10]) == TEXT[499_991:500_001]
        assert 0 < stream.at_byte <= path.stat().st_size


def test_skipping_behind_the_end_of_gzip_is_refused(tmp_path: Path) -> None:
    """A position that lies behind the content is named rather than waited for."""
    path = tmp_path / "f"
    path.write_bytes(gzip.compress(b"short"))
    with (
        open_capture(str(path), threading.Event()) as stream,
        pytest.raises(SourceError, match="before the recovered position"),
    ):
        stream.skip_to(6)
