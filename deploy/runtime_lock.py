"""What of `requirements.lock` running Penstock needs, hashes included: the lock without the tools.

`python runtime_lock.py <requirements.lock >runtime.lock`

The lock says of each requirement who asked for it (`# via`). One is kept if the project itself
asked, not its group of tools, or one that is kept did.

Source: pip's requirements files, and the annotations of `uv pip compile`.
"""

from __future__ import annotations

import re
import sys

PROJECT = "penstock (pyproject.toml)"


def runtime(lock: str) -> str:
    """Return the entries of a lock that the project needs to run, as they are.

    Raises:
        ValueError: An entry does not say who asked for it.
    """
    entries = {_name(entry): entry for entry in re.split(r"\n(?=[a-z0-9])", lock.strip())[1:]}
    asked_by = {name: _asked_by(entry) for name, entry in entries.items()}
    kept = {PROJECT}
    while more := {name for name, who in asked_by.items() if name not in kept and who & kept}:
        kept |= more
    return "".join(f"{entry}\n" for name, entry in entries.items() if name in kept)


def _name(entry: str) -> str:
    return entry.partition("==")[0]


def _asked_by(entry: str) -> set[str]:
    comment = entry.partition("    # via")[2]
    found = {line.lstrip("# ").strip() for line in comment.splitlines()} - {""}
    if not found:
        raise ValueError(f"{_name(entry)}: the lock does not say who asked for it")
    return found


if __name__ == "__main__":
    sys.stdout.write(runtime(sys.stdin.read()))
