"""Columns as few bytes: what a snapshot writes down, and gets back bit for bit.

Laws:

1. `unpack(pack(columns))` is the columns again: names, types, shapes and every bit, NaN and -0.0
   among them.
2. Each column is written in the least width that holds it: integers (and floats that are whole
   numbers) as distances from the least of them, or, where that is narrower, from the one before.
   Bytes of one weight lie side by side, so that the compressor sees what is alike.
3. `unpack` takes what `pack` made. Anything else is a `ValueError` or columns of other values,
   never a read outside its bytes; who needs more keeps a digest.

Not here: which columns are worth writing (`core.row_log`, `core.queue_log`), and where they go.

Source: frame-of-reference and delta coding as in D. Lemire and L. Boytsov, "Decoding billions of
integers per second through vectorization" (2015); Zstandard, RFC 8878, at its fastest level.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Columns = dict[str, "NDArray[Any]"]

_LEVEL = 1
_WORD = 8
_DTYPES = ("u1", "i4", "u4", "i8", "u8", "f8")
_AS_IS, _FROM_LEAST, _FROM_PREVIOUS = 0, 1, 2


class _Column(msgspec.Struct, array_like=True):
    """How one vector was written: `width` bytes a value, after `base` was taken off."""

    kind: int
    whole: bool
    base: int
    first: int
    width: int


class _Array(msgspec.Struct, array_like=True):
    """One column, or the columns of a table with several."""

    name: str
    dtype: str
    rows: int
    wide: bool
    vectors: list[_Column]


class _Header(msgspec.Struct, array_like=True):
    arrays: list[_Array]
    planes_bytes: int


def pack(columns: Columns) -> bytes:
    """Write columns down.

    Args:
        columns: By name; `(n,)` or `(n, k)`, of any lengths; `uint8`, `int32`, `uint32`, `int64`,
            `uint64` or `float64`.

    Returns:
        What `unpack` takes.
    """
    import pyarrow as pa

    arrays: list[_Array] = []
    planes: list[NDArray[np.uint8]] = []
    for name, column in columns.items():
        wide = column.ndim == 2
        vectors = []
        for vector in column.T if wide else (column,):
            how, plane = _planes(np.ascontiguousarray(vector))
            vectors.append(how)
            planes.append(plane)
        arrays.append(_Array(name, column.dtype.str[1:], column.shape[0], wide, vectors))
    body = np.concatenate(planes) if planes else np.zeros(0, np.uint8)
    header = msgspec.msgpack.encode(_Header(arrays, body.size))
    packed: bytes = pa.Codec("zstd", compression_level=_LEVEL).compress(body, asbytes=True)
    return len(header).to_bytes(4, "little") + header + packed


def unpack(packed: bytes) -> Columns:
    """Return the columns that `pack` wrote.

    Raises:
        ValueError: These bytes are not from there.
    """
    import pyarrow as pa

    size = int.from_bytes(packed[:4], "little")
    try:
        header = msgspec.msgpack.decode(packed[4 : 4 + size], type=_Header)
        codec = pa.Codec("zstd")
        # Decompressed into a buffer of the size that was promised: more is an error.
        body = codec.decompress(packed[4 + size :], header.planes_bytes, asbytes=True)
    except (msgspec.DecodeError, OSError, MemoryError, OverflowError) as error:
        raise ValueError(f"not packed columns: {error}") from error
    columns: Columns = {}
    at = 0
    for array in header.arrays:
        if array.dtype not in _DTYPES:
            raise ValueError(f"not packed columns: of type {array.dtype}")
        shape = (array.rows, len(array.vectors)) if array.wide else (array.rows,)
        column = np.empty(shape, array.dtype)
        for j, how in enumerate(array.vectors):
            stored = array.rows - 1 if how.kind == _FROM_PREVIOUS else array.rows
            end = at + how.width * stored
            if how.width > _WORD or not at <= end <= len(body) or stored < 0:
                raise ValueError("not packed columns: shorter than they say")
            plane = np.frombuffer(body, np.uint8, end - at, at)
            at = end
            (column[:, j] if array.wide else column)[:] = _vector(how, plane, column.dtype, stored)
        columns[array.name] = column
    return columns


def _planes(vector: NDArray[Any]) -> tuple[_Column, NDArray[np.uint8]]:
    """Return how a vector is written, and its bytes, those of one weight side by side."""
    if vector.dtype == np.uint8:
        return _Column(_AS_IS, whole=False, base=0, first=0, width=1), vector
    whole = False
    if vector.dtype == np.float64:
        with np.errstate(invalid="ignore"):
            numbers = vector.astype(np.int64)
        whole = bool((numbers.astype(np.float64).view(np.uint64) == vector.view(np.uint64)).all())
        words = numbers.view(np.uint64) if whole else vector.view(np.uint64)
    else:
        words = vector.astype(np.int64).view(np.uint64)
        whole = True
    if words.size == 0 or (vector.dtype == np.float64 and not whole):
        how = _Column(_AS_IS, whole=whole, base=0, first=0, width=_WORD)
        return how, _split(words, _WORD)
    # Differences wrap around as unsigned numbers do, and come back the same way.
    signed = words.view(np.int64)
    least = signed.min()
    above = words - least.view(np.uint64)
    width = _width(above)
    steps = np.diff(signed)
    if steps.size:
        step = steps.min()
        beyond = steps.view(np.uint64) - step.view(np.uint64)
        if (narrow := _width(beyond)) < width:
            how = _Column(_FROM_PREVIOUS, whole, int(step), int(signed[0]), narrow)
            return how, _split(beyond, narrow)
    return _Column(_FROM_LEAST, whole, int(least), 0, width), _split(above, width)


def _width(words: NDArray[np.uint64]) -> int:
    return (int(words.max()).bit_length() + 7) // 8


def _split(words: NDArray[np.uint64], width: int) -> NDArray[np.uint8]:
    little = words.astype("<u8", copy=False)
    return little.view(np.uint8).reshape(words.size, _WORD)[:, :width].T.ravel()


def _vector(
    how: _Column, plane: NDArray[np.uint8], dtype: np.dtype[Any], stored: int
) -> NDArray[Any]:
    """Return the values that `_planes` wrote."""
    if dtype == np.uint8:
        return plane
    if how.width == _WORD:
        raw = np.ascontiguousarray(plane.reshape(_WORD, stored).T)
    else:
        raw = np.zeros((stored, _WORD), np.uint8)
        raw[:, : how.width] = plane.reshape(how.width, stored).T
    words: NDArray[np.uint64] = raw.reshape(-1).view("<u8").astype(np.uint64, copy=False)
    if how.kind != _AS_IS:
        words = words + np.int64(how.base).view(np.uint64)
    if how.kind == _FROM_PREVIOUS:
        first = np.array([how.first], np.int64).view(np.uint64)
        words = np.cumsum(np.concatenate([first, words]), dtype=np.uint64)
    if dtype == np.float64:
        return words.view(np.int64).astype(np.float64) if how.whole else words.view(np.float64)
    return words.view(np.int64).astype(dtype)
