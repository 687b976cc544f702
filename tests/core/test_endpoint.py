"""Endpoints are taken apart, and put together again, or refused in one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.endpoint import Endpoint, parse
from core.errors import UsageError


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:9999", "127.0.0.1", 9999),
        ("sink.example:1", "sink.example", 1),
        ("[::1]:65535", "::1", 65535),
        ("[fe80::1%eth0]:9999", "fe80::1%eth0", 9999),
    ],
)
def test_an_endpoint_is_a_host_and_a_port(text: str, host: str, port: int) -> None:
    """Addresses of IPv6 stand in brackets, which are no part of the host."""
    assert parse(text) == Endpoint(host, port)
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "host", "host:", ":9999", "host:0", "host:65536", "host:99999999", "host:x", "host:-1",
     "::1:9999", "[::1]", "[]:9", "[127.0.0.1]:9", "a b:9", "host:9\n", "host:٣", "udp://host:9"],
)  # fmt: skip
def test_what_is_none_is_refused(text: str) -> None:
    """The line quotes the text and says what would be one."""
    with pytest.raises(UsageError, match="is no endpoint: want HOST:PORT") as caught:
        parse(text)
    assert "\n" not in str(caught.value)


@given(st.text())
def test_any_text_is_an_endpoint_or_refused(text: str) -> None:
    """What is accepted says the same when it is written again."""
    try:
        found = parse(text)
    except UsageError:
        return
    assert parse(str(found)) == found
