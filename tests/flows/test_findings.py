"""Findings of whole runs: planted ones are told, kept quiet or kept with their packets."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from core.errors import SettingError
from core.topics import FINDINGS
from flows.simulate import simulate
from tests.flows.lives import frames, live
from tests.flows.runs import findings, penstock, replayed, wait_until
from tests.frames import packet_batch, udp_packet
from tests.schemas import validator


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return half a minute of devices with a herd, a flood and a drift among them."""
    path = tmp_path_factory.mktemp("capture") / "mixed.pcap"
    simulate(path, scenario="mixed", devices=60, rate_hz=300.0, seconds=40.0, seed=3, port=9999)
    return path


def last(told: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the last message about each finding."""
    return {each["finding_info"]["uid"]: each for each in told}


def test_what_is_planted_is_opened_and_closed_once(capture: Path, tmp_path: Path) -> None:
    """Flood, drift and herd have their names; every record keeps the schema."""
    summary = replayed(capture, run={"sink": f"files:{tmp_path}"})
    told = findings(tmp_path)
    kinds = {each["finding_info"]["types"][0] for each in told}
    assert kinds >= {"flood", "thundering_herd"}
    assert kinds & {"size_shift", "anomalous_key"}
    assert summary.finding_records == len(told)
    ends = Counter(each["activity_name"] for each in told)
    assert ends["Create"] == ends["Close"] == summary.findings == len(last(told))
    for each in told:
        validator(FINDINGS).validate(each)


def test_what_is_suppressed_is_counted_and_the_rest_is_told(capture: Path, tmp_path: Path) -> None:
    """By rule and key, until a time; an entry whose time is over is said to be."""
    everything = replayed(capture, run={"sink": f"files:{tmp_path / 'all'}"})
    quiet = tmp_path / "quiet.toml"
    quiet.write_text(
        '[[suppress]]\nkey = "*"\nrule = "flood"\n'
        '[[suppress]]\nkey = "dev-*"\nrule = "size_shift"\nuntil = 2020-01-01T00:00:00Z\n'
    )
    some = penstock(
        "replay", capture, "--sink", f"files:{tmp_path / 'some'}", "--json",
        cwd=tmp_path, PENSTOCK_FINDINGS_SUPPRESS=str(quiet),
    )  # fmt: skip
    assert some.code == 0, some.err
    assert some.err.count("line 4: expired by packet time") == 1
    summary = json.loads(some.out)
    floods = sum(
        "flood" in e["finding_info"]["types"] for e in last(findings(tmp_path / "all")).values()
    )
    assert summary["findings_muted"] == floods > 0
    assert summary["findings"] == everything.findings - floods
    assert not [e for e in findings(tmp_path / "some") if "flood" in e["finding_info"]["types"]]


def test_a_bad_file_is_refused_before_anything_is_read(capture: Path, tmp_path: Path) -> None:
    """One line, with the number of its own."""
    quiet = tmp_path / "quiet.toml"
    quiet.write_text('[[suppress]]\nkey = "a"\nrule = "flod"\n')
    with pytest.raises(SettingError, match="line 3: no rule is called 'flod'"):
        replayed(capture, findings={"suppress": str(quiet)})
    with pytest.raises(SettingError, match=r"nothing\.toml: No such file"):
        replayed(capture, findings={"suppress": str(tmp_path / "nothing.toml")})


def packets(path: Path) -> list[str]:
    """Return what tcpdump makes of a capture, a line a packet."""
    tcpdump = shutil.which("tcpdump")
    if tcpdump is None:
        pytest.skip("tcpdump is not installed: apt-get install tcpdump")
    shown = subprocess.run([tcpdump, "-nr", path], capture_output=True, text=True, check=True)
    return shown.stdout.splitlines()


def test_a_live_run_reads_the_file_again_and_keeps_evidence(tmp_path: Path) -> None:
    """A bad one changes nothing; what is then suppressed is counted, and the rest told."""
    quiet = tmp_path / "quiet.toml"
    quiet.write_text("")
    (tmp_path / "penstock.toml").write_text(f'[findings]\nsuppress = "{quiet}"\n')

    def hung_up(text: str) -> None:
        run.process.send_signal(signal.SIGHUP)
        wait_until(run.process, lambda: any(text in line for line in run._lines))

    with live(
        "--udp", "127.0.0.1:0", "--sink", f"files:{tmp_path / 'out'}", "--evidence",
        tmp_path / "kept", cwd=tmp_path,
    ) as run:  # fmt: skip
        quiet.write_text('[[suppress]]\nky = "dev-1"\n')
        hung_up(f"not reloaded, everything stays as it was: {quiet}, line 2: unknown field 'ky'")
        quiet.write_text('[[suppress]]\nkey = "dev-1"\n')
        hung_up("reloaded: 1 suppressions")
        for device in ("dev-1", "dev-2"):
            for n in range(30):
                run.send(*frames(1, device, n), *frames(1, device, 0))
        done = run.stop(signal.SIGTERM)
    assert done.code == 0, done.err
    assert done.summary["findings_muted"] == 1
    told = findings(tmp_path / "out")
    assert {each["resources"][0]["name"] for each in told} == {"dev-2"}
    assert {each["finding_info"]["types"][0] for each in told} == {"sequence_replay"}
    name = told[0]["evidences"][0]["file"]["name"]
    shown = (tmp_path / "kept" / name).read_bytes()
    assert shown.count(b"dev-2") == len(packets(tmp_path / "kept" / name)) == 60


@pytest.mark.parametrize("by", ["device", "host"])
def test_evidence_holds_the_packets_of_each_finding(capture: Path, tmp_path: Path, by: str) -> None:
    """A bounded capture named after the finding, that tcpdump reads, of its key alone."""
    folder = tmp_path / "evidence"
    run = penstock(
        "replay", capture, "--by", by, "--sink", f"files:{tmp_path / 'out'}", "--evidence", folder,
        cwd=tmp_path, PENSTOCK_FINDINGS_EVIDENCE_PACKETS="50",
    )  # fmt: skip
    assert run.code == 0, run.err
    told = last(findings(tmp_path / "out"))
    files = {each["evidences"][0]["file"]["name"] for each in told.values()}
    assert files == {path.name for path in folder.iterdir()} == {f"{uid}.pcap" for uid in told}
    for uid, each in told.items():
        shown = packets(folder / f"{uid}.pcap")
        assert 1 <= len(shown) <= 50
        key = each["resources"][0]["name"]
        data = (folder / f"{uid}.pcap").read_bytes()
        if by == "device" and key != "*":
            assert data.count(key.encode()) >= len(shown)
        elif key != "*" and "." in key:
            assert all(key in line for line in shown)
        validator(FINDINGS).validate(each)


def test_packets_of_evidence_are_those_that_were_captured(tmp_path: Path) -> None:
    """Frames of one device, byte for byte, with the bound of the folder."""
    from connectors.evidence import Evidence
    from core.frame import device_frames, encode_frame
    from core.headers import decode_headers
    from tests.core.test_findings import finding, sighting

    raw = [udp_packet(encode_frame(f"d{n % 2}", n, b"{}")) for n in range(100)]
    sent = packet_batch(raw)
    headers = decode_headers(sent)
    arrived = device_frames(sent, headers, 9999, 1000)[1]
    said: list[str] = []
    kept = Evidence(
        tmp_path / "e", packets_max=30, bytes_max=1 << 20, total_bytes_max=2_500,
        ring_bytes=1 << 20, notify=said.append,
    )  # fmt: skip
    kept.see(sent, headers, arrived)
    seen = sighting(
        key="d1", key_hi=int(arrived.key_hi[1]), key_lo=0, first_ns=int(sent.at_ns[0]),
    )  # fmt: skip
    told = finding(seen)
    assert kept.note([told], either=False) == {told.uid}
    data = (tmp_path / "e" / f"{told.uid}.pcap").read_bytes()
    size = len(raw[1]) + 16
    records = [data[24 + n * size :][:size] for n in range(30)]
    assert [record[16:] for record in records] == raw[1:60:2]
    assert len(data) == 24 + 30 * size
    other = finding(sighting(key="d0", key_hi=int(arrived.key_hi[0]), first_ns=seen.first_ns))
    assert kept.note([other], either=False) == frozenset()  # no room for a second one
    kept.close()
    assert not said
    assert len(list((tmp_path / "e").iterdir())) == 1
