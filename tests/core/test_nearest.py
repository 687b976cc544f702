"""Names that are none: the one meant, or another cure."""

from __future__ import annotations

from core.nearest import meant


def test_what_is_like_nothing_gets_no_suggestion() -> None:
    """A slip names what was meant; what is like nothing, or too long to look at, the other cure."""
    known = ["record", "frame_short", "bad\nname"]
    assert meant("recxrd", known, "see the list") == "did you mean record?"
    assert meant("badname", known, "see the list") == "did you mean bad\\U0000000aname?"
    assert meant("kwx", known, "see the list") == "see the list"
    assert meant("k" * 100_000, known, "see the list") == "see the list"
    assert meant("record", [], "see the list") == "see the list"
