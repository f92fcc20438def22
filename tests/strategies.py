"""Hypothesis strategies for PredictRequests as bytes: well-formed ones in every spelling, and damaged ones.

Owns: what a client may send.  Must not know: what a codec makes of it.  Small on purpose: oddity matters here, size does not.
"""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import strategies as st
from reference import DTYPES
from wiretools import dims, entry, field, fixed32, fixed64, number, varint

FIELD_NUMBERS = {
    "float_val": 5, "double_val": 6, "int_val": 7, "scomplex_val": 9, "int64_val": 10, "bool_val": 11, "dcomplex_val": 12,
    "half_val": 13, "uint32_val": 16, "uint64_val": 17,
}  # fmt: skip
WIDTH_4, WIDTH_8 = (5, 9), (6, 12)

aliases = st.sampled_from(["x", "y", "", "input_ids", "日本"]) | st.text(max_size=4)
odd_dtypes = st.sampled_from([0, 20, 21, 34, 50, 101, 2**31 - 1, 2**32 + 1, 2**64 - 1])
dtypes = st.sampled_from(sorted(DTYPES))
varint_values = st.one_of(
    st.integers(0, 3),
    st.integers(0, 2**64 - 1),
    st.sampled_from([127, 128, 255, 256, 2**31 - 1, 2**31, 2**32, 2**63, 2**64 - 1]),
)
small_dims = st.lists(st.integers(0, 3), max_size=4)
odd_dims = st.lists(st.sampled_from([-1, 0, 1, 2, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63)]), max_size=4)
shapes = st.one_of(small_dims, small_dims, small_dims, odd_dims)


@st.composite
def unknown_fields(draw: st.DrawFn) -> bytes:
    tag = draw(st.integers(100, 2**29 - 1))
    kind = draw(st.integers(0, 4))
    if kind == 0:
        return number(tag, draw(varint_values))
    if kind == 1:
        return fixed64(tag, draw(st.binary(min_size=8, max_size=8)))
    if kind == 2:
        return fixed32(tag, draw(st.binary(min_size=4, max_size=4)))
    if kind == 3:
        return field(tag, draw(st.binary(max_size=6)))
    return varint(tag << 3 | 3) + draw(unknown_fields()) + varint(tag << 3 | 4)


@st.composite
def scalars(draw: st.DrawFn, tag: int) -> list[bytes]:
    """The bytes of single values of a typed field, without their tags."""
    if tag in WIDTH_4:
        return draw(st.lists(st.floats(width=32).map(lambda v: struct.pack("<f", v)), max_size=7))
    if tag in WIDTH_8:
        return draw(st.lists(st.floats().map(lambda v: struct.pack("<d", v)), max_size=7))
    return draw(st.lists(varint_values.map(varint), max_size=12))


@st.composite
def typed_field(draw: st.DrawFn, tag: int) -> list[bytes]:
    """Occurrences of one typed field: packed, single, or any mixture, in order."""
    values: list[bytes] = draw(scalars(tag))
    pieces: list[bytes] = []
    while values:
        take = draw(st.integers(0, len(values)))
        if take == 0:
            single = fixed32 if tag in WIDTH_4 else fixed64 if tag in WIDTH_8 else _single_varint
            pieces.append(single(tag, values.pop(0)))
        else:
            pieces.append(field(tag, b"".join(values[:take])))
            values = values[take:]
    return pieces


def _single_varint(tag: int, body: bytes) -> bytes:
    return varint(tag << 3) + body


@st.composite
def string_contents(draw: st.DrawFn) -> bytes:
    words = draw(st.lists(st.binary(max_size=5), max_size=4))
    return (
        b"".join(varint(len(word)) for word in words)
        + b"".join(words)
        + draw(st.sampled_from([b"", b"", b"\x00"]))
    )


@st.composite
def values(draw: st.DrawFn, dtype: int) -> list[bytes]:
    """The fields that carry the values of a tensor: mostly the right one."""
    row = DTYPES.get(dtype)
    pieces: list[bytes] = []
    if row is None:
        return pieces
    if row.field == "string_val":
        pieces += [field(8, word) for word in draw(st.lists(st.binary(max_size=6), max_size=6))]
    elif row.field == "float8_val":
        pieces += [field(18, word) for word in draw(st.lists(st.binary(max_size=6), max_size=2))]
    else:
        pieces += draw(typed_field(FIELD_NUMBERS[row.field]))
    if draw(st.integers(0, 4)) == 0:
        pieces += draw(typed_field(draw(st.sampled_from(sorted(FIELD_NUMBERS.values())))))
    return pieces


@st.composite
def tensors(draw: st.DrawFn) -> bytes:
    """A TensorProto: fields in any order, every spelling, sometimes odd."""
    dtype = draw(dtypes) if draw(st.integers(0, 9)) else draw(odd_dtypes)
    shape = draw(shapes)
    pieces = [number(1, dtype), dims(*[size % 2**64 for size in shape])]
    if draw(st.integers(0, 3)) == 0:
        size = 1
        for dim in shape:
            size *= max(dim, 0)
        width = {"?": 1, "S": 1}.get(DTYPES[dtype].storage, 0) if dtype in DTYPES else 1
        width = width or int(DTYPES[dtype].storage[-1] if not DTYPES[dtype].storage.endswith("16") else 16)
        exact = min(size * width, 600)
        body = st.binary(min_size=exact, max_size=exact) | st.binary(max_size=9) | string_contents()
        pieces.append(field(4, draw(body)))
    pieces += draw(values(dtype))
    if draw(st.integers(0, 5)) == 0:
        pieces.append(draw(unknown_fields()))
    if draw(st.integers(0, 9)) == 0:
        pieces.append(dims(*draw(small_dims)))
    if draw(st.booleans()):
        pieces = draw(st.permutations(pieces))
    return b"".join(pieces)


@st.composite
def specs(draw: st.DrawFn) -> bytes:
    pieces = draw(
        st.lists(
            st.one_of(
                st.just(field(1, b"m")),
                st.text(max_size=3).map(lambda text: field(1, text.encode())),
                varint_values.map(lambda version: field(2, number(1, version))),
                st.just(field(2, b"")),
                st.text(max_size=3).map(lambda text: field(3, text.encode())),
                st.text(max_size=3).map(lambda text: field(4, text.encode())),
                unknown_fields(),
            ),
            max_size=5,
        )
    )
    return field(1, b"".join(pieces))


@st.composite
def entries(draw: st.DrawFn) -> bytes:
    kind = draw(st.integers(0, 9))
    if kind > 1:
        return entry(draw(aliases), draw(tensors()))
    pieces = [
        field(1, draw(aliases).encode()),
        field(2, draw(tensors())),
        field(2, draw(tensors())),
        draw(unknown_fields()),
    ]
    return field(2, b"".join(draw(st.lists(st.sampled_from(pieces), max_size=4))))


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A PredictRequest that is valid protobuf."""
    pieces: list[bytes] = draw(
        st.lists(
            st.one_of(
                specs(),
                entries(),
                entries(),
                entries(),
                st.text(max_size=4).map(lambda text: field(3, text.encode())),
                unknown_fields(),
            ),
            max_size=6,
        )
    )
    return b"".join(pieces)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A request with a few bytes changed, cut out, repeated, or its end cut off."""
    made = bytearray(draw(requests()))
    for _ in range(draw(st.integers(1, 4))):
        if not made:
            break
        at = draw(st.integers(0, len(made) - 1))
        kind = draw(st.integers(0, 4))
        if kind == 0:
            made[at] = draw(st.integers(0, 255))
        elif kind == 1:
            del made[at : at + draw(st.integers(1, 8))]
        elif kind == 2:
            made[at:at] = draw(st.binary(max_size=4))
        elif kind == 3:
            made[at:at] = made[at : at + draw(st.integers(1, 20))]
        else:
            del made[at:]
    return bytes(made)


@st.composite
def outputs(draw: st.DrawFn) -> list[tuple[bytes, int, tuple[int, ...], Any]]:
    """Result tensors as `encode` takes them; aliases are distinct."""
    names = draw(st.lists(st.text(max_size=3), max_size=4, unique=True))
    made = []
    for name in names:
        dtype = draw(dtypes)
        shape = tuple(draw(small_dims))
        elements = 1
        for size in shape:
            elements *= size
        storage = DTYPES[dtype].storage
        data: Any
        if storage == "S":
            data = draw(st.lists(st.binary(max_size=200), min_size=elements, max_size=elements))
        elif storage == "?":
            data = bytes(draw(st.lists(st.integers(0, 1), min_size=elements, max_size=elements)))
        else:
            width = 16 if storage.endswith("16") else int(storage[-1])
            data = draw(st.binary(min_size=elements * width, max_size=elements * width))
        made.append((name.encode(), dtype, shape, data))
    return made
