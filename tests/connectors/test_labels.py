"""Labels of packets: every integer is taken, and whatever else is refused in one line."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.labels import KINDS_MAX, read_labels
from core.errors import UsageError


class Bomb:
    """What executes something when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i4", "i8", "u8", "?"])
def test_integers_of_any_width_are_labels(tmp_path: Path, dtype: str) -> None:
    """The values are those written."""
    np.save(tmp_path / "l.npy", np.array([0, 1, 0, 1], dtype))
    assert read_labels(str(tmp_path / "l.npy")).tolist() == [0, 1, 0, 1]


REFUSED = [
    (np.array([0.0, 1.0]), "holds float64, not integers"),
    (np.array([0, -1]), "label -1 of packet 1 is negative"),
    (np.zeros(3, np.int8), "all labels are 0"),
    (np.ones(3, np.int8), "no label is 0"),
    (np.zeros(0, np.int8), "all labels are 0"),
    (np.array([[0, 1]]), "has the shape 1 x 2, not one row"),
    (np.array(1), "has the shape no dimensions, not one row"),
    (np.array(["a", "b"]), "holds <U1, not integers"),
    (np.array([(0, 1)], [("a", "i4"), ("b", "i4")]), "not integers"),
    (np.arange(KINDS_MAX + 2), f"{KINDS_MAX + 1} different labels"),
]


@pytest.mark.parametrize(("array", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_are_no_labels_is_refused(tmp_path: Path, array: Any, said: str) -> None:
    """One line with the file, the cause, and a cure behind a semicolon."""
    np.save(tmp_path / "l.npy", array)
    with pytest.raises(UsageError) as refused:
        read_labels(str(tmp_path / "l.npy"))
    line = str(refused.value)
    assert line.startswith(f"{tmp_path / 'l.npy'}: ")
    assert said in line
    assert "; " in line
    assert "\n" not in line


def test_objects_are_refused_and_not_executed(tmp_path: Path) -> None:
    """A pickle in the file is never opened."""
    np.save(tmp_path / "l.npy", np.array([Bomb()], object), allow_pickle=True)
    with pytest.raises(UsageError, match="holds Python objects"):
        read_labels(str(tmp_path / "l.npy"))


def test_other_files_are_refused(tmp_path: Path) -> None:
    """Archives, text, cut files, folders, pipes and nothing at all."""
    np.savez(tmp_path / "z.npz", np.array([0, 1]))
    (tmp_path / "text.npy").write_text("0\n1\n")
    (tmp_path / "empty.npy").touch()
    np.save(tmp_path / "l.npy", np.array([0, 1]))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "l.npy").read_bytes()[:-1])
    for name in ("z.npz", "text.npy", "empty.npy", "cut.npy"):
        with pytest.raises(UsageError, match=r"is no whole \.npy file; write it by numpy\.save"):
            read_labels(str(tmp_path / name))
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(UsageError, match="is no regular file; name"):
            read_labels(str(path))
    for missing in (str(tmp_path / "none.npy"), "a\0b"):
        with pytest.raises(UsageError, match="no such file; name"):
            read_labels(missing)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 135), byte=st.integers(0, 255), cut=st.integers(0, 136))
def test_damage_is_refused_or_read(tmp_path: Path, at: int, byte: int, cut: int) -> None:
    """Any byte of a file changed, and any end cut off: labels, or one line that says why not."""
    np.save(tmp_path / "l.npy", np.array([0, 1, 1, 0, 2, 0, 0, 1], np.uint8))
    data = bytearray((tmp_path / "l.npy").read_bytes())
    data[at] = byte
    (tmp_path / "l.npy").write_bytes(data[: len(data) - cut // 2])
    with suppress(UsageError):
        assert read_labels(str(tmp_path / "l.npy")).ndim == 1
