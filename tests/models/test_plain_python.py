"""Compiled or not, the kernels give the same bytes, from packets to records and findings.

Run as a program, it prints a digest of every stage; the test runs it without the compiler.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from core import records
from core.batches import Columns, FrameBatch, PacketBatch
from core.docket import Docket
from core.findings import encode
from core.frame import device_frames, encode_frame, host_frames
from core.headers import decode_headers
from core.netflow import FlowTable
from core.shards import split
from core.topics import TELEMETRY_DLQ
from models.burst import BurstPredictor
from models.calibration import TailCalibration
from models.features import NAMES, WindowFeatures
from models.gaussian import GaussianDetector
from models.half_space import HalfSpaceTrees
from models.judge import Judge
from tests.frames import ETHERNET, PORT, packet_batch, udp_packet
from tests.plain import printed

CALM = 350
"""Packets before the flood."""


def packets() -> PacketBatch:
    """Return packets of many kinds, some with bytes changed, back in time too; then a flood."""
    rng = np.random.default_rng(8)
    made = []
    for i in range(400):
        body = [b"", b'{"v":[1.5,"\xc3\xa9"]}', b"NaN", b' "\\ud83d\\ude00" '][i % 4]
        frame = encode_frame(["pump", "", "16 bytes, no NUL", "\x01\x02é"][i % 7 % 4], i, body)
        if i >= CALM:
            made.append(udp_packet(encode_frame("pump", i, b'"' + b"x" * 900 + b'"')))
            continue
        raw = bytearray(udp_packet(frame, source=0x0A000000 + i % 13, sport=1 + i % 3))
        if i % 5 == 0:
            raw[23] = (1, 6, 47, 132)[i // 5 % 4]
        if i % 11 == 0:
            raw[12:14] = b"\x88\xcc"
        if i % 6 == 0:
            at = rng.integers(0, len(raw), 3)
            raw[at[0]], raw[at[1]], raw[at[2]] = rng.integers(0, 256, 3).tolist()
        six = bytes.fromhex("60000000000c3a40") + bytes(15) + bytes([i % 9]) + bytes(15) + b"\1"
        made.append(bytes(raw) if i % 9 else ETHERNET[:12] + b"\x86\xdd" + six + bytes(raw[-12:]))
    batch = packet_batch(made)
    moves = np.where(np.arange(len(made)) < CALM, rng.integers(-5, 40, len(made)), 0)
    moves[-1] = 20  # so that the window of the flood closes
    batch.at_ns += moves.cumsum() * 10_000_000
    return batch


def digest(*parts: Any) -> str:
    """Hash columns and arrays; every NaN counts as the same."""
    whole = hashlib.blake2b(digest_size=12)
    for part in parts:
        columns: Iterable[Any] = (part,)
        if isinstance(part, Columns):
            columns = [getattr(part, name) for name in part.COLUMNS]
        for column in columns:
            array = np.array(column)
            if array.dtype == np.float64:
                array[np.isnan(array)] = np.nan
            whole.update(f"{array.dtype}{array.shape}".encode())
            whole.update(array.tobytes())
    return whole.hexdigest()


def encoded(batch: Any) -> list[Any]:
    """Return what of records is bytes."""
    return [] if batch is None else [batch, batch.values, batch.keys]


def learnt(frames: FrameBatch, *, is_device: bool) -> dict[str, str]:
    """Return digests of features, scores, tails and findings."""
    windows = WindowFeatures(
        window_ns=100_000_000, keys_max=6, key_idle_s=1, seed=3, track=True
    )  # fmt: skip
    rows = [r for r in (windows.update(frames), windows.finish()) if r is not None]
    detector, calibration = GaussianDetector(NAMES, 5), TailCalibration()
    measured = [detector.score_learn_many(r.features, r.group_end) for r in rows]
    trees = HalfSpaceTrees(NAMES, 3, 4, 5, seed=1)
    walked = [trees.score_learn_many(r.features, r.group_end)[0] for r in rows]
    tails = [calibration.tail_many(m[0], r.group_end) for m, r in zip(measured, rows, strict=True)]
    judge = Judge(settings(), is_device=is_device)
    docket = Docket(quiet_s=1, update_s=1, open_max=9, per_window_max=9, window_ns=100_000_000)
    found = [f for r in rows for f in docket.take(judge.judge(r).sightings, 0)]
    return {
        "rows": digest(*(v for r in rows for v in (
            r.features, r.key_hi, r.key_lo, r.count, r.first_ns, r.last_ns, r.ordinal, r.group_end,
            r.window_ns, r.population, r.packet_index, r.packet_row))),
        "scores": digest(*(array for pair in measured for array in pair), detector.moments),
        "trees": digest(*walked, trees.mass, trees.reference, trees.limits),
        "tails": digest(*tails, calibration.bins),
        "findings": f"{len(found)} {digest(*encoded(encode(found)))}",
    }  # fmt: skip


def foreseen(frames: FrameBatch) -> str:
    """Return a digest of what was predicted of frames, and of the weights that predicted it."""
    predictor = BurstPredictor()
    predictor.arrive((frames.clock_ns - frames.clock_ns[0]) * 20, 15)
    model: Any = predictor._model
    return digest(predictor.squared_error, model.weights, model.covariance)


def settings() -> Any:
    """Return settings under which a short run has findings."""
    from core.sections import AnomalySettings

    return AnomalySettings(warm_rows=5, threshold=0.4)


def stages() -> dict[str, Any]:
    """Run everything once; return a digest of each stage."""
    whole = packets()
    headers = decode_headers(whole)
    reason, devices = device_frames(whole, headers, PORT, 1000)
    _, hosts = host_frames(whole, headers)
    flows = FlowTable(flows_max=16, idle_s=1, active_s=2, seed=4)
    ended = [flows.observe(hosts), flows.finish()]
    return {
        "headers": digest(headers),
        "reasons": digest(reason),
        "frames": digest(devices, hosts),
        "shards": digest(*(part for _, part in split(hosts, 5))),
        "flows": digest(*(array for e in ended for array in (e.numbers, e.names))),
        "telemetry": digest(*encoded(records.telemetry(devices))),
        "flow records": digest(*(a for e in ended for a in encoded(records.flows(e)))),
        "rejects": digest(*encoded(records.rejects(whole, reason, TELEMETRY_DLQ))),
        "bursts": foreseen(hosts),
        "counts": [len(devices), len(hosts), *(len(e) for e in ended)],
        "devices": learnt(devices, is_device=True),
        "hosts": learnt(hosts, is_device=False),
    }


def test_plain_python_gives_the_same_bytes() -> None:
    """With `NUMBA_DISABLE_JIT=1` every stage has the digest it has compiled."""
    compiled = stages()
    assert json.loads(printed(__file__)) == compiled
    # The trace is worth comparing: each kind of outcome is in it.
    assert min(compiled["counts"]) >= 5
    assert int(compiled["hosts"]["findings"].split()[0]) > 0


if __name__ == "__main__":
    print(json.dumps(stages()))
