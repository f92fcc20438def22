"""Memory that unloaded models leave behind in the allocator, and how it goes back to the system (glibc; elsewhere nothing is done).

Owns: the two calls into malloc. Knows nothing of models. Tensors of oneDNN builds come from TensorFlow's own pool, which keeps what it
has; TF_ONEDNN_USE_SYSTEM_ALLOCATOR=1 makes it use malloc (unloaded weights then leave at once, tensors beyond 32 MB get slower).
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

_M_ARENA_MAX: Final = -8
_LEAST_ARENAS: Final = 4


def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None


_libc = _glibc()


def limit_arenas() -> None:
    """One malloc arena per core instead of glibc's eight: loads and unloads on changing threads leave gaps in each of them (500 reloads
    of a 50 MB model on two cores: +2.7 % with 16 arenas, +1.2 % with 4). MALLOC_ARENA_MAX and GLIBC_TUNABLES win over this.
    Call before threads are started."""
    if _libc is not None and not os.environ.keys() & {"MALLOC_ARENA_MAX", "GLIBC_TUNABLES"}:
        _libc.mallopt(_M_ARENA_MAX, max(os.cpu_count() or 1, _LEAST_ARENAS))


def give_memory_back() -> None:
    """Returns freed pages of the heap to the system. Releases the GIL; takes milliseconds."""
    if _libc is not None:
        _libc.malloc_trim(ctypes.c_size_t(0))
