"""Traffic of device frames by scenario: who sends which UDP payload when, as columns.

Laws:

1. Nothing is remembered between frames. Arrival `seq` of device `d` takes its time and its body
   from a hash of (key, d, seq), so that any slice of time can be made alone, in bounded memory,
   and slices put together are the whole (`Traffic.between`).
2. The key is all that is drawn; no transcendental function is called: a seed gives the same bytes
   on every machine.
3. A device counts its reports 0, 1, 2, …; malformed payloads, of one fault each, stand outside.

Not here: packets round the payloads, and traffic that is not ours (`flows.simulate`).
"""

from __future__ import annotations

import difflib
import itertools
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from core.batches import Columns
from core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.random import Generator
    from numpy.typing import NDArray

    F8 = NDArray[np.float64]
    I8 = NDArray[np.int64]
    U1 = NDArray[np.uint8]
    Arrivals = NDArray[np.int64]  # (4, n): ns after the start, device, seq, kind


class Kind(IntEnum):
    """Whether a payload is a device frame, or its one fault; the lower-case name is shown."""

    WELL_FORMED = 0
    FRAME_SHORT = 1  # 0 … 21 bytes, fewer than a header
    BAD_MAGIC = 2  # its two bytes swapped
    BAD_DEVICE_ID = 3  # begins with 0xFF, which no UTF-8 text holds
    BODY_NOT_JSON = 4  # text, binary, not UTF-8, or cut short
    BODY_NAN = 5  # JSON but for NaN or an infinity in the place of a number
    BODY_TOO_DEEP = 6  # valid JSON, nested 65 deep
    TRAILING_GARBAGE = 7  # a JSON value with something behind it
    BODY_TOO_LARGE = 8  # valid JSON of `OVERSIZE_BODY_BYTES`


SCENARIOS = ("steady", "herd", "flood", "malformed", "drift", "mixed")
DEVICES_MAX = 100_000
RATE_HZ_MAX = 10_000_000.0
SECONDS_MAX = 864_000.0
FRAMES_MAX = 50_000_000  # payloads of one scenario, herd and flood included

HEADER_BYTES = 22
OVERSIZE_BODY_BYTES = 65_500  # too much for any UDP over IPv4, not yet for IPv6
OVERSIZE_MAX = 64  # payloads of that kind in a scenario; more would outweigh all the others

HERD_FACTOR = 6  # new devices of a herd for each one that was there before
HERD_DEVICES_MIN = 100
FLOOD_FACTOR = 80.0  # rate of the flooding device over its own; at least half of the others' sum
DRIFT_RATE_FACTOR = 3.0  # rate of the drifting device at the end over its own
DRIFT_BODY_BYTES = 384  # by which its body has grown at the end
MALFORMED_SHARE = {"malformed": 0.09, "mixed": 0.02}  # for each frame of the steady part
MALFORMED_EACH_MIN = 6
EMPTY_SHARE = 0.01
JITTER = 0.3  # part of its period by which a report may be late

_SLICE_FRAMES, _NS, _KINDS = 65_536, 1_000_000_000, len(Kind) - 1

# A body is a template, and the range of the integer that fills each of its runs of `#`; a range
# has as many digits at both ends as its run, because JSON has no leading zeros.
_CLIMATE = ((1000, 4000), (200, 900), (20, 99))
_METER = ((10_000, 60_000), (2150, 2450), (100, 999))
_PUMP = ((10_000, 10_600), (1000, 8000))
_BODIES = (
    (b'{"temperature":##.##,"humidity":##.#,"battery":##}', _CLIMATE),
    (b'{"temperature":##.##,"humidity":##.#,"battery":##,"charging":true}', _CLIMATE),
    (b'{"power":####.#,"voltage":###.#,"current":#.##}', _METER),
    (b'{"power":####.#,"voltage":###.#,"current":#.##,"tariff":"night"}', _METER),
    (b'{"pressure":####.#,"flow":##.##,"valve":"open"}', _PUMP),
    (b'{"pressure":####.#,"flow":##.##,"valve":"closed"}', _PUMP),
)

_LOG = np.frombuffer(b',"log":"' + bytes(97 + i % 26 for i in range(DRIFT_BODY_BYTES)), np.uint8)
_FAULTY_BODIES = {
    Kind.BODY_NOT_JSON: (b"temperature=21.5", b'{"battery":21', b'{"site":"\xff\xed\xa0\x80"}'),
    Kind.BODY_NAN: (b'{"temperature":NaN}', b"[Infinity]", b'{"humidity":-Infinity}'),
    Kind.BODY_TOO_DEEP: (b"[" * 65 + b"]" * 65, b'{"a":' * 65 + b"1" + b"}" * 65),
    Kind.TRAILING_GARBAGE: (b'{"temperature":21.5}\x00', b'{"battery":9}{}', b"[21.5],"),
    Kind.BODY_TOO_LARGE: (b'{"log":"' + b"x" * (OVERSIZE_BODY_BYTES - 10) + b'"}',),
}


@dataclass(slots=True)
class Plan(Columns):
    """UDP payloads in the order they are to be sent.

    Attributes:
        arena: `uint8`; holds the payloads, and bytes that belong to none.
        at_ns: `(n,) int64`; when to send, ns since the epoch, never decreasing.
        device: `(n,) int32`; who sends, 0 … `Traffic.population` - 1.
        start: `(n,) int64`; where in the arena the payload begins.
        length: `(n,) int32`; its bytes.
        kind: `(n,) uint8`; its `Kind`.
    """

    arena: NDArray[np.uint8]
    at_ns: NDArray[np.int64]
    device: NDArray[np.int32]
    start: NDArray[np.int64]
    length: NDArray[np.int32]
    kind: NDArray[np.uint8]

    COLUMNS = {  # noqa: RUF012  class constant; a ClassVar annotation would be a dataclass field
        "at_ns": np.int64,
        "device": np.int32,
        "start": np.int64,
        "length": np.int32,
        "kind": np.uint8,
    }

    def __post_init__(self) -> None:
        self.check()


def plan(
    scenario: str, devices: int, rate_hz: float, seconds: float, rng: Generator, *, start_ns: int
) -> Plan:
    """Return a whole scenario at once; see `Traffic`, whose slices need less memory."""
    traffic = Traffic(scenario, devices, rate_hz, seconds, rng, start_ns)
    return traffic.between(0, traffic.end_ns)


@dataclass
class Traffic:
    """A scenario, ready to be made slice by slice.

    * `steady`: devices report at a jittered period of their own; few bodies are empty.
    * `herd`: steady, and in the middle third `HERD_FACTOR` times as many devices, never seen
      before, report once or twice within about a second.
    * `flood`: steady, and one device sends at `FLOOD_FACTOR` times its rate for some seconds.
    * `drift`: steady, and one device slowly sends more often, longer bodies and rising values.
    * `malformed`: steady, and payloads of every malformed `Kind` in equal parts.
    * `mixed`: all of these.

    Args:
        scenario: One of `SCENARIOS`.
        devices: Steady devices, 1 … `DEVICES_MAX`; at least 3 when `mixed`.
        rate_hz: Frames of all steady devices together per second, 0.01 … `RATE_HZ_MAX`.
        seconds: Length, 1 … `SECONDS_MAX`.
        rng: Where the 64-bit key is drawn from.
        start_ns: When it starts, ns since the epoch.

    Attributes:
        population: Number of devices, those of the herd included.
        end_ns: Length in ns; arrivals lie in `[0, end_ns)` after `start_ns`.
        frames_max: Upper bound of the number of payloads.
        flooding, drifting: Those devices, or -1.

    Raises:
        UsageError: An argument is unknown or out of bounds.
    """

    scenario: str
    devices: int
    rate_hz: float
    seconds: float
    rng: Generator
    start_ns: int

    def __post_init__(self) -> None:
        _check(self.scenario, self.devices, self.rate_hz, self.seconds)
        self.end_ns = int(self.seconds * _NS)
        self._key = self.rng.integers(0, 2**64, size=1, dtype=np.uint64)
        parts = set(SCENARIOS) if self.scenario == "mixed" else {self.scenario}
        who = np.arange(self.devices)
        weight = 0.5 + self._unit(1, who)
        self._rates = weight * (self.rate_hz / weight.sum())
        self._phase = self._unit(2, who) * (1.0 - JITTER)
        by_rate = np.argsort(self._rates, kind="stable")
        self.flooding = int(by_rate[self.devices // 2]) if "flood" in parts else -1
        self.drifting = int(by_rate[-1]) if "drift" in parts else -1
        self._courses = self._draw_courses()
        herd = max(HERD_FACTOR * self.devices, HERD_DEVICES_MIN) if "herd" in parts else 0
        self._herd, self.population = self._draw_herd(herd), self.devices + herd
        share = int(MALFORMED_SHARE.get(self.scenario, 0.0) * self.rate_hz * self.seconds)
        self._faults = max(share, MALFORMED_EACH_MIN * _KINDS) if "malformed" in parts else 0
        due = self.rate_hz * self.seconds + sum(float(n[-1]) for _, n in self._courses.values())
        self.frames_max = int(due) + self.devices + 2 + self._herd[0].size + self._faults
        if self.frames_max > FRAMES_MAX:
            much = f"rate_hz: {self.frames_max:,} frames are more than {FRAMES_MAX:,}"
            raise UsageError(f"{much}; lower rate_hz, seconds or devices")
        self._draw_looks()

    def slices(self) -> Iterator[Plan]:
        """Yield the scenario as plans that follow each other, each of about 65,536 payloads."""
        even = np.linspace(0, self.end_ns, self.frames_max // _SLICE_FRAMES + 2)
        # A herd or a flood is denser than the rest, so its time is cut further.
        cuts = [even, self._herd[0][_SLICE_FRAMES::_SLICE_FRAMES]]
        for t, due in self._courses.values():
            cuts.append(np.interp(np.arange(_SLICE_FRAMES, due[-1], _SLICE_FRAMES), due, t) * _NS)
        for from_ns, to_ns in itertools.pairwise(np.unique(np.concatenate(cuts).astype(np.int64))):
            yield self.between(int(from_ns), int(to_ns))

    def between(self, from_ns: int, to_ns: int) -> Plan:
        """Return the payloads of `[from_ns, to_ns)`, in ns after the start, up to `end_ns`."""
        herd = slice(*np.searchsorted(self._herd[0], (from_ns, to_ns)))
        parts = [self._steady(from_ns, to_ns), self._herd[:, herd], self._malformed(from_ns, to_ns)]
        parts += [self._course(d, from_ns, to_ns) for d in self._courses]
        at, device, seq, kind = np.concatenate(parts, axis=1)
        keep = np.flatnonzero((at >= from_ns) & (at < to_ns))
        rows = keep[np.argsort(at[keep], kind="stable")]
        return self._build(at[rows], device[rows], seq[rows], kind[rows])

    def _unit(self, stream: int, *parts: NDArray[np.integer]) -> F8:
        """Hash integers to numbers in [0, 1); `stream` keeps the purposes apart."""
        x = self._key + np.uint64(stream)
        for part in (*parts, np.zeros(1, np.int64)):
            x = _mix(x ^ part.astype(np.uint64))
        return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def _draw_courses(self) -> dict[int, tuple[F8, F8]]:
        """Return, for devices whose rate changes: times in s, and reports due until then."""
        courses: dict[int, tuple[F8, F8]] = {}
        if self.flooding >= 0:
            own = float(self._rates[self.flooding])
            begin, length = 0.7 * self.seconds, min(self.seconds / 4, 8.0)
            t = np.array([0.0, begin, begin + length, self.seconds])
            rates = np.array([own, max(FLOOD_FACTOR * own, self.rate_hz / 2), own])
            courses[self.flooding] = (t, np.append(0.0, np.cumsum(np.diff(t) * rates)))
        if self.drifting >= 0:
            t = np.append(0.0, np.linspace(0.25, 1.0, 97)) * self.seconds
            growth = np.append(1.0, np.linspace(1.0, DRIFT_RATE_FACTOR, 97))
            rates = self._rates[self.drifting] * (growth[1:] + growth[:-1]) / 2
            courses[self.drifting] = (t, np.append(0.0, np.cumsum(np.diff(t) * rates)))
        return courses

    def _draw_herd(self, size: int) -> Arrivals:
        """Return every report of the herd in order of time."""
        who = self.devices + np.arange(size, dtype=np.int64)
        third = self.end_ns / 3
        once = third * 1.05 + min(0.9 * _NS, 0.6 * third) * self._unit(4, who)
        twice = np.flatnonzero(self._unit(5, who) < 0.4)
        again = once[twice] + min(0.5 * _NS, 0.3 * third) * (0.2 + 0.8 * self._unit(6, who[twice]))
        at = np.concatenate([once, again]).astype(np.int64)
        order = np.argsort(at, kind="stable")
        device = np.concatenate([who, who[twice]])[order]
        return np.stack([at[order], device, (order >= size).astype(np.int64), np.zeros_like(at)])

    def _draw_looks(self) -> None:
        """Draw ids, body templates, levels and cycles of all devices."""
        who = np.arange(self.population)
        names = [_name(d, "dev" if d < self.devices else "new") for d in who.tolist()]
        self._ids = np.frombuffer(b"".join(names), np.uint8).reshape(-1, 16)
        self._look = (self._unit(7, who) * (len(_BODIES) // 2)).astype(np.int64) * 2
        self._level = np.stack([self._unit(8 + f, who) for f in range(3)], axis=1)
        self._cycle_ns = (60 + 540 * self._unit(11, who)) * _NS

    def _steady(self, from_ns: int, to_ns: int) -> Arrivals:
        """Return the reports of a slice, and a few round it which `between` leaves out."""
        who = np.setdiff1d(np.arange(self.devices), list(self._courses))
        rate, phase = self._rates[who], self._phase[who]
        low = np.maximum(np.floor(from_ns / _NS * rate - phase) - 1, 0).astype(np.int64)
        count = np.ceil(to_ns / _NS * rate - phase).astype(np.int64) + 1 - low
        rank = np.repeat(np.arange(who.size), count)
        device = who[rank]
        seq = low[rank] + np.arange(rank.size) - (np.cumsum(count) - count)[rank]
        due = seq + phase[rank] + JITTER * self._unit(12, device, seq)
        at = (due / rate[rank] * _NS).astype(np.int64)
        return np.stack([at, device, seq, np.zeros_like(seq)])

    def _course(self, device: int, from_ns: int, to_ns: int) -> Arrivals:
        t, due_by = self._courses[device]
        low, high = np.interp((from_ns / _NS, to_ns / _NS), t, due_by)
        seq = np.arange(max(int(low) - 2, 0), int(high) + 2, dtype=np.int64)
        who = np.full_like(seq, device)
        due = seq + self._phase[device] + JITTER * self._unit(12, who, seq)
        at = (np.interp(due, due_by, t, right=self.seconds + 1.0) * _NS).astype(np.int64)
        return np.stack([at, who, seq, np.zeros_like(seq)])

    def _malformed(self, from_ns: int, to_ns: int) -> Arrivals:
        gap_ns = self.end_ns / max(self._faults, 1)
        low, high = max(int(from_ns / gap_ns) - 1, 0), int(to_ns / gap_ns) + 2
        seq = np.arange(min(low, self._faults), min(high, self._faults), dtype=np.int64)
        kind = 1 + seq % _KINDS
        kind[(kind == Kind.BODY_TOO_LARGE) & (seq // _KINDS >= OVERSIZE_MAX)] = Kind.BAD_MAGIC
        device = (self._unit(13, seq) * self.devices).astype(np.int64)
        at = np.minimum((seq + self._unit(14, seq)) * gap_ns, self.end_ns - 1).astype(np.int64)
        return np.stack([at, device, seq, kind])

    def _build(self, at: I8, device: I8, seq: I8, kind: I8) -> Plan:
        plain, length = self._plain(at, device, seq)
        start = np.arange(at.size, dtype=np.int64) * plain.shape[1]
        arenas = [plain.reshape(-1)]
        large = kind == Kind.BODY_TOO_LARGE
        for mask, width, rewrite in (
            ((device == self.drifting) & (kind == 0), plain.shape[1] + 9 + _LOG.size, self._grow),
            ((kind > 0) & ~large, HEADER_BYTES + 400, self._break),
            (large, HEADER_BYTES + OVERSIZE_BODY_BYTES, self._break),
        ):
            chosen = np.flatnonzero(mask)
            rows = np.zeros((chosen.size, width), np.uint8)
            rows[:, : plain.shape[1]] = plain[chosen]
            length[chosen] = rewrite(rows, length[chosen], at[chosen], seq[chosen], kind[chosen])
            start[chosen] = sum(a.size for a in arenas) + np.arange(chosen.size) * width
            arenas.append(rows.reshape(-1))
        who, sizes, kinds = device.astype("i4"), length.astype("i4"), kind.astype("u1")
        return Plan(np.concatenate(arenas), at + self.start_ns, who, start, sizes, kinds)

    def _plain(self, at: I8, device: I8, seq: I8) -> tuple[U1, I8]:
        """Write well-formed payloads into rows of one width; return them and their lengths."""
        rows = np.zeros((at.size, HEADER_BYTES + max(len(b) for b, _ in _BODIES)), np.uint8)
        rows[:, :2] = (0xAA, 0x55)
        rows[:, 2:18] = self._ids[device]
        rows[:, 18:22] = seq.astype(">u4").view(np.uint8).reshape(-1, 4)
        look = self._look[device] + (self._unit(15, device, seq) < 0.1)
        wave = at / self._cycle_ns[device] + self._level[device, 0]
        wave = 0.1 * np.abs(wave % 1.0 * 4.0 - 2.0) + 0.01 * self._unit(16, device, seq)
        wave += 0.3 * self._progress(at) * (device == self.drifting)
        length = np.full(at.size, HEADER_BYTES, np.int64)
        for which, (template, ranges) in enumerate(_BODIES):
            chosen = np.flatnonzero(look == which)
            body = np.tile(np.frombuffer(template, np.uint8), (chosen.size, 1))
            runs = re.finditer(rb"#[#.]*", template)
            for field, (run, (low, high)) in enumerate(zip(runs, ranges, strict=True)):
                share = 0.4 * self._level[device[chosen], field] + wave[chosen]
                value = low + (share * (high - low)).astype(np.int64)
                places = [p for p in range(*run.span()) if template[p] != ord(".")]
                for power, place in enumerate(reversed(places)):
                    body[:, place] = ord("0") + value // 10**power % 10
            length[chosen] = HEADER_BYTES + len(template)
            rows[chosen, HEADER_BYTES : HEADER_BYTES + len(template)] = body
        length[self._unit(17, device, seq) < EMPTY_SHARE] = HEADER_BYTES
        return rows, length

    def _grow(self, rows: U1, length: I8, at: I8, _seq: I8, _kind: I8) -> I8:
        """Append a growing log to the bodies of the drifting device; return the new lengths."""
        grown = 8 + (self._progress(at) * DRIFT_BODY_BYTES).astype(np.int64)
        for end in np.setdiff1d(length, HEADER_BYTES) - 1:  # where a closing brace is
            these = np.flatnonzero(length == end + 1)
            rows[these, end : end + _LOG.size] = _LOG
            quote = end + grown[these]
            rows[these, quote], rows[these, quote + 1] = ord('"'), ord("}")
            length[these] = quote + 2
        return length

    @staticmethod
    def _break(rows: U1, length: I8, _at: I8, seq: I8, kind: I8) -> I8:
        """Write one fault into each of some well-formed payloads; return their new lengths."""
        turn = seq // _KINDS
        length = np.where(kind == Kind.FRAME_SHORT, turn % HEADER_BYTES, length)
        rows[kind == Kind.BAD_MAGIC, :2] = (0x55, 0xAA)
        rows[kind == Kind.BAD_DEVICE_ID, 2] = 0xFF
        for fault, bodies in _FAULTY_BODIES.items():
            for which, body in enumerate(bodies):
                these = np.flatnonzero((kind == fault) & (turn % len(bodies) == which))
                if these.size:
                    length[these] = end = HEADER_BYTES + len(body)
                    rows[these, HEADER_BYTES:end] = np.frombuffer(body, np.uint8)
        return length

    def _progress(self, at: I8) -> F8:
        """Return how far the drift has gone: 0 for a quarter of the time, 1 at the end."""
        return np.clip((at / self.end_ns - 0.25) / 0.75, 0.0, 1.0)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64 bits. Source: SplitMix64, Steele, Lea and Flood, OOPSLA 2014."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _name(device: int, prefix: str) -> bytes:
    """Return a device id of 16 bytes: mostly ASCII, some beyond it, some without a NUL."""
    shapes = {0: f"{prefix}-{device:012d}", 1: f"{prefix}-é-{device:06d}"}
    return shapes.get(device % 16, f"{prefix}-{device:06d}").encode().ljust(16, b"\0")


def _check(scenario: str, devices: int, rate_hz: float, seconds: float) -> None:
    if scenario not in SCENARIOS:
        near = difflib.get_close_matches(scenario, SCENARIOS, n=1, cutoff=0.0)[0]
        raise UsageError(f"scenario {scenario!r} is unknown: did you mean {near!r}?")
    bounds = (
        ("devices", devices, 3 if scenario == "mixed" else 1, DEVICES_MAX),
        ("rate_hz", rate_hz, 0.01, RATE_HZ_MAX),
        ("seconds", seconds, 1, SECONDS_MAX),
    )
    for name, value, low, high in bounds:
        if not low <= value <= high:  # written so that NaN is refused, too
            raise UsageError(f"{name} {value} is out of bounds: give {low:,} to {high:,}")
