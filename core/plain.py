"""Plain text: whatever a user or a file name says, as part of one printable line.

Source: TOML 1.0, "String" (escapes).
"""

from __future__ import annotations


def plain(text: str, *, quote: bool = False) -> str:
    """Escape, as TOML does, whatever could break a line, a terminal or (`quote`) a string."""
    marks = '"\\' if quote else ""
    escaped = (f"\\{c}" if c in marks else f"\\U{ord(c):08x}" for c in text)
    return "".join(
        c if c.isprintable() and c not in marks else e for c, e in zip(text, escaped, strict=True)
    )
