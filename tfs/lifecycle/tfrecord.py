"""TFRecord files: a length and a body, each followed by its masked CRC-32C.

Owns: the format and the texts of its errors (what TensorFlow's reader says, word for word). Knows nothing of what a body means.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

from tfs.errors import DataLoss

_HEADER: Final = struct.Struct("<QI")
_CHECKSUM: Final = struct.Struct("<I")


@functools.cache
def _remainders() -> tuple[int, ...]:
    """What each byte becomes: eight steps of the polynomial, reflected."""
    found = list(range(256))
    for _ in range(8):
        found = [(crc >> 1) ^ (0x82F63B78 if crc & 1 else 0) for crc in found]
    return tuple(found)


def slow_crc32c(data: bytes) -> int:
    """CRC-32C, 50 ns a byte: for `tfs warmup` where there was no compiler."""
    table, crc = _remainders(), 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


try:
    from tfs._fastpath import crc32c
except ImportError:
    crc32c = slow_crc32c


def mask(crc: int) -> int:
    """The stored form of a checksum: turned right by 15 bits, plus a constant."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def read(file: BinaryIO) -> Iterator[bytes]:
    """The bodies in `file`, one at a time. Raises DataLoss at the first damaged one; an incomplete header is a normal end.

    A length is trusted only when its checksum is right and so many bytes are left in the file."""
    size = os.fstat(file.fileno()).st_size
    offset = 0
    while len(header := file.read(_HEADER.size)) == _HEADER.size:
        length, checksum = _HEADER.unpack(header)
        if mask(crc32c(header[:8])) != checksum:
            hint = " (Is this even a TFRecord file?)" if offset == 0 else ""
            raise DataLoss(f"corrupted record at {offset}{hint}")
        body_at = offset + _HEADER.size
        if length + _CHECKSUM.size > size - body_at:
            raise DataLoss(f"truncated record at {offset}' failed with Read less bytes than requested")
        body = file.read(length)
        (checksum,) = _CHECKSUM.unpack(file.read(_CHECKSUM.size))
        if mask(crc32c(body)) != checksum:
            raise DataLoss(f"corrupted record at {body_at}")
        yield body
        offset = body_at + length + _CHECKSUM.size


def write(file: BinaryIO, bodies: Iterable[bytes]) -> None:
    """Appends `bodies` to `file` as records. Raises OSError."""
    for body in bodies:
        length = len(body).to_bytes(8, "little")
        file.write(_HEADER.pack(len(body), mask(crc32c(length))))
        file.write(body)
        file.write(_CHECKSUM.pack(mask(crc32c(body))))
