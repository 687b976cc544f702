"""The account book of a run: who counted what, added up once.

Each stage, source part and sink part writes its own page of running totals, which it also keeps in
its recovered state; so the sum is right with several workers and after a resume, and no counter is
shared between threads.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping


class Ledger:
    """Running totals by page, safe to write from several worker threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pages: dict[str, dict[str, int]] = {}

    def write(self, page: str, totals: Mapping[str, int]) -> None:
        """Replace one page.

        Args:
            page: Name of its only writer, such as `dam/0003`.
            totals: Everything that writer has counted since the beginning, by name.
        """
        with self._lock:
            self._pages[page] = dict(totals)

    def page(self, page: str) -> dict[str, int]:
        """Return a copy of one page; empty when nothing was written to it."""
        with self._lock:
            return dict(self._pages.get(page, {}))

    def total(self) -> Counter[str]:
        """Return the sum over all pages by name; names that end in `_max` take the maximum."""
        sums: Counter[str] = Counter()
        with self._lock:
            for page in self._pages.values():
                for name, value in page.items():
                    sums[name] = (
                        max(sums[name], value) if name.endswith("_max") else (sums[name] + value)
                    )
        return sums
