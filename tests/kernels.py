"""All kernels compiled, before tests start the processes that need them.

    python -m tests.kernels

Without it the first tests of a new installation would compile side by side what each of them calls,
and hear of it on standard error.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from core import kernels

FLOORS = ("core", "models", "connectors")


def load_every_kernel() -> None:
    """Import every module that has a kernel, and compile what the cache does not have."""
    root = Path(kernels.__file__).parent.parent
    for floor in FLOORS:
        for path in sorted((root / floor).glob("*.py")):
            if "@kernel(" in path.read_text():
                importlib.import_module(f"{floor}.{path.stem}")
    kernels.load_kernels()


if __name__ == "__main__":
    load_every_kernel()
