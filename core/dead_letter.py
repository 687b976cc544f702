"""Dead letters as they are read: a packet that does not decode, or a record the brokers refused.

Laws:

1. Any bytes are a letter of one of the two kinds, or none: whoever can write to a topic can write
   anything, so that numbers are bounded and nothing else is believed.
2. A record is put back as what it was: key, value, time and place of its packet are those of its
   letter, and so is every identity that is derived from them.
3. What is not whole is not put back, and neither is what was meant for somewhere else.

Not here: how letters are written (`core.records.rejects`, `core.undeliverable`); how malformed
packets are read again (`core.letters_in`).

Source: docs/schemas, the topics whose names end in `.dlq`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from core.topics import TELEMETRY, TOPICS
from core.undeliverable import Count, Source, Time, Undeliverable, opened

if TYPE_CHECKING:
    from core.batches import RecordBatch


class Malformed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A packet that does not decode.

    Attributes:
        reason: Why, in one word.
        source: Identity of its file, 16 hexadecimal digits.
        ordinal: Number of the packet in that file.
        ts: Its time, ns since the epoch.
        linktype: Its link type.
        wire_bytes: Its bytes on the wire.
        packet: What was captured of it.
    """

    reason: Annotated[str, Meta(pattern=r"^[a-z0-9_]{1,32}\Z")]
    source: Source
    ordinal: Count
    ts: Time
    linktype: Count
    wire_bytes: Count
    packet: bytes


class _Numbered(msgspec.Struct):
    """A record of telemetry, as far as its headers tell of it."""

    seq: Annotated[int, Meta(ge=0, le=(1 << 32) - 1)] | UnsetType = UNSET
    id: str | UnsetType = UNSET


Letter = Malformed | Undeliverable


def letter(value: bytes) -> Letter | None:
    """Return what a dead letter says, or `None` when it is none.

    Args:
        value: Any bytes.
    """
    refused = opened(value)
    if refused is not None:
        return refused if len(refused.value) <= refused.value_bytes else None
    try:
        return msgspec.json.decode(value, type=Malformed)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def why_not(refused: Undeliverable, dead_letters: str) -> str:
    """Return why a record cannot be put back, in one word; empty when it can.

    Args:
        refused: Its dead letter.
        dead_letters: The topic where that was found, as `core.topics` has it.
    """
    topic = TOPICS.get(refused.topic)
    if topic is None or topic.dead_letters != dead_letters:
        return "other_topic"
    if not refused.is_whole:
        return "value_cut"
    return "no_seq" if topic.name == TELEMETRY and _seq(refused) is None else ""


def records(letters: Sequence[Undeliverable]) -> RecordBatch:
    """Return the records of letters as they were to be delivered.

    Args:
        letters: Of one topic, at least one, each of which can be put back (`why_not`); all with
            sequence numbers, or all without (`has_seq`).
    """
    import numpy as np

    from core.batches import RecordBatch

    def joined(parts: Sequence[bytes]) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        return np.frombuffer(bytearray(b"".join(parts)), np.uint8)

    def ends(parts: Sequence[bytes]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.cumsum([len(part) for part in parts], dtype=np.int64)

    values = [each.value for each in letters]
    keys = [each.key_bytes or b"" for each in letters]
    topic = letters[0].topic
    seqs = [(_seq(each) or 0) if has_seq(each) else 0 for each in letters]
    return RecordBatch(
        topic=topic,
        values=joined(values),
        value_end=ends(values),
        keys=joined(keys),
        key_end=ends(keys),
        at_ns=np.array([each.ts for each in letters], np.int64),
        source=np.array([int(each.source, 16) for each in letters], np.uint64),
        ordinal=np.array([each.ordinal for each in letters], np.int64),
        seq=np.array(seqs, np.uint32),
        has_seq=has_seq(letters[0]),
    )


def has_seq(refused: Undeliverable) -> bool:
    """Tell whether a record is a reading with a sequence number."""
    return refused.topic == TELEMETRY and _seq(refused) is not UNSET


def _seq(refused: Undeliverable) -> int | UnsetType | None:
    """Return the sequence number of a reading, if it has one; `None` when it is no reading."""
    try:
        found = msgspec.json.decode(refused.value, type=_Numbered)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None if found.seq is UNSET and found.id is UNSET else found.seq
