"""The top level of a protobuf message, read without decoding what is inside.

Owns: splitting serialized bytes into fields, and the head of a field.  Used where a payload must stay the bytes that the client sent (Examples).
Knows nothing of any message.  Input is untrusted: every length is checked, a fault is a ValueError.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)


def fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(field number, payload) of every length-delimited field of `data`, in order; other wire types are skipped."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        wire_type = tag & 7
        if wire_type != _BYTES:
            at = _skip(data, at, tag)
            continue
        size, at = _varint(data, at)
        if size > end - at:
            raise ValueError("a length runs past the end of the message")
        yield tag >> 3, data[at : at + size]
        at += size


def head(number: int, size: int) -> bytes:
    """What stands before `size` bytes of field `number` (1 to 15)."""
    out = bytearray([number << 3 | _BYTES])
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if at >= len(data):
            raise ValueError("the message ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a number is longer than ten bytes")


def _skip(data: bytes, at: int, tag: int) -> int:
    """The place after the value of `tag`; groups are walked without recursion."""
    open_groups: list[int] = []
    while True:
        wire_type = tag & 7
        if wire_type == _VARINT:
            _, at = _varint(data, at)
        elif wire_type in (_FIXED64, _FIXED32):
            at += 8 if wire_type == _FIXED64 else 4
        elif wire_type == _BYTES:
            size, at = _varint(data, at)
            at += size
        elif wire_type == _GROUP:
            open_groups.append(tag >> 3)
        elif wire_type == _GROUP_END and open_groups and open_groups[-1] == tag >> 3:
            open_groups.pop()
        else:
            raise ValueError(f"unexpected wire type {wire_type}")
        if at > len(data):
            raise ValueError("a value runs past the end of the message")
        if not open_groups:
            return at
        tag, at = _varint(data, at)
