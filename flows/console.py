"""What a command says: results on standard output, one line at a time for people on the other."""

from __future__ import annotations

import os
import sys

from core.errors import SinkError


def say(line: str) -> None:
    """Print one line for the user on standard error, whatever it quotes."""
    from core.plain import plain

    if sys.stderr is not None:  # closed by whoever started us
        sys.stderr.write(f"penstock: {plain(line)}\n")
        sys.stderr.flush()


def put(text: str) -> None:
    """Print a result on standard output.

    Raises:
        SinkError: Nobody takes it.
    """
    if sys.stdout is None:  # closed by whoever started us
        raise SinkError("standard output: closed; give results a place")
    # A terminal of another character set gets escapes for what it cannot show, as stderr does.
    encoding = sys.stdout.encoding or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except OSError as error:
        raise refused(error) from error


def refused(error: OSError) -> SinkError:
    """Return why standard output takes nothing, and write nothing more to it."""
    # What is still in the buffer would fail again when the interpreter ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return SinkError(f"standard output: {error.strerror}; give results a place")
