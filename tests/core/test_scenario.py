"""The scenarios keep to the wire format, to their own descriptions, and to their seed."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UsageError
from core.scenario import (
    HEADER_BYTES,
    OVERSIZE_BODY_BYTES,
    SCENARIOS,
    Kind,
    Plan,
    Traffic,
    plan,
)

START_NS = 1_700_000_000_123_456_789
DEVICES, RATE_HZ, SECONDS = 40, 200.0, 30.0


def traffic(scenario: str, seed: int = 1, devices: int = DEVICES) -> Traffic:
    rng = np.random.default_rng(seed)
    return Traffic(scenario, devices, RATE_HZ, SECONDS, rng, START_NS)


def planned(scenario: str, seed: int = 1) -> Plan:
    rng = np.random.default_rng(seed)
    return plan(scenario, DEVICES, RATE_HZ, SECONDS, rng, start_ns=START_NS)


def payloads(made: Plan) -> list[bytes]:
    whole = made.arena.tobytes()
    ends = (made.start + made.length).tolist()
    return [whole[a:b] for a, b in zip(made.start.tolist(), ends, strict=True)]


def rows(made: Plan) -> list[tuple[int, int, int, bytes]]:
    """Return what a plan means, whatever its arena looks like."""
    columns = (made.at_ns.tolist(), made.device.tolist(), made.kind.tolist(), payloads(made))
    return list(zip(*columns, strict=True))


def body_of(payload: bytes) -> bytes:
    return payload[HEADER_BYTES:]


def strict(body: bytes) -> object:
    """Parse one JSON value as RFC 8259 has it, or raise ValueError."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(body.decode(), parse_constant=refuse)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_columns_are_in_order_and_inside(scenario: str) -> None:
    """Times never decrease and lie in the scenario; payloads lie in the arena."""
    made, source = planned(scenario), traffic(scenario)
    assert 0 < len(made) <= source.frames_max
    assert (np.diff(made.at_ns) >= 0).all()
    assert made.at_ns[0] >= START_NS
    assert made.at_ns[-1] < START_NS + source.end_ns
    assert (made.start >= 0).all()
    assert (made.start + made.length).max() <= made.arena.size
    assert made.device.min() >= 0
    assert made.device.max() < source.population


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_well_formed_payloads_are_device_frames(scenario: str) -> None:
    """Magic, a UTF-8 id of its own, sequence numbers without a gap, and strict JSON or nothing."""
    made = planned(scenario)
    seqs: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    empty = 0
    for _, device, kind, payload in rows(made):
        if kind != Kind.WELL_FORMED:
            continue
        assert payload[:2] == b"\xaa\x55"
        name = payload[2:18].rstrip(b"\0")
        assert b"\0" not in name
        assert names.setdefault(device, name.decode()) == name.decode()
        seqs.setdefault(device, []).append(int.from_bytes(payload[18:22], "big"))
        if body_of(payload):
            assert isinstance(strict(body_of(payload)), dict)
        else:
            empty += 1
    assert len(set(names.values())) == len(names)
    assert all(seq == list(range(len(seq))) for seq in seqs.values())
    assert 0 < empty < len(made) / 20


def test_ids_are_of_every_shape() -> None:
    """Some ids fill their 16 bytes and some are not ASCII."""
    names = {payload[2:18] for payload in payloads(planned("steady"))}
    assert any(b"\0" not in name for name in names)
    assert any(not name.isascii() for name in names)


def test_steady_devices_keep_their_period() -> None:
    """Devices together make the rate; each has a period of its own, with bounded jitter."""
    made = planned("steady")
    assert len(made) == pytest.approx(RATE_HZ * SECONDS, abs=DEVICES)
    means = []
    for device in range(DEVICES):
        gaps = np.diff(made.at_ns[made.device == device])
        assert 0.65 * gaps.mean() < gaps.min() < gaps.max() < 1.35 * gaps.mean()
        means.append(gaps.mean())
    assert max(means) > 2 * min(means)


def test_steady_values_vary_slowly() -> None:
    """A device's temperature moves, but little from one report to the next."""
    made = planned("steady")
    bodies = [body_of(p) for _, d, _, p in rows(made) if d == int(made.device[0])]
    first = next(iter(strict(bodies[0])))  # type: ignore[call-overload]  # a dict, as tested above
    values = [strict(b)[first] for b in bodies if b]  # type: ignore[index]  # a dict, as above
    spread = max(values) - min(values)
    assert spread > 0
    assert spread < 0.2 * abs(values[0])


def test_herd_is_new_and_sudden() -> None:
    """At least five times as many devices, never seen before, report in the middle third."""
    made = planned("herd")
    new = made.device >= DEVICES
    who, count = np.unique(made.device[new], return_counts=True)
    first = np.array([made.at_ns[made.device == device][0] for device in who])
    assert who.size >= 5 * DEVICES
    assert set(count.tolist()) == {1, 2}
    assert np.ptp(first) <= 1e9
    third = SECONDS * 1e9 / 3
    assert START_NS + third <= made.at_ns[new].min()
    assert made.at_ns[new].max() < START_NS + 2 * third


def test_flood_is_one_device_at_fifty_times_its_rate() -> None:
    """For several seconds one device sends 50 times as fast as before, and nobody else does."""
    source = traffic("flood")
    made = source.between(0, source.end_ns)
    second = (made.at_ns - START_NS) // 10**9
    per_second = np.bincount(second[made.device == source.flooding])
    usual = np.median(per_second)
    assert 1 <= usual < 10
    assert (per_second >= 50 * usual).sum() >= 5
    assert np.bincount(second[made.device != source.flooding]).max() < 2 * RATE_HZ


def test_drift_is_slow_and_of_everything() -> None:
    """One device's bodies grow, its values rise and its interval shrinks, from a healthy start."""
    source = traffic("drift")
    made = source.between(0, source.end_ns)
    mine = [(at, p) for at, d, _, p in rows(made) if d == source.drifting and body_of(p)]
    quarter = [at < START_NS + source.end_ns / 4 for at, _ in mine].index(False)
    early, late = mine[:quarter], mine[-quarter:]

    def mean(part: list[tuple[int, bytes]], of: str) -> float:
        bodies = [strict(body_of(p)) for _, p in part]
        return float(np.mean([b[of] for b in bodies]))  # type: ignore[index]  # they are dicts

    assert max(len(p) for _, p in early) < min(len(p) for _, p in late)
    assert mean(late, "temperature") > mean(early, "temperature") + 5
    gaps = [np.diff([at for at, _ in part]).mean() for part in (early, late)]
    assert gaps[1] < gaps[0] / 2


@pytest.mark.parametrize("scenario", ["malformed", "mixed"])
def test_every_malformed_kind_has_its_one_fault(scenario: str) -> None:
    """Each kind occurs at least five times, and is what its name says."""
    seen = dict.fromkeys(Kind, 0)
    for _, _, kind, payload in rows(planned(scenario)):
        seen[Kind(kind)] += 1
        if kind == Kind.WELL_FORMED:
            continue
        assert (len(payload) < HEADER_BYTES) == (kind == Kind.FRAME_SHORT)
        if kind == Kind.FRAME_SHORT:
            assert payload[:2] == b"\xaa\x55"[: len(payload)]
            continue
        assert (payload[:2] != b"\xaa\x55") == (kind == Kind.BAD_MAGIC)
        if kind == Kind.BAD_DEVICE_ID:
            with pytest.raises(UnicodeDecodeError):
                payload[2:18].decode()
        else:
            assert payload[2:18].decode()
        body = body_of(payload)
        if kind == Kind.BODY_NAN:
            assert json.loads(body)
        if kind in (Kind.BODY_NOT_JSON, Kind.BODY_NAN, Kind.TRAILING_GARBAGE):
            with pytest.raises(ValueError, match=r".+"):
                strict(body)
        elif body:
            strict(body)
        opened = max(body.count(b"["), body.count(b"{"))
        assert (opened > 64) == (kind == Kind.BODY_TOO_DEEP)
        assert (len(body) == OVERSIZE_BODY_BYTES) == (kind == Kind.BODY_TOO_LARGE)
    assert min(seen.values()) >= 5


def test_mixed_has_everything_at_once() -> None:
    """A herd, one flooding device and another one that drifts."""
    source = traffic("mixed")
    made = source.between(0, source.end_ns)
    assert source.flooding != source.drifting
    assert source.population >= 6 * DEVICES
    assert np.argmax(np.bincount(made.device)) == source.flooding


@settings(max_examples=30)
@given(st.sampled_from(SCENARIOS), st.lists(st.integers(0, 10**9), max_size=4), st.integers(3, 9))
def test_slices_put_together_are_the_whole(scenario: str, cuts: list[int], devices: int) -> None:
    """A scenario does not depend on where it is cut."""
    rng = np.random.default_rng(devices)
    source = Traffic(scenario, devices, 50.0, 2.0, rng, START_NS)
    edges = [0, *sorted(2 * cut for cut in cuts), source.end_ns]
    parts = [source.between(a, b) for a, b in pairwise(edges)]
    assert [row for part in parts for row in rows(part)] == rows(source.between(0, source.end_ns))


def test_slices_are_bounded() -> None:
    """A long scenario comes in slices of bounded size, floods and herds included."""
    source = Traffic("mixed", 20_000, 10_000.0, 10.0, np.random.default_rng(1), START_NS)
    sizes = [len(part) for part in source.slices()]
    assert sum(sizes) <= source.frames_max
    assert sum(sizes) > 0.95 * source.frames_max - 2 * source.devices
    assert len(sizes) > 4
    assert max(sizes) <= 3 * 65_536


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_seed_is_a_scenario(scenario: str) -> None:
    """The same seed gives the same payloads; another seed gives others."""
    assert rows(planned(scenario)) == rows(planned(scenario))
    assert rows(planned(scenario)) != rows(planned(scenario, seed=2))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("hered", 9, 10.0, 10.0), "scenario 'hered' is unknown: did you mean 'herd'"),
        (("", 9, 10.0, 10.0), "did you mean"),
        (("steady", 0, 10.0, 10.0), "devices 0 is out of bounds: give 1 to 100,000"),
        (("mixed", 2, 10.0, 10.0), "devices 2 is out of bounds: give 3 to"),
        (("steady", 9, 0.0, 10.0), "rate_hz 0.0 is out of bounds"),
        (("steady", 9, float("nan"), 10.0), "rate_hz nan is out of bounds"),
        (("steady", 9, 10.0, float("inf")), "seconds inf is out of bounds"),
        (("steady", 9, 1e6, 1e5), "lower rate_hz, seconds or devices"),
    ],
)
def test_impossible_scenarios_are_refused(
    arguments: tuple[str, int, float, float], said: str
) -> None:
    """One line names what is wrong and what would be right."""
    with pytest.raises(UsageError, match=said) as caught:
        Traffic(*arguments, np.random.default_rng(1), START_NS)
    assert "\n" not in str(caught.value)


def test_the_smallest_scenario_is_not_empty() -> None:
    """One device that hardly ever reports makes a plan that checks out."""
    made = plan("steady", 1, 1.0, 3.0, np.random.default_rng(1), start_ns=0)
    assert 2 <= len(made) <= 3
    assert len(plan("steady", 1, 0.01, 1.0, np.random.default_rng(1), start_ns=0)) <= 1
