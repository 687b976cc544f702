"""What a user may have meant by a name that is none; settings have `core.config`'s own way."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from core.plain import plain

LEN_MAX = 256
"""Of a name, compared."""


def meant(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return the end of a line about an unknown name: the one it is like, or another cure.

    Args:
        name: What there is not.
        known: What there is.
        otherwise: The cure where nothing is like it.
    """
    near = get_close_matches(name[:LEN_MAX], list(known), n=1)
    return f"did you mean {plain(near[0])}?" if near else otherwise
