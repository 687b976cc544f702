"""Undeliverable records: what the brokers refuse, as the JSON of a dead-letter topic.

    {"reason","topic","key","source","ordinal","ts","error","value_bytes","value"}

Laws:

1. A dead letter is strict JSON whatever the record holds: the value is in base64, and so is a key
   that is not UTF-8 (`key_base64`; `key` is then null, as it is for a record without one).
2. It is never refused for the reason that its record was: of a long value it holds the head, and
   says by `value_bytes` how long the whole is.
3. It names the packet as every record does, so that a record put back has the same identity.

Dead-letter topics hold malformed packets too (`core.records.rejects`). The two kinds have no reason
in common, and only this one has a `topic`.

Not here: what is refused and when (`connectors.returns`); reading dead letters
(`core.dead_letter`).

Source: RFC 8259; RFC 4648 §4.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from core.plain import plain

Refused = Literal["record_too_large", "record_invalid", "topic_unknown"]
"""Why the brokers did not take a record. It is the key of the dead letter too."""

Source = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Time = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""Fields that dead letters of both kinds have."""

VALUE_BYTES_MAX = 64 << 10
"""Of a value, kept in its dead letter."""
LETTER_BYTES_MAX = 1_000_000
"""Of a dead letter, unless its topic takes less."""
ERROR_CHARACTERS_MAX = 1_000


class Undeliverable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A record that the brokers refused.

    Attributes:
        reason: Why, in one word.
        topic: The topic it was meant for, as `core.topics` has it.
        key: Its key; `None` when it has none, or one that is not UTF-8.
        source: Identity of its packet's file, 16 hexadecimal digits.
        ordinal: Number of the packet in that file.
        ts: Time of the packet, ns since the epoch.
        error: What the brokers, or the client, said.
        value_bytes: Bytes of its value.
        value: The value, or its head.
        key_base64: Its key when that is not UTF-8.
    """

    reason: Refused
    topic: str
    key: str | None
    source: Source
    ordinal: Count
    ts: Time
    error: str
    value_bytes: Count
    value: bytes
    key_base64: bytes | UnsetType = UNSET

    @property
    def is_whole(self) -> bool:
        """Whether the value is all there, so that the record can be put back."""
        return len(self.value) == self.value_bytes

    @property
    def key_bytes(self) -> bytes | None:
        """The key as it was."""
        if self.key_base64 is not UNSET:
            return self.key_base64
        return None if self.key is None else self.key.encode()


def undeliverable(
    topic: str, key: bytes | None, value: bytes, at_ns: int, source: int, ordinal: int,
    reason: Refused, error: str, *, letter_bytes_max: int = LETTER_BYTES_MAX,
) -> tuple[bytes, bytes]:  # fmt: skip
    """Return key and value of the dead letter of a record.

    Args:
        topic: The topic it was meant for, as `core.topics` has it.
        key: Its key; `None` for none.
        value: Its value.
        at_ns: Time of its packet, ns since the epoch.
        source: Identity of the packet's file (`uint64`).
        ordinal: Number of the packet in that file.
        reason: Why it is undeliverable.
        error: What the brokers, or the client, said.
        letter_bytes_max: Most bytes of the dead letter, as far as the value can give way.
    """
    text, raw = _key(key)
    letter = Undeliverable(
        reason=reason, topic=topic, key=text, key_base64=raw, source=f"{source:016x}",
        ordinal=ordinal, ts=at_ns, error=plain(error[:ERROR_CHARACTERS_MAX]),
        value_bytes=len(value), value=b"",
    )  # fmt: skip
    # Base64 makes four bytes of three.
    room = max(letter_bytes_max - len(msgspec.json.encode(letter)), 0) // 4 * 3
    head = value[: min(room, VALUE_BYTES_MAX)]
    return reason.encode(), msgspec.json.encode(msgspec.structs.replace(letter, value=head))


def opened(value: bytes) -> Undeliverable | None:
    """Return the record of a dead letter, or `None` when the letter is of another kind.

    Args:
        value: Any bytes; a record of a dead-letter topic.
    """
    try:
        return msgspec.json.decode(value, type=Undeliverable)
    except (msgspec.DecodeError, UnicodeDecodeError):  # a malformed packet, or no letter of ours
        return None


def _key(key: bytes | None) -> tuple[str | None, bytes | UnsetType]:
    if key is None:
        return None, UNSET
    try:
        return key.decode(), UNSET
    except UnicodeDecodeError:
        return None, key
