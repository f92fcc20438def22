"""The protobuf wire format in Python, for the small messages of the client and for the codec without a compiler.

Owns: varints, fields, and how they are read and written. Must not know: any message. Pure functions; any thread.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final

from tfs.errors import Internal

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
FIXED32: Final = 5

_FIXED: Final = {FIXED64: 8, FIXED32: 4}
_FLOAT: Final = struct.Struct("<f")


def varint(value: int) -> bytes:
    """`value` as a varint; negative ones as 64 bits, as protobuf writes int32 and int64."""
    value &= 0xFFFFFFFFFFFFFFFF
    if value < 0x80:
        return value.to_bytes(1, "little")
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def field(number: int, body: bytes) -> bytes:
    """A length-delimited field: bytes, a string, a message, packed values."""
    return varint(number << 3 | BYTES) + varint(len(body)) + body


def text(number: int, value: str) -> bytes:
    """A string field; left out when empty."""
    return field(number, value.encode()) if value else b""


def integer(number: int, value: int) -> bytes:
    """A varint field; left out when zero."""
    return varint(number << 3) + varint(value) if value else b""


def entry(number: int, key: str, value: bytes) -> bytes:
    """An entry of a map from strings to messages."""
    return field(number, field(1, key.encode()) + field(2, value))


def read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """(value, offset behind it). Raises Internal when it is cut off or longer than ten bytes."""
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
    raise Internal("the message cannot be read: a number in it is cut off")


def fields(data: memoryview) -> Iterator[tuple[int, int, int, memoryview]]:
    """(field, wire type, number, bytes) of every field; `bytes` is what lies there (without tag and length), `number` the value of a
    varint. Nothing is copied and what is not asked for is stepped over. Raises Internal on what is no protobuf (groups included)."""
    at = 0
    while at < len(data):
        tag, at = read_varint(data, at)
        number, kind, begin = 0, tag & 7, at
        if kind == VARINT:
            number, at = read_varint(data, at)
        elif kind == BYTES:
            size, begin = read_varint(data, at)
            at = begin + size
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            raise Internal(f"the message cannot be read: wire type {kind} at byte {begin}")
        if at > len(data) or tag < 8:
            raise Internal(f"the message cannot be read: the field at byte {begin} is cut off")
        yield tag >> 3, kind, number, data[begin:at]


def messages(data: memoryview, number: int) -> Iterator[memoryview]:
    """The length-delimited values of field `number`."""
    return (body for found, kind, _, body in fields(data) if found == number and kind == BYTES)


def last_text(data: memoryview, number: int) -> str:
    """A string field's value, or ""."""
    found = ""
    for body in messages(data, number):
        found = str(body, "utf-8", "replace")
    return found


def last_integer(data: memoryview, number: int) -> int:
    """A varint field's value as a signed number of 64 bits, or 0."""
    found = 0
    for field_number, kind, value, _ in fields(data):
        if field_number == number and kind == VARINT:
            found = value
    return signed(found)


def signed(value: int) -> int:
    """64 bits as a signed number."""
    return value - (1 << 64) if value >> 63 else value


def entries(data: memoryview, number: int) -> Iterator[tuple[str, memoryview]]:
    """(key, message) of the map `number`."""
    for body in messages(data, number):
        value = memoryview(b"")
        for found in messages(body, 2):
            value = found
        yield last_text(body, 1), value


def varints(data: memoryview) -> list[int]:
    """The values of a packed field."""
    found, at = [], 0
    while at < len(data):
        value, at = read_varint(data, at)
        found.append(value)
    return found


def packed_floats(values: Iterable[float]) -> bytes:
    """Floats one after the other, as a packed field holds them."""
    return b"".join(map(_FLOAT.pack, values))
