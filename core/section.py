"""What a setting is made of, beside its type: text, unit and bounds, as data.

Not here: the sections themselves (`core.sections`, `core.finding_sections`).
"""

from __future__ import annotations

from msgspec import Meta

NO_NUL = r"^[^\x00]*\Z"


def num(doc: str, low: float, high: float, unit: str = "") -> Meta:
    """Return the meaning and the bounds of a number."""
    bounds = f"{low:.12g} to {high:.12g} {unit}".rstrip()
    return Meta(description=doc, ge=low, le=high, extra={"bounds": bounds})


def text(doc: str, shape: str, pattern: str = NO_NUL) -> Meta:
    """Return the meaning of a text and the shape it must have."""
    extra = {"bounds": f"{shape}, at most 4096 characters"}
    return Meta(description=doc, max_length=4096, pattern=pattern, extra=extra)


def choice(doc: str) -> Meta:
    """Return the meaning of a choice."""
    return Meta(description=doc, extra={"bounds": ""})
