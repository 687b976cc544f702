"""The graph accounts for every packet, by the simulator's own account of what it wrote."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from core.reasons import FIRST_MALFORMED
from core.topics import FINDINGS, FLOWS, FLOWS_DLQ, TELEMETRY, TELEMETRY_DLQ
from flows.replay import replay
from flows.simulate import REASON_OF, SimulationSummary, simulate
from tests.flows.runs import counts, findings, records, replayed, settings

TIGHT = {"rate_hz": 200, "burst": 50, "queue_len_max": 40}


def expected(mixed: SimulationSummary) -> tuple[dict[str, int], dict[str, int]]:
    """Return what is to be ignored and malformed in device mode, by reason."""
    ignored: Counter[str] = Counter()
    malformed: Counter[str] = Counter()
    for kind, count in (mixed.malformed | mixed.other).items():
        reason = REASON_OF[kind]
        (malformed if reason >= FIRST_MALFORMED else ignored)[reason.name.lower()] += count
    return dict(ignored), dict(malformed)


@pytest.mark.parametrize("shards", [1, 3])
def test_every_packet_of_devices_is_accounted_for(
    mixed: SimulationSummary, capture: Path, tmp_path: Path, shards: int
) -> None:
    """Behind a tight dam, what came in is what was ignored, malformed, dropped and delivered."""
    run = {"sink": f"files:{tmp_path}", "shards": shards}
    summary = replayed(capture, dam=TIGHT, run=run)
    ignored, malformed = expected(mixed)
    assert summary.packets_in == mixed.packets
    assert summary.ignored == ignored
    assert summary.malformed == malformed
    assert summary.frames == mixed.frames
    assert summary.frames == summary.passed + sum(summary.dropped.values())
    assert summary.dropped["queue_full"] > 100
    assert summary.queued_max == TIGHT["queue_len_max"]
    assert summary.delivered[TELEMETRY] == summary.passed
    assert summary.delivered[TELEMETRY_DLQ] == sum(malformed.values())
    assert summary.delivered.get(FINDINGS, 0) == summary.finding_records
    assert counts(tmp_path) == summary.delivered
    assert summary.adds_up
    assert summary.files.read == 1


def test_dead_letters_say_why(mixed: SimulationSummary, capture: Path, tmp_path: Path) -> None:
    """Each malformed packet is one dead letter under its reason; no healthy one is."""
    summary = replayed(capture, run={"sink": f"files:{tmp_path}"})
    letters = [json.loads(line) for line in records(tmp_path)[TELEMETRY_DLQ, "0000"]]
    assert Counter(letter["reason"] for letter in letters) == Counter(expected(mixed)[1])
    assert summary.dropped == {}
    assert summary.passed == mixed.frames


def test_every_packet_of_hosts_is_accounted_for(
    mixed: SimulationSummary, capture: Path, tmp_path: Path
) -> None:
    """Hosts: nothing is ignored, only headers can be malformed, and a rate turns the dam on."""
    _, malformed = expected(mixed)
    headers = {k: v for k, v in malformed.items() if k in ("ipv4_header", "link_header",
                                                          "udp_header")}  # fmt: skip
    for name, dam in (("off", {}), ("on", TIGHT | {"enabled": True})):
        run = {"sink": f"files:{tmp_path / name}"}
        summary = replayed(capture, capture={"by": "host"}, dam=dam, run=run)
        assert summary.adds_up
        assert summary.packets_in == mixed.packets
        assert summary.ignored == {}
        assert summary.malformed == headers
        assert summary.frames == mixed.packets - sum(headers.values())
        assert bool(summary.dropped) == (name == "on")
        assert summary.delivered[FLOWS_DLQ] == sum(headers.values())
        flows = [json.loads(line) for line in records(tmp_path / name)[FLOWS, "0000"]]
        assert sum(flow["packets"] for flow in flows) == summary.passed
        assert counts(tmp_path / name) == summary.delivered


def test_a_throttled_flood_is_still_seen(capture: Path, tmp_path: Path) -> None:
    """Models see every arrival with its mark: findings are the same behind a dam and without."""
    warm = {"warm_rows": 50, "threshold": 0.01}
    found = []
    for name, dam in (("tight", TIGHT), ("wide", {})):
        replayed(capture, anomaly=warm, dam=dam, run={"sink": f"files:{tmp_path / name}"})
        found.append(findings(tmp_path / name))
    assert found[0]
    assert found[0] == found[1]


def test_rows_are_scored_warming_or_unscored(capture: Path) -> None:
    """Until `warm_rows` rows are learnt, rows are said to be warming; none are lost."""
    rows = [replayed(capture, anomaly={"warm_rows": n}).rows for n in (0, 300, 1_000_000)]
    assert len({sum(each.values()) for each in rows}) == 1
    assert rows[0]["scored"] > rows[1]["scored"] > rows[2]["scored"] == 0
    assert rows[2]["warming"] == sum(rows[2].values())


def test_half_windows_and_overlapping_captures_tell_nothing(tmp_path: Path) -> None:
    """Healthy traffic has no finding where a capture ends, nor where a second one begins again."""
    paths = []
    for seed in (1, 2):
        paths.append(tmp_path / f"{seed}.pcap")
        simulate(
            paths[-1], scenario="steady", devices=200, rate_hz=1000.0, seconds=12.3, seed=seed,
            port=9999,
        )  # fmt: skip
    alone = replayed(paths[0])
    assert (alone.findings, alone.late) == (0, 0)
    assert alone.rows["scored"] > 1000
    said: list[str] = []
    both = replay(settings(*paths), said.append)
    assert both.findings == 0
    assert both.passed == alone.passed + replayed(paths[1]).passed
    assert 0 < both.late < both.frames
    assert [line.partition(" frames ")[0] for line in said] == [f"{both.late:,}"]


@pytest.mark.parametrize("stray", [1, 2])
def test_stamps_far_ahead_are_outvoted_or_told(
    capture: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], stray: int
) -> None:
    """One packet from another century changes no score; two stop time, and that is said."""
    raw = bytearray(capture.read_bytes())
    at, seen = 24, 0
    while seen < 2000:
        seen += 1
        if seen > 2000 - stray:
            raw[at : at + 4] = (2**32 - 1).to_bytes(4, "little")
        at += 16 + int.from_bytes(raw[at + 8 : at + 12], "little")
    path = tmp_path / "stray.pcap"
    path.write_bytes(raw)
    told: list[str] = []
    usual = replayed(capture)
    odd = replay(settings(path), told.append)
    assert capfd.readouterr().err == ""
    assert odd.packets_in == usual.packets_in
    if stray == 1:
        assert odd.rows == usual.rows
        assert told == []
    else:
        assert odd.rows["scored"] < usual.rows["scored"]
        assert any("more than a day before" in line for line in told)


def test_a_filter_takes_packets_out_before_they_count(capture: Path) -> None:
    """What a capture filter rejects is counted as filtered and as nothing else."""
    whole: dict[str, Any] = {"by": "host"}
    every = replayed(capture, capture=whole)
    arp = replayed(capture, capture=whole | {"filter": "arp"})
    rest = replayed(capture, capture=whole | {"filter": "not arp"})
    assert 0 < arp.packets_in < every.packets_in
    # Too short to say whether they are ARP, and so rejected by both, as tcpdump has it.
    short = every.malformed["link_header"]
    assert arp.packets_in + rest.packets_in + short == every.packets_in
    assert arp.filtered == rest.packets_in + short
    assert arp.adds_up
    assert rest.adds_up
