"""The kernel decorator, its cache, and the small kernels everybody uses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import kernels
from core.kernels import JIT, Kernel, be16, be32, be_word, mix
from core.xxh64 import xxh64
from tests.disks import small_disk_at
from tests.kernels import load_every_kernel

MASK = (1 << 64) - 1


def finaliser(x: int) -> int:
    """Compute MurmurHash3's 64-bit finaliser in plain integers."""
    x ^= x >> 33
    x = x * 0xFF51AFD7ED558CCD & MASK
    x ^= x >> 33
    x = x * 0xC4CEB9FE1A85EC53 & MASK
    return x ^ (x >> 33)


@given(st.integers(0, MASK))
def test_mix_is_the_murmur_finaliser(x: int) -> None:
    """The hash finaliser wraps as 64-bit arithmetic does."""
    assert int(mix(np.uint64(x))) == finaliser(x)


@given(st.binary(min_size=8, max_size=8), st.integers(0, 8))
def test_words_are_big_endian(raw: bytes, size: int) -> None:
    """Integers are read in network order."""
    buf = np.frombuffer(bytearray(raw), np.uint8)
    assert be16(buf, 0) == int.from_bytes(raw[:2], "big")
    assert be32(buf, 4) == int.from_bytes(raw[4:], "big")
    assert int(be_word(buf, 0, size)) == int.from_bytes(raw[:size], "big")


PROBE = """
import numpy as np
from core import kernels
compiled = []
kernels.on_compile.append(compiled.append)
from core import shards
assert not compiled
kernels.load_kernels()
print(len(compiled), kernels.numba.config.CACHE_DIR)
"""


def probe(**environment: str) -> tuple[int, str]:
    """Load kernels in a fresh process; return how many were compiled, and the cache folder."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("NUMBA_CACHE_DIR", "HOME")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE],
        check=True, capture_output=True, text=True, env=inherited | environment,
    )  # fmt: skip
    count, _, folder = done.stdout.strip().partition(" ")
    return int(count), folder


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    """Kernels are compiled once, and told of; afterwards they come from the cache."""
    first, folder = probe(NUMBA_CACHE_DIR=str(tmp_path))
    second, same = probe(NUMBA_CACHE_DIR=str(tmp_path))
    assert first > 0
    assert second == 0
    assert folder == same
    assert Path(folder).parent == tmp_path


def test_cache_lies_in_the_home_folder(tmp_path: Path) -> None:
    """Without a setting the cache is the user's own."""
    _, folder = probe(HOME=str(tmp_path))
    assert Path(folder).parent == tmp_path / ".cache" / "penstock"


def test_cache_falls_back_when_home_cannot_be_written(tmp_path: Path) -> None:
    """A home that is no folder leaves the temporary one."""
    (tmp_path / "home").write_text("a file")
    (tmp_path / "tmp").mkdir()
    _, folder = probe(HOME=str(tmp_path / "home"), TMPDIR=str(tmp_path / "tmp"))
    assert Path(folder).is_relative_to(tmp_path / "tmp")


def test_a_full_cache_is_done_without(tmp_path: Path) -> None:
    """Where the cache has no room left kernels are compiled, and nothing fails."""
    with small_disk_at(tmp_path / "full", "16k") as disk:
        count, _ = probe(NUMBA_CACHE_DIR=str(disk))
    assert count > 0


def test_a_user_without_a_home_has_a_cache(tmp_path: Path) -> None:
    """A number that no user has, as containers run under, finds the temporary folder."""
    program = (
        "import pathlib, core.kernels as kernels\n"
        "def homeless(path):\n"
        "    raise RuntimeError('Could not determine home directory.')\n"
        "pathlib.Path.expanduser = homeless\n"
        "print(kernels._cache_folder())\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    environment |= {"NUMBA_CACHE_DIR": "", "TMPDIR": str(tmp_path), "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-c", program]

    def folder() -> str:
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        return done.stdout.strip()

    assert Path(folder()).is_relative_to(tmp_path)
    shared = tmp_path / f"penstock-{os.getuid()}"
    assert shared.stat().st_mode & 0o777 == 0o700
    shared.chmod(0o777)  # as somebody who made it first would have it
    assert folder() == "None"


def printed(script: str) -> list[str]:
    """Return what a fresh process prints, word by word."""
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.split()


def test_starting_loads_no_linear_algebra() -> None:
    """Kernels have none, and loading scipy's would take longer than loading most of them."""
    script = (
        "import core.kernels, core.shards, sys\n"
        "core.kernels.load_kernels()\n"
        "print(*(m for m in sys.modules if 'scipy.linalg' in m))\n"
    )
    assert printed(script) == []


LOADED = """
import numpy as np
from core import kernels, xxh64
def loaded():
    print(*(each.__name__ for each in kernels._defined if each._compiled is not None), end=" | ")
loaded()
xxh64.xxh64(np.zeros(9, np.uint8), 0, 9, np.uint64(0))
loaded()
kernels.load_kernels()
loaded()
"""


def test_kernels_are_loaded_when_they_are_called() -> None:
    """None at import, none for being called by a kernel, and all others when they are asked for."""
    assert isinstance(xxh64, Kernel)
    xxh64.load()  # and now it is in the cache
    at_import, at_call, at_last = " ".join(printed(LOADED)).split("|")[:3]
    assert at_import.split() == []
    assert at_call.split() == ["xxh64"]
    assert {"xxh64", "copy_slices", "hash_records"} <= set(at_last.split())
    assert {callee.py_func.__name__ for callee in xxh64.callees()}.isdisjoint(at_last.split())


def test_kernels_keep_to_their_signature() -> None:
    """What was compiled for other types is not called with these, and nothing is compiled anew."""
    if JIT:
        with pytest.raises(TypeError, match="No matching definition"):
            be16(np.zeros(2, np.float64), 0)


@pytest.mark.timeout(1_200)  # without a cache it compiles what a hundred tests would
def test_every_kernel_compiles() -> None:
    """Whatever a run may call first compiles as it is declared."""
    load_every_kernel()
    callees = {callee for each in kernels._defined for callee in each.callees()}
    assert all(each.load() for each in set(kernels._defined) - callees)
    assert callees
