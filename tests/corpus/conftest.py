"""What the tests of the corpus share: its captures, and replays that several of them look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.corpus.runs import MODES, Replayed, replayed

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def captures(corpus: Path) -> dict[str, Path]:
    """Return every capture of the corpus by its name in the folder of captures."""
    folder = corpus / "captures"
    found = sorted(p for p in folder.rglob("*") if p.is_file() and ".pcap" in p.name)
    return {p.relative_to(folder).as_posix(): p for p in found}


@pytest.fixture(scope="session")
def alone(captures: dict[str, Path]) -> dict[str, dict[str, Replayed]]:
    """Replay every capture alone, in both modes; return what was done by mode and name."""
    return {by: {name: replayed(path, by=by) for name, path in captures.items()} for by in MODES}


@pytest.fixture(scope="session")
def together(
    corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Replayed, Path]]:
    """Replay the whole folder in one go, in both modes; return what was done and the records."""
    done = {}
    for by in MODES:
        out = tmp_path_factory.mktemp(f"records-{by}")
        done[by] = replayed(corpus / "captures", by=by, sink=f"files:{out}"), out
    return done
