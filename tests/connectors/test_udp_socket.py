"""UDP sockets: what they take, what they were granted, and one clear line when they cannot."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from connectors.udp_socket import UdpOptions, UdpSocket, open_sockets
from core.datagrams import KERNEL_DROPPED
from core.errors import PenstockError, SourceError, UsageError
from tests.senders import one

Opener = Callable[..., list[UdpSocket]]


@pytest.fixture
def opened() -> Iterator[Opener]:
    """Yield what opens sockets that are closed after the test."""
    with ExitStack() as stack:

        def begin(*addresses: str, **options: int) -> list[UdpSocket]:
            sockets = open_sockets(addresses, UdpOptions(**options))  # type: ignore[arg-type]  # bool is int
            for each in sockets:
                stack.callback(each.close)
            return sockets

        yield begin


def proc_drops(handle: socket.socket) -> int:
    """Return what /proc says the kernel dropped on a socket."""
    inode = str(os.fstat(handle.fileno()).st_ino)
    name = "udp6" if handle.family == socket.AF_INET6 else "udp"
    lines = Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    return next(int(line.split()[12]) for line in lines if line.split()[9] == inode)


def test_any_address_of_both_families_side_by_side(opened: Opener) -> None:
    """The same port of 0.0.0.0 and of [::] is two sockets, neither of which takes the other's."""
    v4 = opened("0.0.0.0:0")[0]
    v6 = opened(f"[::]:{v4.port}")[0]
    one(v4.port, b"four")
    one(v6.port, b"six", host="::1")
    assert v4.handle.recv(10) == b"four"
    assert v6.handle.recv(10) == b"six"
    assert v6.name == f"[::]:{v4.port}"


def test_addresses_named_twice_are_opened_once(opened: Opener) -> None:
    """A list of addresses may overlap."""
    free = opened("127.0.0.1:0")[0]
    free.close()
    assert len(opened(f"127.0.0.1:{free.port}", f"127.0.0.1:{free.port}")) == 1


def test_what_was_granted_is_said(opened: Opener) -> None:
    """A buffer that was granted needs no line; one that was not names the limit that held."""
    asked = UdpOptions(buffer_bytes=100_000)
    assert opened("127.0.0.1:0", buffer_bytes=100_000)[0].notices(asked) == []
    less = opened("127.0.0.1:0", buffer_bytes=50_000, gro=False)[0]
    lines = less.notices(asked)
    assert "receive buffer of 50000 bytes, 100000 asked for" in lines[0]
    assert "net.core.rmem_max" in lines[0]
    assert "UDP_GRO" in lines[1]


def test_a_port_in_use_is_one_line(opened: Opener) -> None:
    """Two sockets of one port are refused unless both share it."""
    first = opened("127.0.0.1:0")[0]
    with pytest.raises(SourceError, match=rf"^udp 127.0.0.1:{first.port}: the port is in use; .+$"):
        opened(f"127.0.0.1:{first.port}")
    shared = opened("127.0.0.1:0", reuse_port=True)[0]
    assert opened(f"127.0.0.1:{shared.port}", reuse_port=True)[0].port == shared.port


def test_a_failure_leaves_nothing_open(opened: Opener) -> None:
    """When the second address cannot be opened, the first one is free again."""
    taken, free = opened("127.0.0.1:0")[0], opened("127.0.0.1:0")[0]
    free.close()
    with pytest.raises(SourceError):
        opened(f"127.0.0.1:{free.port}", f"127.0.0.1:{taken.port}")
    assert opened(f"127.0.0.1:{free.port}")[0].port == free.port


@pytest.mark.parametrize(
    ("address", "error", "line"),
    [
        ("192.0.2.1:9", SourceError, "not an address of this machine"),
        ("9999", UsageError, "want HOST:PORT"),
        ("::1:9999", UsageError, "want HOST:PORT"),
        ("[127.0.0.1]:9999", UsageError, "want HOST:PORT"),
        (":9999", UsageError, "want HOST:PORT"),
        ("127.0.0.1:70000", UsageError, "the port 0 to 65535"),
        ("127.0.0.1:x", UsageError, "the port 0 to 65535"),
        ("no\nhost.invalid:1", UsageError, "want HOST:PORT"),
        (f"{'a' * 70}.invalid:1", UsageError, "no address of this name"),
        ("fe80::1%nosuch0:1", UsageError, "want HOST:PORT"),
        ("[fe80::1%nosuch0]:1", UsageError, "no address of this name"),
    ],
)
def test_wrong_addresses_are_one_line(
    opened: Opener, address: str, error: type[PenstockError], line: str
) -> None:
    """Whatever is asked for, the answer is one line that names it."""
    with pytest.raises(error, match=line) as caught:
        opened(address)
    assert "\n" not in str(caught.value)


def test_no_address_is_an_error(opened: Opener) -> None:
    """A list of no addresses is refused."""
    with pytest.raises(UsageError, match="no address"):
        opened()


def test_without_privilege_low_ports_and_large_buffers_are_refused() -> None:
    """A user without capabilities hears which one a low port needs, and gets a smaller buffer."""
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first < 2:
        pytest.skip("net.ipv4.ip_unprivileged_port_start lets everybody open every port")
    limit = int(Path("/proc/sys/net/core/rmem_max").read_text())
    code = f"""
import encodings.idna, os  # nobody may not be let into the folder of this Python later
from connectors.udp_socket import UdpOptions, open_sockets
from core.errors import SourceError
if os.getuid() == 0:
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
options = UdpOptions(buffer_bytes={limit + 1000})
print(open_sockets(["127.0.0.1:0"], options)[0].notices(options)[0])
try:
    open_sockets(["127.0.0.1:{first - 1}"], options)
except SourceError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    buffer, port = done.stdout.splitlines()
    assert f"receive buffer of {limit} bytes, {limit + 1000} asked for" in buffer
    assert f"udp 127.0.0.1:{first - 1}: " in port
    assert "CAP_NET_BIND_SERVICE" in port


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_drops_are_counted_as_proc_counts_them(opened: Opener, host: str) -> None:
    """What finds no room, and what is refused, is in the tally and in /proc/net alike."""
    shown = f"[{host}]" if ":" in host else host
    receiving = opened(f"{shown}:0", buffer_bytes=1, gro=False)[0]
    for _ in range(50):
        one(receiving.port, bytes(100), host=host)
    assert receiving.waiting_bytes() > 0
    receiving.refuse()
    one(receiving.port, b"late", host=host)
    held = 0
    while True:
        try:
            assert receiving.handle.recv(200) == bytes(100)
        except BlockingIOError:
            break
        held += 1
    receiving.count_drops()
    assert 0 < held < 50
    assert held + receiving.tally[KERNEL_DROPPED] == 51
    assert receiving.tally[KERNEL_DROPPED] == proc_drops(receiving.handle)
