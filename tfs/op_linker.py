"""Brings an op library into the process so that it shares TensorFlow's symbols, without making these global.

Owns: a shared object of 700 bytes, written here, that does nothing but need two others.  Must not know: which ops or packages.

Why: op libraries carry copies of inline C++ objects (absl's and protobuf's hash seeds among them) that must be one object in a process.
The dynamic linker makes them one only if TensorFlow's framework library is searched first.  For a library that is opened by itself
it searches that library first, and a kernel that reads an attribute then dies of `key not found`.  Opening the framework with
RTLD_GLOBAL would help and break ssl, hashlib and zlib (docs/architecture.md).  But a library that comes as a dependency is searched in
the order of whoever was opened: so we open an object that needs first the framework, then the op library.

Format: ELF-64, System V gABI chapters 4 and 5.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

from tfs import _fastpath
from tfs.errors import FailedPrecondition

_FRAMEWORK = "/libtensorflow_framework.so"
_HEADER = 64
_SEGMENT = 56
_NEEDED, _HASH, _STRTAB, _SYMTAB, _STRSZ, _SYMENT = 1, 4, 5, 6, 10, 11
_LOAD, _DYNAMIC, _STACK = 1, 2, 0x6474E551
_READ_WRITE = 6
_PAGE = 0x10000  # the largest page of the machines we run on


def _machine() -> int:
    """e_machine of this process."""
    with Path("/proc/self/exe").open("rb") as program:
        program.seek(18)
        return int.from_bytes(program.read(2), "little")


def shared_object(needed: list[str], machine: int) -> bytes:
    """An ELF shared object without code whose DT_NEEDED entries are the paths `needed`, in order."""
    strings = b"\0"
    offsets = []
    for path in needed:
        offsets.append(len(strings))
        strings += os.fsencode(path) + b"\0"
    strings += b"\0" * (-len(strings) % 8)
    hash_at = _HEADER + 3 * _SEGMENT
    symbols_at = hash_at + 16
    strings_at = symbols_at + 24
    dynamic_at = strings_at + len(strings)
    entries = [(_NEEDED, offset) for offset in offsets]
    entries += [
        (_HASH, hash_at),
        (_STRTAB, strings_at),
        (_SYMTAB, symbols_at),
        (_STRSZ, len(strings)),
        (_SYMENT, 24),
        (0, 0),
    ]
    dynamic = b"".join(struct.pack("<qQ", tag, value) for tag, value in entries)
    size = dynamic_at + len(dynamic)
    header = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, _HEADER, 0, 0, _HEADER, _SEGMENT, 3, 64, 0, 0)
    segments = struct.pack("<IIQQQQQQ", _LOAD, _READ_WRITE, 0, 0, 0, size, size, _PAGE)
    segments += struct.pack(
        "<IIQQQQQQ", _DYNAMIC, _READ_WRITE, dynamic_at, dynamic_at, dynamic_at, len(dynamic), len(dynamic), 8
    )
    segments += struct.pack("<IIQQQQQQ", _STACK, _READ_WRITE, 0, 0, 0, 0, 0, 16)
    one_empty_bucket = struct.pack("<IIII", 1, 1, 0, 0)
    return header + segments + one_empty_bucket + bytes(24) + strings + dynamic


def load_op_library(path: Path) -> None:
    """Registers the ops and kernels of a library, for the life of the process. Any thread.

    Raises FailedPrecondition with the dynamic linker's words, or TensorFlow's own error."""
    framework = _framework()
    if framework is not None:
        _link([framework, str(path.absolute())])
    _fastpath.load_op_library(str(path))


def _framework() -> str | None:
    """The TensorFlow framework library in this process; None when there is none (tests)."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if _FRAMEWORK in line:
            return line[line.index("/") :]
    return None


def _link(needed: list[str]) -> None:
    memory = os.memfd_create("tfs-link")
    try:
        os.write(memory, shared_object(needed, _machine()))
        ctypes.CDLL(f"/proc/self/fd/{memory}", os.RTLD_NOW | os.RTLD_LOCAL)  # ctypes never closes it
    except OSError as error:
        raise FailedPrecondition(str(error)) from None
    finally:
        os.close(memory)
