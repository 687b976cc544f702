"""The allocator of the C library, set up for what a producer does to it.

A producer holds tens of thousands of messages of some ten small allocations each, and frees them
long after they were made. glibc keeps what is freed of such sizes in lists of its own, and joins
all of them whenever anything of 1 KiB or more is asked for, which every numpy array is: a walk over
memory that no cache holds. Without these lists a chunk is joined with its neighbours when it is
freed, and a record costs a fifth less (`tests/bench/produce`, `sink`).

Source: glibc, mallopt(3), `M_MXFAST`; malloc.c, `malloc_consolidate`.
"""

from __future__ import annotations

import ctypes

_M_MXFAST = 1


def without_fastbins() -> bool:
    """Have the whole process join what is freed at once; tell whether the C library can do that."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # of glibc, not of musl
    return mallopt is not None and bool(mallopt(_M_MXFAST, 0))
