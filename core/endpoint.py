"""Endpoints: `HOST:PORT`, an address of IPv6 in brackets, as flags have them.

Law: whatever the text, the result is an endpoint or one `UsageError` that says what would be one.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from core.errors import UsageError

_ENDPOINT = re.compile(
    r"(?:\[(?P<six>[^\[\]\s]*:[^\[\]\s]*)\]|(?P<host>[^\[\]:\s]+)):(?P<port>[0-9]{1,5})"
)


class Endpoint(NamedTuple):
    """Where datagrams go to, or come to; its text is `HOST:PORT` again.

    Attributes:
        host: A name or an address, without brackets.
        port: 0 … 65535; 0 is any that is free.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(text: str, port_min: int = 1) -> Endpoint:
    """Take an endpoint apart.

    Args:
        text: `HOST:PORT`, `[ADDRESS]:PORT` for IPv6.
        port_min: The lowest port allowed.

    Returns:
        The endpoint; its host is not looked up.

    Raises:
        UsageError: It is none.
    """
    match = _ENDPOINT.fullmatch(text)
    if match is None or not port_min <= int(match["port"]) <= 0xFFFF or "\0" in text:
        want = f"want HOST:PORT or [ADDRESS]:PORT, the port {port_min} to 65535"
        raise UsageError(f"{text[:120]!r} is no endpoint: {want}")
    return Endpoint(match["six"] or match["host"], int(match["port"]))
