"""Freed heap pages go back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support import plain_environment

from tfs.lifecycle import memory

# Blocks below the mmap threshold, every second one freed last, so that the top of the heap never shrinks by itself.
SCRIPT = """
import ctypes
from tfs.lifecycle.memory import give_memory_back, limit_arenas

def resident_kb():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))

limit_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
blocks = [libc.malloc(64 << 10) for _ in range(800)]
for block in blocks:
    ctypes.memset(block, 1, 64 << 10)
for block in blocks[:-1]:
    libc.free(block)
before = resident_kb()
give_memory_back()
print(before - resident_kb())
"""


@pytest.mark.skipif(memory._libc is None, reason="the allocator is not glibc's")
def test_freed_pages_leave_the_process() -> None:
    environment = {k: v for k, v in plain_environment().items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, check=True
    )
    assert int(done.stdout) > 40_000  # of the 51,200 kB freed
