"""The real captures through the real graph: each alone, all in one go, in gzip, and the composite.

`runs.replayed` checks the account of every replay; what it counts is compared with libpcap in
`test_libpcap.py`.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from connectors.capture_files import list_captures
from core.topics import FINDINGS, FLOWS, FLOWS_DLQ
from tests.corpus.runs import COMPOSITE, MODES, Replayed, inflated, replayed

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

pytestmark = pytest.mark.corpus

DAMAGED = {
    "malformed/suricata-verify__bug-1450-05_tls_DER-incomplete-content.pcap",
    "malformed/suricata-verify__smtp-to-comma_10.7.29.101_49898-178.63.41.150_25.pcap",
}
"""The captures with a record of an impossible length, read up to there."""
COMPOSITE_WARM = 23_000
"""Packets of the composite after which the detector must be warm."""
AUC_MIN = 0.95
GZIPPED = 24

Alone = dict[str, dict[str, Replayed]]
Together = dict[str, tuple[Replayed, "Path"]]


@pytest.mark.slow
@pytest.mark.parametrize("by", MODES)
def test_every_capture_replays_alone(alone: Alone, by: str) -> None:
    """Each capture is read and adds up, and a notice names it when it is damaged or odd."""
    assert len(alone[by]) > 400
    for name, (summary, notices) in alone[by].items():
        assert (summary.files.read, summary.files.unreadable) == (1, 0), name
        assert summary.files.truncated == (name in DAMAGED), name
        assert sum("read up to there" in line for line in notices) == (name in DAMAGED), name
        if "link_unsupported" in summary.malformed:
            assert sum("is not decoded" in line for line in notices) == 1, name
        assert all(name in line for line in notices)


def test_both_modes_read_the_same_packets(alone: Alone) -> None:
    """What decodes does not depend on who is analysed, but for damage only a datagram can have."""
    for name, (host, _) in alone["host"].items():
        device = alone["device"][name].summary
        assert device.packets_in == host.packets_in, name
        kept = {reason: n for reason, n in device.malformed.items() if reason in host.malformed}
        assert kept == host.malformed, name


@pytest.mark.parametrize("by", MODES)
def test_the_whole_corpus_in_one_go(alone: Alone, together: Together, by: str) -> None:
    """A folder replays to the sum of its captures, and says how many other files it holds."""
    summary, notices = together[by][0]
    each = [run.summary for run in alone[by].values()]
    assert summary.files.read == len(each)
    assert summary.files.truncated == len(DAMAGED)
    assert summary.files.unreadable == 0
    assert sum("that are no captures" in line for line in notices) == 1
    assert sum("read up to there" in line for line in notices) == len(DAMAGED)
    assert summary.packets_in == sum(s.packets_in for s in each)
    assert summary.frames == sum(s.frames for s in each)
    assert summary.ignored == dict(sum((Counter(s.ignored) for s in each), Counter()))
    assert summary.malformed == dict(sum((Counter(s.malformed) for s in each), Counter()))


def test_captures_replay_in_order_of_their_first_packet(
    corpus: Path, captures: dict[str, Path], together: Together
) -> None:
    """Dead letters come file by file, in the listed order, each file's by ordinal."""
    listed = list_captures((str(corpus / "captures"),), 262_144, threading.Event()).files
    assert sorted(f.path for f in listed) == sorted(map(str, captures.values()))
    keys = [(f.first_ns, f.path) for f in listed]
    assert keys == sorted(keys)
    place: dict[str, int] = {}
    for at, file in enumerate(listed):
        place.setdefault(f"{file.source:016x}", at)
    lines = written(together["host"][1], FLOWS_DLQ)
    found = [(place[record["source"]], record["ordinal"]) for record in map(json.loads, lines)]
    assert found == sorted(found)
    assert len({at for at, _ in found}) > 50


def test_captures_have_identities_of_their_own(corpus: Path, captures: dict[str, Path]) -> None:
    """Different contents have different identities, even those that begin alike."""
    names = {str(path): name for name, path in captures.items()}
    by_source: dict[int, set[str]] = {}
    for file in list_captures((str(corpus / "captures"),), 262_144, threading.Event()).files:
        by_source.setdefault(file.source, set()).add(names[file.path])
    shared = [group for group in by_source.values() if len(group) > 1]
    assert not shared


def written(folder: Path, topic: str) -> list[bytes]:
    """Return the records of a topic in the order in which they were written."""
    paths = sorted((folder / topic).glob("*.jsonl"))
    return [line for path in paths for line in path.read_bytes().splitlines()]


def area(scores: NDArray[np.float32], is_attack: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve: how often an attack scores above a benign packet."""
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    attacks = int(is_attack.sum())
    won = rank[is_attack].sum() - attacks * (attacks + 1) / 2
    return float(won / (attacks * (is_attack.size - attacks)))


def test_the_area_of_known_scores() -> None:
    """Perfect order is 1, reversed order 0, ties a half."""
    scores, attacks = np.array([1, 2, 3, 4], np.float32), np.array([False, False, True, True])
    assert area(scores, attacks) == 1.0
    assert area(scores, ~attacks) == 0.0
    assert area(np.zeros(4, np.float32), attacks) == 0.5


def test_scores_of_the_composite_find_its_attacks(corpus: Path, tmp_path: Path) -> None:
    """Every packet has a score or NaN, and after the warm-up attacks score above benign packets."""
    path, out = corpus / "captures" / COMPOSITE, tmp_path / "scores.npy"
    labels = np.load(path.with_name("composite-dev-labels.npy"))
    summary = replayed(path, by="host", scores=str(out), sink=f"files:{tmp_path}").summary
    scores = np.load(out)
    assert scores.dtype == np.float32
    assert scores.shape == labels.shape == (summary.packets_in,)
    assert np.isnan(scores[:100]).all()
    assert np.isfinite(scores[COMPOSITE_WARM:]).all()
    assert area(scores[COMPOSITE_WARM:], labels[COMPOSITE_WARM:] > 0) >= AUC_MIN
    assert len(written(tmp_path, FINDINGS)) == summary.finding_records > 0


def test_gzip_of_a_capture_is_the_capture(captures: dict[str, Path], tmp_path: Path) -> None:
    """Records, their ids and their order are those of the uncompressed content."""
    names = list(captures)
    records: Counter[str] = Counter()
    for number, name in enumerate([*names[:: len(names) // GZIPPED], COMPOSITE]):
        raw = inflated(captures[name])
        folder = tmp_path / str(number)
        folder.mkdir()
        plain, packed = folder / "capture.pcap", folder / "packed.gz"
        plain.write_bytes(raw)
        packed.write_bytes(gzip.compress(raw, 1))
        one = replayed(plain, by="host", sink=f"files:{folder / 'plain'}").summary
        two = replayed(packed, by="host", sink=f"files:{folder / 'packed'}").summary
        assert one.delivered == two.delivered, name
        for topic in one.delivered:
            assert written(folder / "plain", topic) == written(folder / "packed", topic) != []
        records.update(one.delivered)
    assert records[FLOWS] > 1000
    assert records[FLOWS_DLQ] > 0
    assert records[FINDINGS] > 0
