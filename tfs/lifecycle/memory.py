"""What the allocator keeps: the pages of large buffers for the next call, not those of unloaded models (glibc; elsewhere nothing is done).

Owns: the two calls into malloc. Knows nothing of models. Tensors of oneDNN builds come from TensorFlow's own pool, which keeps what it
has; TF_ONEDNN_USE_SYSTEM_ALLOCATOR=1 makes it use malloc (unloaded weights then leave at once, tensors beyond 32 MB get slower).
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

_LEAST_ARENAS: Final = 64
_MIB: Final = 1 << 20
# Parameter of mallopt(3), the environment variable that wins over it, value.
_PARAMETERS: Final = (
    # Threads take arenas in turn when there are no more, and two that run models must not share one: on two cores a net of 150 µs then
    # costs 450 for as long as the process lives, the rest is futexes.  Glibc's limit is eight per core; arenas come with threads.
    (-8, "MALLOC_ARENA_MAX", max(8 * (os.cpu_count() or 1), _LEAST_ARENAS)),
    # Buffers up to 32 MiB, the most that glibc takes here, come from the heap, and what is freed at the end of it waits for the next call:
    # up to 128 MiB in the main heap, up to 64 (a heap's size) in each arena that handled large calls.
    # Otherwise each large request, tensor and reply is fresh memory, whose page faults cost more than the copies into it: 1 MiB there and
    # back takes 0.43 instead of 0.84 ms of CPU, 16 MiB over grpcio 10 instead of 26.
    (-3, "MALLOC_MMAP_THRESHOLD_", 32 * _MIB),
    (-1, "MALLOC_TRIM_THRESHOLD_", 128 * _MIB),
)


def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None


_libc = _glibc()


def tune_malloc() -> None:
    """Sets `_PARAMETERS`, each unless the environment does; GLIBC_TUNABLES wins over all. Call before threads are started."""
    if _libc is None or "GLIBC_TUNABLES" in os.environ:
        return
    for parameter, variable, value in _PARAMETERS:
        if variable not in os.environ:
            _libc.mallopt(parameter, value)


def give_memory_back() -> None:
    """Returns freed pages of the heap to the system. Releases the GIL; takes milliseconds."""
    if _libc is not None:
        _libc.malloc_trim(ctypes.c_size_t(0))
