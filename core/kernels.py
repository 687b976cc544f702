"""The one way Penstock compiles a loop: `@kernel(signature)`, and the types its signatures use.

Laws of a kernel:

1. Its signature is explicit: it is compiled once, for these types, and a call with others fails.
   That is done (or loaded from the cache) at the first call, because loading takes milliseconds and
   no run calls all kernels. Where packets cannot wait, `load_kernels` does it before they come.
2. It releases the GIL, touches only its arguments, and raises nothing.
3. It gives the same answer as plain Python (`NUMBA_DISABLE_JIT=1`). Bytes are therefore widened
   with `int()` before a shift, and hash arithmetic is done in `uint64`, which wraps in both.
4. Arrays are C-contiguous and writable; numpy's read-only views are another numba type.

Compiled code is cached under the user's cache folder, keyed by a digest of every module that holds
kernels: numba alone notices a change in the file of a kernel, not in the file of a kernel it calls.
Source: numba reference manual, "Notes on Caching".
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba import types
from numba.core.caching import FunctionCache
from numba.core.compiler_lock import global_compiler_lock
from numba.core.runtime import rtsys

F = TypeVar("F", bound=Callable[..., Any])

# Scalars and one-dimensional arrays, named as numpy names their dtypes.
i4, i8 = types.int32, types.int64
u1, u4, u8 = types.uint8, types.uint32, types.uint64
f8, b1 = types.float64, types.boolean
A_u1, A_u4, A_u8 = (t[::1] for t in (u1, u4, u8))
A_i4, A_i8, A_f8 = (t[::1] for t in (i4, i8, f8))
A2_u1, A2_u8, A2_i8, A2_f8 = (t[:, ::1] for t in (u1, u8, i8, f8))
none = types.none
Tuple = types.Tuple
"""Type of a tuple of arrays: how kernels take tables with many columns."""

on_compile: list[Callable[[str], None]] = []
"""Called with a kernel's name after it was compiled rather than loaded from the cache, by whichever
thread called it first."""

JIT = not numba.config.DISABLE_JIT


def _bases() -> Iterator[Path]:
    """Yield the folders that the cache may lie in, the best one first."""
    if numba.config.CACHE_DIR:
        yield Path(numba.config.CACHE_DIR)
        return
    # Users without a home exist: containers run under any number.
    with suppress(RuntimeError):
        home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
        yield Path(home) / "penstock"
    shared = Path(tempfile.gettempdir()) / f"penstock-{os.getuid()}"
    with suppress(OSError):
        shared.mkdir(mode=0o700, exist_ok=True)
        # Whoever made it first in a folder of everybody's could exchange what lies in it.
        status = shared.lstat()
        if status.st_uid == os.getuid() and not status.st_mode & 0o022:
            yield shared


def _cache_folder() -> str | None:
    """Choose where compiled kernels live; `None` when no folder can be written.

    In `NUMBA_CACHE_DIR` if set, else in the user's cache folder, else in the temporary one.
    """
    digest = hashlib.blake2b(digest_size=8)
    root = Path(__file__).resolve().parent.parent
    for floor in ("core", "models", "connectors"):
        for path in sorted((root / floor).glob("*.py")):
            source = path.read_bytes()
            if b"@kernel" in source:
                digest.update(source)
    name = f"kernels-{digest.hexdigest()}"
    for base in _bases():
        folder = base / name
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # What is loaded from here is executed: it must not be another user's to write.
            if folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK):
                return str(folder)
        except OSError:
            continue
    return None


class _Cache(FunctionCache):  # type: ignore[misc]  # numba is untyped
    """The cache of one kernel, read without what only compiling needs.

    numba tells every type it knows of all that can be done with it, before it looks at the cache:
    that takes longer than to load all kernels of a run, and is done again when one is compiled.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return what was compiled for a signature, `None` if that is not in the cache."""
        rtsys.initialize(target_context)
        loaded = self._load_overload(sig, target_context)
        if loaded is None:
            _prepare_to_compile()
        return loaded


def _prepare_to_compile() -> None:
    """Let numba load what it compiles arrays with, and scipy not: that takes 0.4 s.

    It looks for the linear algebra of scipy when it does, and our kernels have none.
    """
    blas = "scipy.linalg.cython_blas"
    if blas in sys.modules:
        return
    sys.modules[blas] = None  # type: ignore[assignment]  # to an import: there is none
    try:
        import numba.np.arraymath  # noqa: F401  importing it is what looks
    finally:
        del sys.modules[blas]


if JIT:
    numba.config.CACHE_DIR = _cache_folder() or ""


class Kernel:
    """A function that is compiled, or loaded from the cache, when it is called for the first time.

    By Python, or by another kernel that is being compiled. Loading a kernel brings along the code
    of those it calls: they are not loaded themselves.

    Attributes:
        py_func: The function itself.
    """

    def __init__(
        self, function: Callable[..., Any], signature: Any, options: dict[str, Any]
    ) -> None:
        functools.update_wrapper(self, function)
        self.py_func = function
        self._signature, self._options = signature, options
        self._compiled: Any = None
        self._run: Callable[..., Any] = self._first
        _defined.append(self)

    def __call__(self, *arguments: Any) -> Any:
        """Run it."""
        return self._run(*arguments)

    def _first(self, *arguments: Any) -> Any:
        return self.load()(*arguments)

    @property
    def _numba_type_(self) -> Any:
        """What numba takes it for in a kernel that calls it."""
        return types.Dispatcher(self.load())

    def load(self) -> Any:
        """Return what numba made of it, now at the latest; by any thread."""
        with global_compiler_lock:  # numba's own, so that there is no second one to wait for
            if self._compiled is None:
                self._compiled = self._run = self._compile()
            return self._compiled

    def _compile(self) -> Any:
        dispatcher = numba.njit(**self._options)(self.py_func)
        if numba.config.CACHE_DIR:
            dispatcher._cache = _Cache(self.py_func)  # numba's own is set like this, too
        else:
            _prepare_to_compile()
        try:
            dispatcher.compile(self._signature)
        except OSError:  # the cache cannot be written, for a full disk say: do without
            dispatcher = numba.njit(**self._options)(self.py_func)
            dispatcher.compile(self._signature)
        dispatcher.disable_compile()
        if sum(dispatcher.stats.cache_hits.values()) == 0:
            for listener in on_compile:
                listener(self.py_func.__name__)
        return dispatcher

    def callees(self) -> Iterator[Kernel]:
        """Yield the kernels it calls."""
        for name in self.py_func.__code__.co_names:
            called = self.py_func.__globals__.get(name)
            if isinstance(called, Kernel):
                yield called


_defined: list[Kernel] = []


def load_kernels() -> None:
    """Compile, or load, the kernels of all modules imported so far, before packets come.

    All but those that others call: one of these that Python calls as well is in the cache then, and
    takes milliseconds when it is called.
    """
    called = {id(callee) for caller in _defined for callee in caller.callees()}
    for each in _defined:
        if id(each) not in called:
            each.load()


def kernel(signature: Any, *, inline: bool = False, allocates: bool = False) -> Callable[[F], F]:
    """Let numba compile a function when it is first called, without the GIL; cached.

    Args:
        signature: `returned(argument, …)` in the types of this module.
        inline: Let LLVM always inline it into its callers; for accessors of a few bytes.
        allocates: It makes arrays of its own. Others are compiled without numba's reference
            counting of array arguments, an atomic operation a call that halves their speed.

    Returns:
        A decorator. With `NUMBA_DISABLE_JIT=1` the function stays plain Python, with numpy's
        overflow warnings off, because wrapping `uint64` arithmetic is what hashes are made of.
    """

    def decorate(function: F) -> F:
        if not JIT:
            quiet: F = np.errstate(over="ignore")(function)
            return quiet
        # All of them are said, because what is not said is as in the kernel that calls this one.
        options = {
            "nogil": True,
            "_nrt": allocates,
            "forceinline": inline,
        }
        return cast("F", Kernel(function, signature, options))

    return decorate


def _fence() -> Callable[[], None]:
    """Make what `fence` is; numba knows no fence, so the instruction is emitted here."""
    if not JIT:
        return lambda: None  # the interpreter itself orders what it does

    from numba.extending import intrinsic

    def emit(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    def typed(typingctx: Any) -> Any:  # numba looks at the name of this argument
        del typingctx
        return types.void(), emit

    made: Callable[[], None] = intrinsic(typed)
    return made


fence = _fence()
"""Called in a kernel that shares memory with the system: no read or write moves across it, neither
in the compiler nor in the processor."""


@kernel(u8(u8), inline=True)
def mix(x: Any) -> Any:
    """Scramble 64 bits so that every input bit reaches every output bit.

    Source: MurmurHash3 finaliser, A. Appleby.
    """
    x = x ^ (x >> np.uint64(33))
    x = x * np.uint64(0xFF51AFD7ED558CCD)
    x = x ^ (x >> np.uint64(33))
    x = x * np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))


@kernel(i8(A_u1, i8), inline=True)
def be16(buf: Any, at: Any) -> Any:
    """Read a big-endian unsigned 16-bit integer."""
    return (int(buf[at]) << 8) | int(buf[at + 1])


@kernel(i8(A_u1, i8), inline=True)
def be32(buf: Any, at: Any) -> Any:
    """Read a big-endian unsigned 32-bit integer."""
    return (
        (int(buf[at]) << 24) | (int(buf[at + 1]) << 16) | (int(buf[at + 2]) << 8) | int(buf[at + 3])
    )


@kernel(u8(A_u1, i8, i8), inline=True)
def be_word(buf: Any, at: Any, size: Any) -> Any:
    """Read `size` (0 … 8) bytes as a big-endian unsigned integer."""
    word = np.uint64(0)
    for i in range(size):
        word = (word << np.uint64(8)) | np.uint64(buf[at + i])
    return word


@kernel(i8(A_i8.copy(readonly=True), A_i8, A_i8, A_i4, A_i8))
def find_slices(end: Any, rows: Any, start: Any, length: Any, picked_end: Any) -> Any:
    """Write where some of the slices that lie one after another begin, and how they would lie.

    Args:
        end: `(n,) int64`; where each slice ends.
        rows: `(m,) int64`; which of them, each 0 … n - 1.
        start: `(m,) int64`; written: where each begins.
        length: `(m,) int32`; written: its bytes.
        picked_end: `(m,) int64`; written: where each ends when only these lie there.

    Returns:
        The bytes of all of them.
    """
    total = 0
    for i in range(rows.size):
        row = rows[i]
        begin = end[row - 1] if row > 0 else 0
        size = end[row] - begin
        start[i] = begin
        length[i] = size
        total += size
        picked_end[i] = total
    return total


@kernel(none(A_u1, A_i8, A_i4, A_u1))
def copy_slices(arena: Any, start: Any, length: Any, out: Any) -> None:
    """Copy slices of an arena one after another into `out`, which must hold their sum."""
    at = 0
    for i in range(start.size):
        size = length[i]
        # Slices, because only on them does the compiler see that the copy can be vectorised.
        into, bytes_ = out[at : at + size], arena[start[i] : start[i] + size]
        for j in range(size):
            into[j] = bytes_[j]
        at += size
