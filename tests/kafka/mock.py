"""Brokers that fail to order: librdkafka's mock cluster, for what a real broker cannot be made to.

It proves nothing about delivery; it answers with the errors it was given, or not at all.

Source: librdkafka 2.16, rdkafka_mock.h, reached through the library that the client has loaded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import cimpl

PRODUCE = 0
INIT_PRODUCER_ID = 22
"""Kinds of requests, by their number in the protocol."""

_LIBRARY = ctypes.CDLL(cimpl.__file__)
_HANDLE, _TEXT, _NUMBER = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int


def _function(name: str, result: object, *arguments: object) -> Any:
    found = getattr(_LIBRARY, f"rd_kafka_{name}")
    found.restype, found.argtypes = result, arguments
    return found


_conf = _function("conf_new", _HANDLE)
_set = _function("conf_set", _NUMBER, _HANDLE, _TEXT, _TEXT, _HANDLE, ctypes.c_size_t)
_new = _function("new", _HANDLE, _NUMBER, _HANDLE, _HANDLE, ctypes.c_size_t)
_destroy = _function("destroy", None, _HANDLE)
_cluster = _function("mock_cluster_new", _HANDLE, _HANDLE, _NUMBER)
_end = _function("mock_cluster_destroy", None, _HANDLE)
_where = _function("mock_cluster_bootstraps", _TEXT, _HANDLE)
_topic = _function("mock_topic_create", _NUMBER, _HANDLE, _TEXT, _NUMBER, _NUMBER)
_down = _function("mock_broker_set_down", _NUMBER, _HANDLE, ctypes.c_int32)
_up = _function("mock_broker_set_up", _NUMBER, _HANDLE, ctypes.c_int32)
_delay = _function("mock_broker_set_rtt", _NUMBER, _HANDLE, ctypes.c_int32, _NUMBER)
_fail = _function("mock_push_request_errors_array", None, _HANDLE, ctypes.c_int16, ctypes.c_size_t,
                  ctypes.POINTER(_NUMBER))  # fmt: skip


class MockBroker:
    """One broker.

    Attributes:
        servers: Its address, `host:port`.
    """

    def __init__(self, cluster: int) -> None:
        self._cluster = cluster
        self.servers = _where(cluster).decode()

    def create(self, *names: str, partitions: int = 1) -> None:
        """Make topics."""
        for name in names:
            assert _topic(self._cluster, name.encode(), partitions, 1) == 0

    def down(self) -> None:
        """Refuse all connections, and end those there are."""
        assert _down(self._cluster, 1) == 0

    def up(self) -> None:
        """Answer again."""
        assert _up(self._cluster, 1) == 0

    def delay(self, by_ms: int) -> None:
        """Let each answer come so much later."""
        assert _delay(self._cluster, 1, by_ms) == 0

    def fail(self, kind: int, *errors: int) -> None:
        """Answer the next requests of a kind with these errors, one each."""
        _fail(self._cluster, kind, len(errors), (_NUMBER * len(errors))(*errors))


@contextmanager
def mock_broker() -> Iterator[MockBroker]:
    """Yield a broker that ends with the block."""
    conf = _conf()
    said = ctypes.create_string_buffer(512)
    assert _set(conf, b"log_level", b"0", said, len(said)) == 0
    client = _new(0, conf, said, len(said))
    assert client, said.value
    cluster = _cluster(client, 1)
    try:
        yield MockBroker(cluster)
    finally:
        _end(cluster)
        _destroy(client)
