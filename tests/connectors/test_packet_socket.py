"""Packet sockets that cannot be opened: one line says why, and what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from connectors.packet_socket import PacketOptions, open_sockets
from core.errors import SourceError, UsageError
from tests.netns import Namespace, tun

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nowhere", "packet nowhere: no such interface; `ip link` lists them"),
        ("right0123456789x", "packet right0123456789x: no such interface; `ip link` lists them"),
        ("a\0b\n", r"packet a\U00000000b\U0000000a: no such interface; `ip link` lists them"),
    ],
)
def test_interfaces_that_are_not_there(net: Namespace, name: str, line: str) -> None:
    """A name that nothing has is one line; a name is never cut to one that something has."""
    with net.entered(), pytest.raises(SourceError) as refused:
        open_sockets(["lo", name], PacketOptions())
    assert str(refused.value) == line


def test_an_interface_that_is_down_is_refused(net: Namespace) -> None:
    """It says how to bring it up."""
    net.ip("link", "add", "idle", "type", "bridge")
    with (
        net.entered(),
        pytest.raises(SourceError, match=r"^packet idle: the interface is down; `ip"),
    ):
        open_sockets(["idle"], PacketOptions())
    net.ip("link", "del", "idle")


def test_no_interface_and_filters_that_cannot_be(
    net: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing to capture on, a filter of nonsense, one longer than the kernel takes."""
    with net.entered():
        with pytest.raises(UsageError, match=r"^packet: no interface to capture on; "):
            open_sockets([], PacketOptions())
        with pytest.raises(UsageError, match=r"^filter 'nonsense at all': "):
            open_sockets(["right"], PacketOptions(filter="nonsense at all"))
        monkeypatch.setattr("connectors.packet_socket.KERNEL_LEN_MAX", 9)
        with pytest.raises(UsageError, match=r"^filter: \d+ instructions, more than the 9 that "):
            open_sockets(["right"], PacketOptions(filter="tcp port 80"))


def test_a_kind_of_interface_that_is_not_decoded(net: Namespace) -> None:
    """It is refused by its number, before a packet of it is taken for something else."""
    line = r"^packet radio: .*\(ARPHRD 801\) are not decoded"
    with tun(net, "radio", 801), net.entered(), pytest.raises(SourceError, match=line):
        open_sockets(["radio"], PacketOptions())


def test_without_the_privilege_one_line_names_it() -> None:
    """Who may not capture is told what is missing, and how to give it."""
    if shutil.which("setpriv") is None:
        pytest.skip("no `setpriv`: install util-linux")
    drop = [] if os.getuid() else ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"]
    code = (
        "from connectors.packet_socket import *\n"
        "try: open_sockets(['lo'], PacketOptions())\n"
        "except SourceError as error: print(error)"
    )
    done = subprocess.run(
        [*drop, sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("packet lo: capturing needs CAP_NET_RAW; run as root, or give it")
    assert done.stdout.count("\n") == 1
