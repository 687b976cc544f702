"""The watch over devices: what was planted among frames is seen, and healthy devices are not."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from core.batches import concat
from core.finding_sections import DetectSettings
from core.scenario import Traffic
from models.device_watch import DeviceWatch
from tests.frames import traffic_frames
from tests.models.watching import SECOND_NS, START_NS, batch, check_laws, kinds, seen

Rows = list[dict[str, Any]]
PUMP = int.from_bytes(b"pump".ljust(8, b"\0"), "big")
OTHER = int.from_bytes(b"other".ljust(8, b"\0"), "big")


def watch(**settings: Any) -> DeviceWatch:
    """Return a watch over devices."""
    return DeviceWatch(
        DetectSettings(**settings), window_ns=SECOND_NS, keys_max=4096, seed=1, has_seq=True
    )


def frame(at: float, seq: int, key: int = PUMP, sender: int = 1, size: int = 50) -> dict[str, Any]:
    """Return one frame."""
    return {"at": at, "key_hi": key, "seq": seq, "peer_lo": sender, "size": size}


def reports(seconds: int, key: int = PUMP, first: int = 0, **changes: Any) -> Rows:
    """Return a report a second."""
    return [frame(float(i), first + i, key, **changes) for i in range(seconds)]


@functools.cache
def scenario(name: str, seconds: float, seed: int) -> Any:
    """Return the frames of a scenario, and who floods and drifts in it."""
    source = Traffic(name, 200, 800.0, seconds, np.random.default_rng(seed), START_NS)
    return concat(list(traffic_frames(source))), source


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_steady_devices_are_not_seen(seed: int) -> None:
    """48,000 reports of 200 devices, some of them empty, late or of two kinds."""
    assert seen(watch, scenario("steady", 60.0, seed)[0]) == []


@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_planted_in_a_scenario_is_seen(seed: int) -> None:
    """The flooding device by its rate, the drifting one by its size, and nobody else."""
    frames, source = scenario("mixed", 60.0, seed)
    names = dict(zip(("flood", "size_shift"), (source.flooding, source.drifting), strict=True))
    found = kinds(check_laws(watch, frames))
    assert {rule for rule, _ in found} >= set(names)
    ids = {rule: source._ids[who].tobytes().split(b"\0")[0].decode() for rule, who in names.items()}
    assert {key for _, key in found} == set(ids.values())
    assert found["flood", ids["flood"]] >= 3


@pytest.mark.parametrize("first", [0, 5_000, 2**32 - 50])
def test_gaps_restarts_late_frames_and_the_end_of_numbers_are_healthy(first: int) -> None:
    """Numbers are lost, begin again at 0, overtake each other, and pass from 2³² - 1 to 0."""
    rows = [frame(float(i), (first + i + (i > 30) * 40) % 2**32) for i in range(100)]
    rows[10]["at"], rows[11]["at"] = rows[11]["at"], rows[10]["at"]
    rows += [frame(100.0 + i, i) for i in range(100)]
    assert check_laws(watch, batch(rows)) == []


@pytest.mark.parametrize(("replayed_from", "gap"), [(100, 1.0), (100, 0.01), (390, 0.5)])
def test_frames_that_are_sent_again_are_a_replay(replayed_from: int, gap: float) -> None:
    """Slowly between the device's own, in one burst, or soon after they were first sent."""
    again = [frame(400.1 + gap * i, replayed_from + i) for i in range(30)]
    found = check_laws(watch, batch([*reports(500), *reports(500, OTHER), *again]))
    assert set(kinds(found)) == {("sequence_replay", "pump")}
    assert found[0].evidence[0].value >= 5.0


def test_a_frame_that_came_twice_is_an_accident() -> None:
    """Four within half a minute are as yet none of a replay."""
    again = [frame(100.5 + 8.0 * i, 100 + 8 * i) for i in range(4)]
    assert check_laws(watch, batch([*reports(300), *again])) == []


def test_two_senders_of_one_id_are_seen_and_one_that_moved_is_not() -> None:
    """They take turns; who has another address from now on has moved."""
    moved = [row | {"peer_lo": 1 + (row["at"] > 50)} for row in reports(200)]
    assert check_laws(watch, batch(moved)) == []
    both = [row | {"peer_lo": 1 + (row["at"] > 50 and row["seq"] % 3 == 0)} for row in reports(200)]
    assert set(kinds(check_laws(watch, batch(both)))) == {("two_senders", "pump")}


def test_a_device_that_falls_silent_is_seen_while_others_report() -> None:
    """Again at every look, until it reports; a capture that has a hole is none."""
    rest = [frame(200.0 + i, 100 + i) for i in range(50)]
    found = check_laws(watch, batch([*reports(100), *rest, *reports(250, OTHER)]))
    assert set(kinds(found)) == {("device_silent", "pump")}
    assert 5 <= len(found) <= 8
    assert found[0].evidence[0].value == pytest.approx(35.0, abs=6.0)
    hole = [
        *reports(100),
        *rest,
        *reports(100, OTHER),
        *[r for r in reports(250, OTHER) if r["at"] > 200],
    ]
    assert seen(watch, batch(hole)) == []


def test_a_device_without_rhythm_is_never_silent() -> None:
    """Who reports when something happens may say nothing for long."""
    rng = np.random.default_rng(5)
    at = np.cumsum(rng.pareto(0.7, 100))
    rows = [frame(float(t), i) for i, t in enumerate(at[at < 3000.0])]
    assert seen(watch, batch([*rows, *reports(3000, OTHER)])) == []


def test_a_shift_of_entropy_is_seen() -> None:
    """From text of few letters to bytes of chance, of the same length."""
    rng = np.random.default_rng(6)
    text = [b'{"value":%05d,"unit":"mbar","state":"ok"}' % n for n in rng.integers(0, 99_999, 300)]
    noise_ = [rng.integers(0, 256, len(text[0]), np.uint8).tobytes() for _ in range(300)]
    for bodies, want in ((text + text, set()), (text + noise_, {("entropy_shift", "pump")})):
        rows = [
            frame(float(i), i, size=len(b)) | {"body": i * len(b), "body_len": len(b)}
            for i, b in enumerate(bodies)
        ]
        found = check_laws(watch, batch(rows, b"".join(bodies)))
        assert set(kinds(found)) == want
        for each in found:
            _, new, usual = each.evidence
            assert (new.feature, usual.feature) == ("entropy", "usual_entropy")
            assert new.value > usual.value


def test_without_sequence_numbers_there_is_no_replay() -> None:
    """Datagrams of other formats have none, and may come from wherever."""
    rows = [row | {"seq": 0, "peer_lo": row["seq"] % 2} for row in reports(300)]
    free = DeviceWatch(
        DetectSettings(), window_ns=SECOND_NS, keys_max=64, seed=1, has_seq=False
    )  # fmt: skip
    assert free.update(batch(rows)) == []
