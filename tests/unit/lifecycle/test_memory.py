"""Large buffers keep their pages for the next call; what unloading frees goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support import plain_environment

from tfs.lifecycle import memory

PRELUDE = """
import ctypes
from tfs.lifecycle.memory import give_memory_back, tune_malloc

def resident_kb():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))

tune_malloc()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
"""
# Blocks below the mmap threshold, every second one freed last, so that the top of the heap never shrinks by itself.
UNLOADED = """
blocks = [libc.malloc(64 << 10) for _ in range(800)]
for block in blocks:
    ctypes.memset(block, 1, 64 << 10)
for block in blocks[:-1]:
    libc.free(block)
before = resident_kb()
give_memory_back()
print(before - resident_kb())
"""
LARGE_BUFFER = """
block = libc.malloc(20 << 20)
ctypes.memset(block, 1, 20 << 20)
before = resident_kb()
libc.free(block)
print(before - resident_kb())
"""

pytestmark = pytest.mark.skipif(memory._libc is None, reason="the allocator is not glibc's")


def freed_kb(script: str, **environment: str) -> int:
    """What a process of its own says that it gave back."""
    plain = {k: v for k, v in plain_environment().items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + script],
        capture_output=True,
        text=True,
        env=plain | environment,
        check=True,
    )
    return int(done.stdout)


def test_freed_pages_leave_the_process() -> None:
    assert freed_kb(UNLOADED) > 40_000  # of the 51,200 kB freed


def test_a_large_buffer_keeps_its_pages_for_the_next_call() -> None:
    assert freed_kb(LARGE_BUFFER) < 2_000


@pytest.mark.parametrize(
    "environment",
    [
        {"MALLOC_TRIM_THRESHOLD_": "131072"},
        {"MALLOC_MMAP_THRESHOLD_": "131072"},
        {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"},
    ],
)
def test_the_environment_decides_otherwise(environment: dict[str, str]) -> None:
    assert freed_kb(LARGE_BUFFER, **environment) > 18_000  # of 20,480
