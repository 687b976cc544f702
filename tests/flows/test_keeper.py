"""What steps hand over at a snapshot: little, and large parts only when they are others."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import SourceError
from flows.keeper import INLINE_BYTES_MAX, Keeper
from flows.run import Run
from flows.steps import FeatureStep
from models.features import WindowFeatures
from tests.flows.runs import settings
from tests.frames import frame_batch


def a_run(store: Path, **sections: dict[str, Any]) -> Run:
    """Return a run that keeps its state in a folder, and says nothing."""
    given = settings(Path("unread.pcap"), run={"recovery": str(store)}, **sections)
    return Run(given, notify=lambda _: None)


def keeper(store: Path, **sections: dict[str, Any]) -> Keeper:
    """Return what keeps a step without logs of its own."""
    found = Keeper(a_run(store, **sections), "score", {})
    found.shard = "0000"
    return found


def sizes(store: Path) -> list[int]:
    """Return the sizes of all files."""
    return [path.stat().st_size for path in sorted((store / "segments").glob("*"))]


def test_a_large_part_goes_through_a_log_when_it_is_another_one(tmp_path: Path) -> None:
    """Bytewax is handed a mark; the same state again writes nothing; a small one ends the log."""
    large = np.random.default_rng(1).bytes(INLINE_BYTES_MAX + 1)
    live = keeper(tmp_path)
    first = live.save(large)
    assert len(first) < 1000
    before = sizes(tmp_path)
    second = live.save(large)
    assert sizes(tmp_path) == before
    again = keeper(tmp_path)
    assert again.open(second) == large
    again.save(large)
    assert sizes(tmp_path) == before
    others = [large[turn:] + large[:turn] for turn in range(100)]
    third = [again.save(other) for other in others]
    assert keeper(tmp_path).open(third[-1]) == others[-1]
    assert sum(sizes(tmp_path)) < 70 * len(large) * 2
    fourth = [again.save("small") for _ in range(10)]
    assert keeper(tmp_path).open(fourth[-1]) == "small"
    assert sizes(tmp_path) == []


@pytest.mark.parametrize(
    "saved",
    [b"", b"penstock snapshot 9\n", pickle.dumps((1, 2)), "text", None, 7],
)
def test_what_another_version_saved_is_refused(tmp_path: Path, saved: object) -> None:
    """Whatever is not ours is named as of another version."""
    with pytest.raises(SourceError, match="written by another version of Penstock; give another"):
        keeper(tmp_path).open(saved)


def test_other_settings_are_refused(tmp_path: Path) -> None:
    """A table of another size has no place for these rows."""
    saved = keeper(tmp_path).save("state")
    with pytest.raises(SourceError, match="written with other settings"):
        keeper(tmp_path, features={"keys_max": 999}).open(saved)


def test_what_was_saved_and_is_damaged_is_refused(tmp_path: Path) -> None:
    """Cut anywhere, or with another byte in its middle, it is one line."""
    saved = keeper(tmp_path).save(["state", 1.5])
    for damaged in [saved[:at] for at in range(20, len(saved))]:
        with pytest.raises(SourceError, match="not a sound recovery folder") as caught:
            keeper(tmp_path).open(damaged)
        assert "\n" not in str(caught.value)


def test_a_step_writes_what_was_touched(tmp_path: Path) -> None:
    """Of 3,000 keys one is heard again: a thousandth is written, and all are there afterwards."""
    run = a_run(tmp_path)
    step = FeatureStep(run, None)
    windows = step._windows
    rng = np.random.default_rng(2)

    def hear(keys: np.ndarray, at_ns: int) -> None:
        frames = frame_batch(at_ns=at_ns + np.arange(keys.size), key_lo=keys, size=keys % 900)
        assert step._keeper is not None
        step._keeper.shard = "0000"
        windows.update(frames)

    hear(rng.integers(0, 1 << 60, 3000), 10**18)
    step.snapshot()
    whole = run.ledger.total()["snapshot_bytes"]
    hear(np.array([5]), 10**18 + 5000)
    saved = step.snapshot()
    total = run.ledger.total()
    assert 0 < total["snapshot_bytes"] < whole / 20
    assert total["snapshot_bytes_max"] == whole
    assert total["snapshot_stall_ns"] > 0
    again = FeatureStep(a_run(tmp_path), saved)
    assert isinstance(again._windows, WindowFeatures)
    assert again._windows.keys == windows.keys == 3001
