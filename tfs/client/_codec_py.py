"""The client's codec where there is no compiled one: the slow twin of `_fast/client_codec.pxi`, with the same face and answers.

Owns: the layout of a PredictRequest's inputs and of a PredictResponse, with TensorFlow's rules for a TensorProto's values: content
wins, missing values repeat the last one, surplus ones are ignored. Must not know: channels, models. Any thread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from tfs.client import _wire
from tfs.client.dtypes import Array, DataType, storage
from tfs.errors import Internal, InvalidArgument

Tensor = tuple[int, tuple[int, ...], memoryview | list[bytes]]

MAX_MESSAGE: Final = 2147483647  # protobuf's own limit
MAX_FILL_BYTES: Final = 268435456  # as the core: values that were not sent may not claim all memory
MAX_RANK: Final = 254


class _Field(NamedTuple):
    """The typed field of a DataType: its number, the wire type of a single scalar, and that scalar's bytes where they are fixed."""

    number: int
    wire: int
    width: int = 1


_INT: Final = _Field(7, _wire.VARINT)
_HALF: Final = _Field(13, _wire.VARINT)
_FLOAT8: Final = _Field(18, _wire.BYTES)
_FIELDS: Final[dict[int, _Field]] = {
    1: _Field(5, _wire.FIXED32, 4), 2: _Field(6, _wire.FIXED64, 8), 8: _Field(9, _wire.FIXED32, 4), 18: _Field(12, _wire.FIXED64, 8),
    3: _INT, 4: _INT, 5: _INT, 6: _INT, 11: _INT, 12: _INT, 13: _INT, 15: _INT, 16: _INT, 17: _INT, 29: _INT, 30: _INT, 31: _INT,
    32: _INT, 9: _Field(10, _wire.VARINT), 10: _Field(11, _wire.VARINT), 14: _HALF, 19: _HALF, 22: _Field(16, _wire.VARINT),
    23: _Field(17, _wire.VARINT), 24: _FLOAT8, 25: _FLOAT8, 26: _FLOAT8, 27: _FLOAT8, 28: _FLOAT8, 33: _FLOAT8,
}  # fmt: skip


def client_encode(head: bytes, inputs: Sequence[tuple[bytes, int, tuple[int, ...], Any]]) -> bytes:
    """See tfs._fastpath.client_encode."""
    parts: list[bytes | memoryview] = [head]
    for alias, dtype, shape, data in inputs:
        dims = b"".join(_wire.field(2, _wire.integer(1, size)) for size in shape)
        tensor = _wire.integer(1, dtype) + _wire.field(2, dims)
        if dtype == DataType.DT_STRING:
            tensor += b"".join(_wire.field(8, text) for text in data)
            values = memoryview(b"")
        else:
            values = memoryview(data)
            values = values.cast("B") if values.nbytes else memoryview(b"")
            if len(values):
                tensor += _wire.varint(4 << 3 | _wire.BYTES) + _wire.varint(len(values))
        size = len(tensor) + len(values)
        before = _wire.field(1, alias) + _wire.varint(2 << 3 | _wire.BYTES) + _wire.varint(size) + tensor
        parts += [
            _wire.varint(2 << 3 | _wire.BYTES) + _wire.varint(len(before) + len(values)) + before,
            values,
        ]
    total = sum(map(len, parts))
    if total > MAX_MESSAGE:
        raise InvalidArgument(f"a request of {total} bytes cannot be sent: protobuf ends at {MAX_MESSAGE}")
    return b"".join(parts)


def client_decode(reply: bytes) -> tuple[dict[str, Tensor], bytes]:
    """See tfs._fastpath.client_decode."""
    outputs: dict[str, Tensor] = {}
    spec = b""
    try:
        for number, kind, _, body in _wire.fields(memoryview(reply)):
            if number == 1 and kind == _wire.BYTES:
                alias, proto = _entry(body)
                outputs[alias] = _tensor(alias, proto)
            elif number == 2 and kind == _wire.BYTES:
                spec = bytes(body)
    except _NoTensorError:
        raise
    except Internal:
        raise Internal("the reply cannot be read: it is no PredictResponse") from None
    return outputs, spec


class _NoTensorError(Internal):
    """An output that is no tensor, named."""

    def __init__(self, alias: str) -> None:
        super().__init__(f'the reply cannot be read: outputs["{alias}"] is no tensor')


def _entry(body: memoryview) -> tuple[str, memoryview]:
    alias, value = "", memoryview(b"")
    for number, kind, _, found in _wire.fields(body):
        if number == 1 and kind == _wire.BYTES:
            alias = str(found, "utf-8", "replace")
        elif number == 2 and kind == _wire.BYTES:
            value = found
    return alias, value


def _tensor(alias: str, proto: memoryview) -> Tensor:
    dtype, content = 0, memoryview(b"")
    shape: tuple[int, ...] = ()
    chunks: dict[int, list[tuple[int, memoryview]]] = {}
    try:
        for number, kind, value, body in _wire.fields(proto):
            if number == 1 and kind == _wire.VARINT:
                dtype = value
            elif number == 2 and kind == _wire.BYTES:
                shape += tuple(_wire.last_integer(dim, 1) for dim in _wire.messages(body, 2))
            elif number == 4 and kind == _wire.BYTES:
                content = body
            else:
                chunks.setdefault(number, []).append((kind, body))
        if min(shape, default=0) < 0 or len(shape) > MAX_RANK:
            raise _NoTensorError(alias)
        elements = math.prod(shape)
        if dtype == DataType.DT_STRING:
            sent = [body for kind, body in chunks.get(8, []) if kind == _wire.BYTES]
            return dtype, shape, _strings(alias, elements, content, sent)
        if dtype not in _FIELDS:
            raise _NoTensorError(alias)
        row = _FIELDS[dtype]
        found = [body for kind, body in chunks.get(row.number, []) if kind in (_wire.BYTES, row.wire)]
        return dtype, shape, _numbers(alias, dtype, elements, content, found)
    except Internal:
        raise _NoTensorError(alias) from None


def _strings(alias: str, elements: int, content: memoryview, values: list[memoryview]) -> list[bytes]:
    if content:
        found, at = [], 0
        lengths = []
        for _ in range(elements):
            length, at = _wire.read_varint(content, at)
            lengths.append(length)
        for length in lengths:
            found.append(bytes(content[at : at + length]))
            at += length
        if at != len(content):
            raise _NoTensorError(alias)
        return found
    if elements - len(values) > MAX_FILL_BYTES // 24:
        raise _NoTensorError(alias)
    sent = [bytes(value) for value in values[:elements]]
    return sent + [sent[-1] if sent else b""] * (elements - len(sent))


def _numbers(
    alias: str, dtype: int, elements: int, content: memoryview, found: list[memoryview]
) -> memoryview:
    """The values as memory: a slice of the reply where they lie there as they are."""
    row, memory = _FIELDS[dtype], storage(dtype)
    size = elements * memory.itemsize
    if content:
        if len(content) != size and elements:
            raise _NoTensorError(alias)
        return content[:size]
    if row.wire == _wire.VARINT:
        values = _from_varints(b"".join(found), memory)
    else:
        if any(len(chunk) % row.width for chunk in found):
            raise _NoTensorError(alias)
        # float8_val is one field of bytes: the last stands; the others are lists that go on
        joined = found[-1] if found and (len(found) == 1 or row is _FLOAT8) else memoryview(b"".join(found))
        if len(joined) >= size > 0:
            return joined[:size]
        values = np.frombuffer(joined[: len(joined) // memory.itemsize * memory.itemsize], memory)
    if elements - len(values) > MAX_FILL_BYTES // memory.itemsize:
        raise _NoTensorError(alias)
    made: Array = np.zeros(elements, memory)
    made[: len(values)] = values[:elements]
    made[len(values) :] = values[-1] if len(values) else 0
    return memoryview(made.view(np.uint8).data)


def _from_varints(data: bytes, memory: np.dtype[Any]) -> Array:
    """A packed chunk as an array, integers modulo their width: all values at once, one pass per byte of the longest."""
    raw = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(raw < 0x80)
    if (len(raw) and (not len(ends) or ends[-1] != len(raw) - 1)) or (
        len(ends) and np.diff(ends, prepend=-1).max() > 10
    ):
        raise Internal("a number is cut off")
    starts = np.empty_like(ends)
    starts[:1] = 0
    starts[1:] = ends[:-1] + 1
    values = np.zeros(len(ends), np.uint64)
    alive = np.arange(len(ends))
    for byte in range(10):
        alive = alive[starts[alive] + byte <= ends[alive]]
        if not len(alive):
            break
        bits = (raw[starts[alive] + byte] & 0x7F).astype(np.uint64)
        values[alive] |= bits << np.uint64(7 * byte)
    return values != 0 if memory.kind == "b" else values.astype(f"u{memory.itemsize}").view(memory)
