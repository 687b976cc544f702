"""Labels: what somebody knows of each packet of a capture, as numpy writes it.

Laws:

1. One integer for each packet of the capture, in its order: 0 is benign, every other number a kind
   of attack.
2. Nothing in the file is executed: arrays of Python objects are refused unread.

Source: numpy `.npy` format (NEP 1).
"""

from __future__ import annotations

from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any

import numpy as np

from core.errors import UsageError
from core.plain import plain
from core.ranking import kinds

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS_MAX = 64
"""Kinds of attack; somebody who has more numbered something else."""
_AGAIN = "write it by numpy.save, one integer a packet, 0 for benign"


def read_labels(path: str) -> NDArray[np.integer]:
    """Return the labels in a file, `(n,)`, mapped and not copied.

    Args:
        path: A `.npy` file of integers of any width, or of booleans.

    Raises:
        UsageError: It cannot be read, or holds no labels.
    """
    name = plain(path)
    try:
        if not Path(path).is_file():
            what = "is no regular file" if Path(path).exists() else "no such file"
            raise UsageError(f"{name}: {what}; name the .npy file of the labels")
        labels: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}; name the .npy file of the labels") from error
    except (ValueError, SyntaxError, TypeError, TokenError, OverflowError) as error:
        why = "holds Python objects" if "object" in str(error) else "is no whole .npy file"
        raise UsageError(f"{name}: {why}; {_AGAIN}") from error
    if labels.dtype.kind not in "iub":
        raise UsageError(f"{name}: holds {labels.dtype}, not integers; {_AGAIN}")
    if labels.ndim != 1:
        shape = " x ".join(map(str, labels.shape)) or "no dimensions"
        raise UsageError(f"{name}: has the shape {shape}, not one row; {_AGAIN}")
    if labels.dtype.kind == "b":
        labels = labels.view(np.uint8)
    _check(name, labels)
    return labels


def _check(name: str, labels: NDArray[np.integer]) -> None:
    """Refuse labels from which nothing can be told."""
    if labels.size and int(labels.min()) < 0:
        first = int(np.argmax(labels < 0))
        raise UsageError(
            f"{name}: label {labels[first]} of packet {first:,} is negative; "
            "kinds of attack are numbered from 1"
        )
    found = kinds(labels)
    if len(found) > KINDS_MAX:
        raise UsageError(
            f"{name}: {len(found):,} different labels; give each kind of attack one number, at "
            f"most {KINDS_MAX} of them"
        )
    if not found:
        raise UsageError(f"{name}: all labels are 0; there must be attacks to be found")
    if not (labels == 0).any():
        raise UsageError(f"{name}: no label is 0; there must be benign packets to compare with")
