"""Writes protobuf by hand, so that tests can say exactly which bytes they mean.

Owns: tags, varints, fields, and the shapes of PredictRequest and TensorProto as bytes.  Must not know: either codec.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from reference import varint


def field(number: int, body: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(body)) + body


def number(number: int, value: int) -> bytes:
    """A varint field."""
    return varint(number << 3) + varint(value)


def fixed32(number: int, body: bytes) -> bytes:
    assert len(body) == 4
    return varint(number << 3 | 5) + body


def fixed64(number: int, body: bytes) -> bytes:
    assert len(body) == 8
    return varint(number << 3 | 1) + body


def varints(values: Iterable[int]) -> bytes:
    return b"".join(map(varint, values))


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def doubles(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}d", *values)


def dims(*sizes: int) -> bytes:
    """A tensor_shape field."""
    return field(2, b"".join(field(2, number(1, size) if size else b"") for size in sizes))


def tensor(dtype: int, shape: Iterable[int], values: bytes = b"") -> bytes:
    """A TensorProto: dtype, tensor_shape and whatever fields `values` holds."""
    return number(1, dtype) + dims(*shape) + values


def entry(alias: str | bytes, proto: bytes) -> bytes:
    """An entry of `inputs`."""
    key = alias.encode() if isinstance(alias, str) else alias
    return field(2, field(1, key) + field(2, proto))


def spec(name: str = "m", rest: bytes = b"") -> bytes:
    """The model_spec field."""
    return field(1, field(1, name.encode()) + rest)


def request(*entries: bytes, head: bytes | None = None) -> bytes:
    """A PredictRequest of model `m` (or `head`) and the given outer fields."""
    return (spec() if head is None else head) + b"".join(entries)
