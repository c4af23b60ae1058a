"""The heap of a server: what is freed goes back to the system instead of waiting in a reserve of each thread."""

from __future__ import annotations

import ctypes

_ARENAS = 2
_LARGE_BYTES = 4 * 2**20
_RESERVE_BYTES = 16 * 2**20
# A smaller reserve costs a look's time: with 10 MB 10 % of its processor time, with 4 MB 17 %, with 16 MB 1.5 %.
# Of glibc's malloc.h: M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD.
_SETTINGS = ((-8, _ARENAS), (-3, _LARGE_BYTES), (-1, _RESERVE_BYTES))
_told: list[bool] = []


def keep_small() -> bool:
    """Have frames freed to the system, and let threads share their reserves.

    Left alone, glibc keeps a reserve for each thread, and after the first frame keeps every later one in them. To be
    called before threads are started.

    Returns:
        Whether this C library could be told; another than glibc looks after itself.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    done = mallopt is not None and all(mallopt(name, value) == 1 for name, value in _SETTINGS)
    _told.append(done)
    return done


def give_back() -> None:
    """Give memory that is free back to the system, reserves included; some milliseconds, for when nobody waits.

    Only in a process whose heap is kept small: another's belongs to whoever runs there.
    """
    if not any(_told):
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
