"""Live runs on an interface: host mode as from files, device frames off the wire, clean ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether

from core.topics import FLOWS, FLOWS_DLQ, TELEMETRY
from tests.captures import decode
from tests.flows.lives import frames, live
from tests.flows.runs import PATIENCE_S, penstock, records, start, wait_until
from tests.netns import FrameSender, Namespace, namespace

pytestmark = pytest.mark.root

TIMES = ("first_ns", "last_ns", "ts", "source")


def untimed(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return records by topic, without times, sorted."""
    found: dict[str, list[dict[str, Any]]] = {}
    for (topic, _), lines in records(folder).items():
        for line in lines:
            value = json.loads(line)
            rest = {name: each for name, each in value.items() if name not in TIMES}
            found.setdefault(topic, []).append(rest)
    return {topic: sorted(rows, key=repr) for topic, rows in found.items()}


@contextmanager
def tcpdump(where: Namespace, path: Path, size: int) -> Iterator[None]:
    """Let tcpdump write what an interface carries, until its file has so many bytes."""
    if shutil.which("tcpdump") is None:
        pytest.skip("no `tcpdump`: install it")
    options = ["-i", where.right, "-w", str(path), "-U", "-B", "65536", "-Z", "root"]
    process = subprocess.Popen(
        where.execute(["tcpdump", *options]), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "listening on" in line:
                break
        yield
        # It throws away what it has not written when it is told to end.
        wait_until(process, lambda: path.stat().st_size >= size)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)


@pytest.mark.corpus
def test_records_are_those_of_a_replay_of_what_tcpdump_wrote(
    net: Namespace, corpus: Path, tmp_path: Path
) -> None:
    """Real traffic, live and from tcpdump's file of it: the same records but for their times."""
    folder = corpus / "captures"
    sent = [
        p.data
        for name in ("iot-benign", "vlan")
        for path in sorted((folder / name).glob("*.pcap"))
        for p in decode(path.read_bytes())[0]
        if p.linktype == 1 and 22 <= len(p.data) < 9000
    ]
    sent += [bytes(12) + b"\x08\x00\x61" + bytes(30)] * 3  # no header of IPv4
    flags = ("--iface", net.right, "--sink", "files:live", "--record", "own.pcap")
    with net.entered(), FrameSender(net, net.left) as sender, live(*flags, cwd=tmp_path) as run:
        size = 24 + sum(16 + len(each) for each in sent)
        with tcpdump(net, tmp_path / "dump.pcap", size):
            sender.send(sent)
        told = run.stop().summary
    assert told["packets_in"] == len(sent) > 5000
    assert (told["by"], told["live"], told["kernel_dropped"]) == ("host", True, 0)
    assert told["malformed"]
    for source in ("dump", "own"):
        again = penstock(
            "replay", f"{source}.pcap", "--by", "host", "--sink", f"files:{source}", "--json",
            cwd=tmp_path,
        ).summary  # fmt: skip
        for name in ("packets_in", "malformed", "frames", "passed"):
            assert again[name] == told[name], (source, name)
        assert untimed(tmp_path / source)[FLOWS] == untimed(tmp_path / "live")[FLOWS]
        assert untimed(tmp_path / source)[FLOWS_DLQ] == untimed(tmp_path / "live")[FLOWS_DLQ]
    assert told["delivered"][FLOWS] > 100


def test_device_frames_come_off_the_wire(net: Namespace, tmp_path: Path) -> None:
    """By device, what is sent to the port is telemetry, and what the filter rejects is not."""
    ether, ip = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02"), IP(src="192.0.2.1")
    sent = [bytes(ether / ip / UDP(dport=9999) / frame) for frame in frames(20)]
    sent += [bytes(ether / Dot1Q(vlan=7) / ip / UDP(dport=9999) / f) for f in frames(5, "dev-2")]
    sent += [bytes(ether / ip / UDP(dport=53) / b"x"), bytes(ether / ip)]
    keep = "udp or (vlan and udp)"
    flags = ("--iface", net.right, "--by", "device", "--filter", keep, "--sink", "files:out")
    with net.entered(), FrameSender(net, net.left) as sender, live(*flags, cwd=tmp_path) as run:
        sender.send(sent)
        told = run.stop(signal.SIGTERM).summary
    assert (told["by"], told["packets_in"], told["ignored"]) == ("device", 26, {"other_port": 1})
    seqs = [json.loads(line)["seq"] for line in records(tmp_path / "out")[TELEMETRY, "0000"]]
    assert seqs == [*range(20), *range(5)]


def test_an_interface_that_is_removed_ends_the_run(tmp_path: Path) -> None:
    """What it had carried is delivered, one line says what happened, and the exit code is 1."""
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    frame = bytes(ether / IP(src="192.0.2.1", dst="192.0.2.2") / UDP() / bytes(30))
    with (
        namespace() as own,
        own.entered(),
        FrameSender(own, own.left) as sender,
        live("--iface", own.right, "--iface", "lo", cwd=tmp_path, sockets=2) as run,
    ):
        sender.send([frame] * 500)
        own.ip("link", "del", own.right)
        done = run.end()
    assert done.code == 1
    assert (done.summary["packets_in"], done.summary["failed"]) == (500, True)
    assert done.err.splitlines()[2:] == [
        "penstock: packet right: the interface went down or was removed; start again when it is up"
    ]


@pytest.mark.parametrize(
    ("flags", "code", "line"),
    [
        (["--iface", "nowhere"], 1, "packet nowhere: no such interface; `ip link` lists them"),
        (["--iface", "lo", "--udp", "127.0.0.1:0"], 2, "udp.addresses and packet.interfaces: a"),
        (["--iface", "lo", "--filter", "port port"], 2, "filter 'port port': "),
    ],
)
def test_what_cannot_be_captured_is_one_line(
    tmp_path: Path, flags: list[str], code: int, line: str
) -> None:
    """A missing interface is a failure, nonsense is one of use; both are one line."""
    done = penstock("run", "ingest", *flags, cwd=tmp_path)
    assert (done.code, done.out) == (code, "")
    assert done.line.startswith(f"penstock: {line}")


def test_parts_that_share_need_a_number(tmp_path: Path) -> None:
    """Parts that would each see all packets are refused."""
    done = penstock("run", "ingest", "--iface", "lo", cwd=tmp_path, PENSTOCK_PACKET_PARTS="2")
    assert done.code == 2
    assert done.line.startswith("penstock: packet.parts: parts share an interface by a number; set")


def test_workers_share_an_interface(net: Namespace, tmp_path: Path) -> None:
    """Under Bytewax's runner two parts on two workers see every packet once together."""
    ether, ip = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02"), IP(src="192.0.2.1")
    sent = [bytes(ether / ip / UDP(sport=1000 + i, dport=9)) for i in range(400)]
    settings = {
        "PENSTOCK_PACKET_INTERFACES": net.right, "PENSTOCK_PACKET_PARTS": "2",
        "PENSTOCK_PACKET_GROUP": str(1 + os.getpid() % 60_000), "PENSTOCK_CAPTURE_BY": "host",
        "PENSTOCK_RUN_SHARDS": "2",
    }  # fmt: skip
    with net.entered(), FrameSender(net, net.left) as sender:
        command = ["-m", "bytewax.run", "flows.ingest:flow", "-w", "2"]
        process = start(command, tmp_path, settings)
        assert process.stderr is not None
        ready = 0
        while ready < 2:
            line = process.stderr.readline()
            assert line, "ended early"
            ready += "capturing" in line
        sender.send(sent)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=PATIENCE_S)
    assert json.loads(out)["packets_in"] == 400
