"""Columns written down come back bit for bit, in few bytes, and from damage comes no crash."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from core.packing import pack, unpack

TYPES = st.sampled_from(["u1", "i4", "u4", "i8", "u8", "f8"])
SHAPES = hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=7)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.text(max_size=5), TYPES.flatmap(lambda t: hnp.arrays(t, SHAPES)),
                       max_size=4))  # fmt: skip
def test_columns_come_back_bit_for_bit(columns: dict[str, np.ndarray]) -> None:
    """Of any type, shape and value: NaN of any kind, -0.0, infinities, the ends of integers."""
    back = unpack(pack(columns))
    assert list(back) == list(columns)
    for name, column in columns.items():
        assert back[name].dtype == column.dtype
        assert back[name].shape == column.shape
        assert back[name].tobytes() == column.tobytes()


@pytest.mark.parametrize(
    ("column", "bytes_each"),
    [
        (np.full(10_000, 1 << 60), 0.0),  # all alike
        (1_767_225_600_000_000_000 + np.arange(10_000) * 1_000_003, 0.0),  # one step each
        (np.full(10_000, 37.0), 0.0),  # a count kept as a float
        (np.random.default_rng(1).permutation(10_000), 2.0),
        (np.random.default_rng(2).random(10_000), 7.0),
    ],
)
def test_a_column_takes_what_it_tells(column: np.ndarray, bytes_each: float) -> None:
    """What is alike, or goes up evenly, costs next to nothing; what is chance costs its bits."""
    assert len(pack({"a": column})) <= bytes_each * column.size * 1.01 + 100


@given(st.binary(max_size=80))
def test_any_bytes_are_columns_or_a_value_error(junk: bytes) -> None:
    """What `pack` did not make is refused, never a crash."""
    with suppress(ValueError):
        unpack(junk)
    with pytest.raises(ValueError, match="not packed columns"):
        unpack(b"\xff" + junk)


def test_damaged_columns_are_no_crash() -> None:
    """Whatever byte is changed or wherever it is cut, there are columns or a `ValueError`."""
    good = pack({"a": np.arange(50) * 3, "b": np.random.default_rng(3).random((9, 3))})
    damaged = [good[:at] for at in range(len(good))]
    damaged += [good[:at] + bytes([good[at] ^ 0xA5]) + good[at + 1 :] for at in range(len(good))]
    refused = 0
    for each in damaged:
        try:
            unpack(each)
        except ValueError:
            refused += 1
    assert refused > len(good)
