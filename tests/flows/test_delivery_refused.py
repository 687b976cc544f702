"""What the brokers do not take, because of its size, is a dead letter with the reason."""

from __future__ import annotations

import base64
import json
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.frame import encode_frame
from core.topics import TELEMETRY, TELEMETRY_DLQ
from tests.captures import Packet, pcap
from tests.flows.deliveries import Place, check_messages, check_rows, written
from tests.frames import SECOND_NS, udp_packet
from tests.kafka.topics import Message, create
from tests.schemas import validator

BEGIN_NS = 1_700_000_000 * SECOND_NS
VALUE_BYTES_MAX = 65_536
"""Of a refused record's value, kept in its dead letter."""


def capture(path: Path, *packets: bytes) -> Path:
    """Write packets a millisecond apart."""
    content = [Packet(BEGIN_NS + i * 1_000_000, data, len(data)) for i, data in enumerate(packets)]
    path.write_bytes(pcap(content, snaplen=16 << 20))
    return path


def frames(count: int, *body_bytes: int) -> list[bytes]:
    """Return packets of one device with bodies of sizes that take turns."""
    text = np.random.default_rng(6)  # of which nothing can be compressed
    sizes = islice(cycle(body_bytes), count)
    bodies = [b'"%s"' % text.bytes(size // 2 - 1).hex().encode() for size in sizes]
    return [udp_packet(encode_frame("pump-7", seq, body)) for seq, body in enumerate(bodies)]


def malformed(size: int) -> bytes:
    """Return a packet that claims to be IPv4 and is not."""
    return bytes.fromhex("0200000000020200000000010800") + b"\x15" * (size - 14)


def letters(messages: list[Message], topic: str) -> list[dict[str, Any]]:
    """Return the dead letters of records that were refused; all letters must fit the schema."""
    schema = validator(topic)
    found = []
    for message in messages:
        letter = json.loads(message.value)
        schema.validate(letter)
        assert letter["reason"].encode() == message.key
        if "topic" in letter:
            found.append(letter)
    return found


def test_a_record_larger_than_the_limit_is_a_dead_letter(place: Place, tmp_path: Path) -> None:
    """Records of nearly 1 MB are delivered; of larger ones the head is, with the reason."""
    path = capture(tmp_path / "a.pcap", malformed(100), malformed(740_000), malformed(760_000),
                   malformed(4_000_000), *frames(3, 60_000))  # fmt: skip
    rules: dict[str, dict[str, Any]] = {"capture": {"packet_bytes_max": 8 << 20}}
    sent = written(path, folder=tmp_path / "files", **rules)
    rows = {row.ordinal: row for row in sent[TELEMETRY_DLQ]}
    fits = [row for row in rows.values() if len(row.value) < 1_000_000 - 1_000]
    assert sorted(row.ordinal for row in fits) == [0, 1]
    assert len(rows[1].value) > 980_000
    place.configure(**rules)
    done = place.run(path)
    assert done.code == 0, done.err
    assert done.summary["delivered"] == {TELEMETRY: 3, TELEMETRY_DLQ: 2}
    assert done.summary["dead_lettered"] == {TELEMETRY_DLQ: 2}
    assert done.summary["lost"] == {}
    assert check_messages(place.arrived(TELEMETRY), sent[TELEMETRY], TELEMETRY) == 0
    arrived = place.arrived(TELEMETRY_DLQ)
    assert len(arrived) == 4
    whole = [message for message in arrived if message.key != b"record_too_large"]
    assert check_messages(whole, fits, TELEMETRY_DLQ) == 0
    for letter in letters(arrived, TELEMETRY_DLQ):
        row = rows[letter["ordinal"]]
        assert (letter["reason"], letter["topic"]) == ("record_too_large", TELEMETRY_DLQ)
        assert letter["value_bytes"] == len(row.value)
        assert base64.b64decode(letter["value"]) == row.value[:VALUE_BYTES_MAX]
        assert (letter["ts"], letter["key"].encode()) == (row.at_ns, row.key)
        rows.pop(letter["ordinal"])
    assert sorted(rows) == [0, 1]


@pytest.mark.parametrize("recovery", [False, True])
def test_a_topic_that_takes_less_than_we_send(place: Place, tmp_path: Path, recovery: bool) -> None:
    """What is larger than a topic takes is a dead letter; smaller records beside it arrive."""
    create(place.servers, place.names[TELEMETRY], partitions=3, max_message_bytes="20000")
    path = capture(tmp_path / "a.pcap", *frames(40, 500, 30_000))
    sent = written(path, folder=tmp_path / "files")[TELEMETRY]
    small = [row for row in sent if len(row.value) < 10_000]
    place.configure()
    done = place.run(path, *(("--recovery", "store") if recovery else ()))
    assert done.code == 0, done.err
    assert done.summary["delivered"] == {TELEMETRY: 20}
    assert done.summary["dead_lettered"] == {TELEMETRY: 20}
    assert done.summary["lost"] == {}
    assert check_messages(place.arrived(TELEMETRY), small, TELEMETRY) == 0
    found = letters(place.arrived(TELEMETRY_DLQ), TELEMETRY_DLQ)
    assert {letter["reason"] for letter in found} == {"record_too_large"}
    kept = {letter["ordinal"]: base64.b64decode(letter["value"]) for letter in found}
    assert kept == {row.ordinal: row.value for row in sent if row not in small}


def test_arrow_messages_stay_within_the_limit(place: Place, tmp_path: Path) -> None:
    """Records are spread over messages, none of them above the limit; all arrive."""
    path = capture(tmp_path / "a.pcap", *frames(300, 3_000))
    sent = written(path, folder=tmp_path / "files")[TELEMETRY]
    place.configure(kafka={"format": "arrow", "message_bytes_max": 50_000})
    done = place.run(path)
    assert done.code == 0, done.err
    arrived = place.arrived(TELEMETRY)
    assert max(len(message.value) for message in arrived) <= 50_000
    assert len(arrived) < 40
    assert check_rows(arrived, sent, TELEMETRY) == 0
    assert done.summary["delivered"] == {TELEMETRY: 300}
    assert done.summary["dead_lettered"] == {}
