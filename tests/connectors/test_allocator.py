"""The allocator: what is freed does not wait in lists that have to be walked."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from connectors.allocator import without_fastbins

FREED = """
import ctypes, sys
from connectors.allocator import without_fastbins

class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.mallinfo2.restype = Info
if sys.argv[1] == "without":
    assert without_fastbins()
free, info = libc.free, libc.mallinfo2  # what is asked for in between joins them too
chunks = [libc.malloc(40) for _ in range(1000)]
info()
for chunk in chunks:
    free(chunk)
print(info().fsmblks)
"""
"""Prints the bytes that lie in those lists after a thousand chunks were freed."""


def _bytes_kept_apart(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FREED, how], capture_output=True, text=True,
                          check=True)  # fmt: skip
    return int(done.stdout)


def test_what_is_freed_is_joined_at_once() -> None:
    """Without the lists there is nothing in them."""
    assert platform.libc_ver()[0] == "glibc", "the C library of the machines this is tested on"
    assert _bytes_kept_apart("with") > 30_000
    assert _bytes_kept_apart("without") == 0


def test_it_may_be_asked_again_and_elsewhere_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each producer of a process asks, and some C libraries cannot."""
    assert without_fastbins()
    assert without_fastbins()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not without_fastbins()
