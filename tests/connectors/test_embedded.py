"""The embedded broker: it starts, takes what fits, and is gone afterwards."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Producer
from hypothesis import given
from hypothesis import strategies as st

from connectors.embedded import HEADERS_BYTES, RECORDS_MAX, Broker, EmbeddedSink, pieces
from connectors.ledger import Ledger
from connectors.pressure import Pressure
from connectors.read_back import Message
from core.errors import SettingError, SinkError
from core.sections import KafkaSettings
from core.topics import FINDINGS, TELEMETRY, TELEMETRY_DLQ
from tests.records import Row, records_of
from tests.records import record_batch as records


@contextmanager
def opened(
    settings: KafkaSettings | None = None, parts: int = 1
) -> Iterator[tuple[EmbeddedSink, Ledger, list[Message]]]:
    """Yield a sink whose broker runs, with its ledger and what its consumer has seen."""
    ledger, seen, said = Ledger(), list[Message](), list[str]()
    sink = EmbeddedSink(
        settings=settings or KafkaSettings(),
        parts=parts,
        pressure=Pressure(),
        stopping=threading.Event(),
        notify=said.append,
        on_lost=said.append,
        on_counts=ledger.write,
        topics=[TELEMETRY, TELEMETRY_DLQ, FINDINGS],
        on_record=seen.append,
    )
    sink.check()
    try:
        yield sink, ledger, seen
    finally:
        sink.close()
        sink.close()
    assert said == []


def threads() -> set[str]:
    """Return the threads of this process, native ones too."""
    return {task.name for task in Path("/proc/self/task").iterdir()}


def sockets() -> set[str]:
    """Return the sockets of this process."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # another thread may close it meanwhile
            found.add(str(link.readlink()))
    return {target for target in found if "socket:" in target}


def test_nothing_is_left_of_a_broker(capfd: pytest.CaptureFixture[str]) -> None:
    """A closed broker has taken its threads and sockets along, and nobody answers at its address.

    It says nothing on either output, and may be closed again.
    """
    before = threads(), sockets()
    broker = Broker([TELEMETRY, FINDINGS])
    assert len(threads()) > len(before[0])
    assert len(sockets()) > len(before[1])
    host, _, port = broker.servers.partition(":")
    assert host == "127.0.0.1"
    assert set(broker.partitions) == {TELEMETRY, FINDINGS}
    assert min(broker.partitions.values()) > 1
    broker.close()
    broker.close()
    assert (threads(), sockets()) == before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))
    assert capfd.readouterr() == ("", "")


@given(
    values=st.lists(st.binary(max_size=900), max_size=60),
    bytes_max=st.integers(1, 8_000),
)
def test_pieces_are_the_whole_in_order(values: list[bytes], bytes_max: int) -> None:
    """Pieces together are the batch; none holds more than it may, unless it is one record."""
    batch = records(TELEMETRY, values)
    cut = list(pieces(batch, bytes_max))
    assert [v for piece, _ in cut for v in piece.value_list()] == values
    assert [k for piece, _ in cut for k in piece.key_list()] == batch.key_list()
    for name in ("at_ns", "source", "ordinal", "seq"):
        columns = [getattr(piece, name) for piece, _ in cut]
        assert np.concatenate([[], *columns]).tolist() == getattr(batch, name).tolist()
    for piece, size in cut:
        assert size == piece.values.size + piece.keys.size + HEADERS_BYTES * len(piece)
        assert size <= bytes_max or len(piece) == 1
        assert {piece.topic} == {TELEMETRY}


def test_everything_is_read_back(capfd: pytest.CaptureFixture[str]) -> None:
    """More than a partition of the broker can hold goes through one, uncompressed, in order."""
    before = threads(), sockets()
    values = [b"%06d" % n + bytes(40_000) for n in range(500)]
    with opened(KafkaSettings(compression="none")) as (sink, ledger, seen):
        part = sink.build_part("sink", "0000", None)
        for first in range(0, 500, 250):
            part.write_batch([records(TELEMETRY, values[first : first + 250])])
        part.close()
        sink.verify()
        assert ledger.total()[f"delivered.{TELEMETRY}"] == 500
    assert [m.value for m in seen] == values
    assert {m.partition for m in seen} == {seen[0].partition}
    assert (threads(), sockets()) == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("form", ["json", "arrow"])
def test_parts_on_several_threads_share_the_broker(form: str) -> None:
    """Whatever they write at once is read back, and counted once."""
    with opened(KafkaSettings(format=form), parts=3) as (sink, ledger, _):  # type: ignore[arg-type]  # of two
        parts = [sink.build_part("sink", f"{part:04d}", None) for part in range(3)]

        def write(number: int) -> None:
            for _ in range(4):
                parts[number].write_batch([records(TELEMETRY, [b'{"n":%d}' % number] * 3_000)])
                parts[number].snapshot()

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(write, range(3)))
        for part in parts:
            part.close()
        sink.verify()
        assert ledger.total()[f"delivered.{TELEMETRY}"] == 36_000


def test_a_record_too_large_is_read_back_as_a_dead_letter() -> None:
    """What was refused counts where it went."""
    settings = KafkaSettings(message_bytes_max=2_000)
    with opened(settings) as (sink, ledger, seen):
        part = sink.build_part("sink", "0000", None)
        part.write_batch([records(TELEMETRY, [b"1", b"x" * 3_000 + b"!", b"2"])])
        part.close()
        sink.verify()
        total = ledger.total()
    assert total[f"delivered.{TELEMETRY}"] == 2
    assert total[f"dead_lettered.{TELEMETRY}"] == 1
    letters = [m for m in seen if m.topic == TELEMETRY_DLQ]
    assert [json.loads(m.value)["reason"] for m in letters] == ["record_too_large"]


def test_a_record_that_was_missed_is_said() -> None:
    """When the consumer has counted one less than was delivered, that is an error."""
    with opened() as (sink, _, _):
        part = sink.build_part("sink", "0000", None)
        part.write_batch([records(TELEMETRY, [b"1", b"2"]), records(FINDINGS, [b"{}"])])
        part.close()
        sink.verify()
        assert sink._reader is not None
        sink._reader.records[TELEMETRY] -= 1
        words = "embedded: telemetry.readings.v1: 2 records were delivered and 1 read back; "
        with pytest.raises(SinkError, match=words):
            sink.verify()


def test_a_record_of_somebody_else_is_said() -> None:
    """When the consumer has found one more than was delivered, that is an error too."""
    with opened() as (sink, _, _):
        part = sink.build_part("sink", "0000", None)
        part.write_batch([records(TELEMETRY, [b"1"])])
        assert sink._broker is not None
        other = Producer({"bootstrap.servers": sink._broker.servers, "log_level": 0})
        other.produce(FINDINGS, b"{}")
        other.close()
        part.close()
        words = "embedded: security.findings.v1: 0 records were delivered and 1 read back; "
        with pytest.raises(SinkError, match=words):
            sink.verify()


def test_the_last_record_that_fits_is_delivered_and_the_next_refused() -> None:
    """Of a batch that is too long, what fits arrives; the error says how much that was."""
    with opened() as (sink, ledger, seen):
        part = sink.build_part("sink", "0000", None)
        for _ in range(RECORDS_MAX // 8_000):
            part.write_batch([records(TELEMETRY, [b"{}"] * 8_000)])
        left = RECORDS_MAX % 8_000
        part.write_batch([records(FINDINGS, [b"{}"] * (left - 1))])
        with pytest.raises(SinkError, match="at most 100,000 records; delivered and") as refused:
            part.write_batch([records_of(FINDINGS, [Row(b"k", b"%d" % n) for n in range(2)])])
        assert refused.match(f"{left:,} of {FINDINGS}, {RECORDS_MAX - left:,} of {TELEMETRY}; for")
        assert len(seen) == RECORDS_MAX
        assert seen[-1].value == b"0"
        assert ledger.total()[f"delivered.{FINDINGS}"] == left
        with pytest.raises(SinkError, match="at most 100,000 records"):
            part.write_batch([records(FINDINGS, [b"{}"])])
        assert len(seen) == RECORDS_MAX


def test_settings_are_checked_before_the_broker_starts() -> None:
    """What no client can be built with is refused, and nothing was started."""
    before = threads()
    with (
        pytest.raises(SettingError, match=r"kafka\.linger_ms"),
        opened(KafkaSettings(linger_ms=2_000, delivery_s=1)),
    ):
        pass
    assert threads() == before


def test_options_for_other_brokers_are_left_alone() -> None:
    """Passwords and certificates are for brokers elsewhere, and may be missing here."""
    options = {"security.protocol": "SASL_SSL", "sasl.password": {"env": "NOT_SET_ANYWHERE"}}
    with opened(KafkaSettings(options=options)) as (sink, _, seen):  # type: ignore[arg-type]  # literal keys
        part = sink.build_part("sink", "0000", None)
        part.write_batch([records(TELEMETRY, [b"1"])])
        part.close()
        sink.verify()
    assert [m.value for m in seen] == [b"1"]
