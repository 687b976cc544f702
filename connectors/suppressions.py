"""The file of suppressions, read."""

from __future__ import annotations

from pathlib import Path

from core.errors import SettingError
from core.suppression import BYTES_MAX, Suppressions, parse


def read(path: str) -> Suppressions:
    """Read a file of suppressions; an empty path has none.

    Args:
        path: The file.

    Raises:
        SettingError: It cannot be read, or an entry is wrong.
    """
    if not path:
        return Suppressions()
    try:
        with Path(path).open("rb") as file:
            text = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise SettingError(f"findings.suppress: {path}: {error.strerror or error}") from error
    return parse(text, path)
