"""The decoding table: every dtype, every encoding, and what cannot become a tensor. Every body runs on both codecs."""

from __future__ import annotations

import resource

import numpy as np
import pytest
import reference
from reference import DTYPES
from wiretools import (
    dims,
    doubles,
    entry,
    field,
    fixed32,
    fixed64,
    floats,
    number,
    request,
    tensor,
    varint,
    varints,
)

from tfs import _fastpath, messages

FIELD_NUMBERS = {
    "float_val": 5, "double_val": 6, "int_val": 7, "string_val": 8, "scomplex_val": 9, "int64_val": 10, "bool_val": 11,
    "dcomplex_val": 12, "half_val": 13, "uint32_val": 16, "uint64_val": 17, "float8_val": 18,
}  # fmt: skip
NUMERIC = [number for number in DTYPES if number != 7]
VARINT = [
    n
    for n in NUMERIC
    if DTYPES[n].field not in ("float_val", "double_val", "scomplex_val", "dcomplex_val", "float8_val")
]
FIXED = {
    1: (4, 1, fixed32),
    2: (8, 1, fixed64),
    8: (4, 2, fixed32),
    18: (8, 2, fixed64),
}  # scalar bytes, scalars, unpacked


def one(codec, proto: bytes):
    return codec.tensor(request(entry("x", proto)))


def itemsize(dtype: int) -> int:
    return np.dtype(DTYPES[dtype].storage).itemsize


def test_the_dtype_table_is_that_of_the_descriptors(fake_tensors: None) -> None:
    table = {number: (name, size, field) for number, _, name, size, field in _fastpath._probe_dtypes()}
    assert {name: number for number, (name, _, _) in table.items()} == {
        name: number for name, number in messages.DataType.items() if number < 100
    }
    fields = messages.TensorProto.DESCRIPTOR.fields_by_name
    for dtype, row in DTYPES.items():
        size = reference.STRING_HANDLE_BYTES if dtype == 7 else itemsize(dtype)
        assert table[dtype][1:] == (size, fields[row.field].number)
    assert [number for number, (_, size, _) in table.items() if size == 0] == [0, 20, 21]


# --- tensor_content ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", NUMERIC)
def test_content_is_taken_as_it_is(codec, dtype: int) -> None:
    content = bytes(range(200, 200 + 3 * itemsize(dtype)))[: 3 * itemsize(dtype)]
    if DTYPES[dtype].storage == "?":
        content = b"\x01\x00\x01"
    shape, data = one(codec, tensor(dtype, [3], field(4, content)))[1:]
    assert (shape, data) == ((3,), content)


@pytest.mark.parametrize("dtype", NUMERIC)
@pytest.mark.parametrize("off_by", [-1, 1])
def test_content_of_another_length_is_bad(codec, dtype: int, off_by: int) -> None:
    assert one(codec, tensor(dtype, [3], field(4, bytes(3 * itemsize(dtype) + off_by)))) == "bad"


def test_bool_content_of_other_bytes_than_0_and_1_is_bad(codec) -> None:
    assert one(codec, tensor(10, [3], field(4, b"\x00\x01\x02"))) == "bad"
    assert one(codec, tensor(10, [3], field(4, b"\x80\x00\x00"))) == "bad"


def test_content_wins_over_values_and_the_last_content_stands(codec) -> None:
    values = field(5, floats(9, 9)) + field(4, floats(1, 1)) + field(4, floats(2, 3))
    assert one(codec, tensor(1, [2], values)) == (1, (2,), floats(2, 3))


def test_an_empty_content_is_none(codec) -> None:
    assert one(codec, tensor(1, [2], field(5, floats(9, 8)) + field(4, b""))) == (1, (2,), floats(9, 8))


def test_an_empty_tensor_ignores_its_content(codec) -> None:
    assert one(codec, tensor(1, [0, 4], field(4, b"anything"))) == (1, (0, 4), b"")


# --- typed fields -------------------------------------------------------------------------------------------------------------


def spellings(dtype: int, scalars: list[bytes]) -> dict[str, bytes]:
    """The same scalars as one packed chunk, as single fields, and as a mixture with an empty chunk in it."""
    number = FIELD_NUMBERS[DTYPES[dtype].field]
    single = FIXED[dtype][2] if dtype in FIXED else lambda number, body: varint(number << 3) + body
    half = len(scalars) // 2
    return {
        "packed": field(number, b"".join(scalars)),
        "unpacked": b"".join(single(number, scalar) for scalar in scalars),
        "split": field(number, b"".join(scalars[:half]))
        + field(number, b"")
        + field(number, b"".join(scalars[half:])),
        "mixed": b"".join(single(number, s) for s in scalars[:half])
        + field(number, b"".join(scalars[half:])),
        "packed first": field(number, b"".join(scalars[:half]))
        + b"".join(single(number, s) for s in scalars[half:]),
    }


@pytest.mark.parametrize("spelling", ["packed", "unpacked", "split", "mixed", "packed first"])
@pytest.mark.parametrize("dtype", FIXED)
def test_fixed_width_values(codec, dtype: int, spelling: str) -> None:
    width, per_element, _ = FIXED[dtype]
    pack = floats if width == 4 else doubles
    scalars = [pack(i + 0.5) for i in range(3 * per_element)]
    assert one(codec, tensor(dtype, [3], spellings(dtype, scalars)[spelling])) == (
        dtype,
        (3,),
        b"".join(scalars),
    )


@pytest.mark.parametrize("spelling", ["packed", "unpacked", "split", "mixed", "packed first"])
@pytest.mark.parametrize("dtype", VARINT)
def test_varint_values_are_taken_modulo_the_width(codec, dtype: int, spelling: str) -> None:
    values = [0, 1, 127, 128, 300, 65535, 65536, 2**31 - 1, 2**32 + 5, 2**63, 2**64 - 1, 2**64 - 300]
    values = values + values[::-1]
    storage = DTYPES[dtype].storage
    narrow = DTYPES[dtype].field in ("int_val", "half_val", "uint32_val")  # protobuf keeps 32 bits of these
    kept = np.array([v & 0xFFFFFFFF for v in values] if narrow else values, np.uint64)
    expected = (kept != 0 if storage == "?" else kept.astype(storage)).tobytes()
    proto = tensor(dtype, [24], spellings(dtype, [varint(v) for v in values])[spelling])
    assert one(codec, proto) == (dtype, (24,), expected)


@pytest.mark.parametrize("dtype", [n for n in NUMERIC if DTYPES[n].field == "float8_val"])
def test_float8_values_are_one_bytes_field(codec, dtype: int) -> None:
    assert one(codec, tensor(dtype, [3], field(18, b"\x01\x02\x03"))) == (dtype, (3,), b"\x01\x02\x03")
    assert one(codec, tensor(dtype, [3], field(18, b"\x01\x02\x03\x04") + field(18, b"\x09"))) == (
        dtype,
        (3,),
        b"\x09\x09\x09",
    )
    assert one(codec, tensor(dtype, [2], field(18, b""))) == (dtype, (2,), bytes(2))


@pytest.mark.parametrize("dtype", NUMERIC)
def test_no_values_are_zeros(codec, dtype: int) -> None:
    zeros = bytes(6 * itemsize(dtype))
    assert one(codec, tensor(dtype, [2, 3])) == (dtype, (2, 3), zeros)
    assert one(codec, tensor(dtype, [2, 3], field(FIELD_NUMBERS[DTYPES[dtype].field], b""))) == (
        dtype,
        (2, 3),
        zeros,
    )


@pytest.mark.parametrize("spelling", ["packed", "unpacked", "split"])
@pytest.mark.parametrize("elements", [1, 2, 3, 4, 5, 100, 1000])
@pytest.mark.parametrize("dtype", [1, 2, 3, 6, 9, 10, 17, 19])
def test_missing_values_repeat_the_last_and_extra_ones_are_ignored(
    codec, dtype: int, elements: int, spelling: str
) -> None:
    numbers = [5, 0, 1] if dtype == 10 else [5, 6, 7]
    scalars = [
        {1: floats, 2: doubles}.get(dtype, varint)(value)  # type: ignore[operator]
        for value in numbers
    ]
    filled = (numbers + numbers[-1:] * elements)[:elements]
    expected = np.array(filled).astype(DTYPES[dtype].storage).tobytes()
    assert one(codec, tensor(dtype, [elements], spellings(dtype, scalars)[spelling])) == (
        dtype,
        (elements,),
        expected,
    )


@pytest.mark.parametrize("dtype", [8, 18])
def test_a_lone_half_of_a_complex_number_is_dropped(codec, dtype: int) -> None:
    pack = floats if dtype == 8 else doubles
    for scalars, expected in [
        ([1], pack(0, 0, 0, 0, 0, 0)),
        ([1, 2], pack(1, 2, 1, 2, 1, 2)),
        ([1, 2, 3], pack(1, 2, 1, 2, 1, 2)),
        ([1, 2, 3, 4, 5], pack(1, 2, 3, 4, 3, 4)),
        ([1, 2, 3, 4, 5, 6, 7], pack(1, 2, 3, 4, 5, 6)),
    ]:
        for proto in spellings(dtype, [pack(value) for value in scalars]).values():
            assert one(codec, tensor(dtype, [3], proto)) == (dtype, (3,), expected)


def test_values_in_another_field_count_as_none(codec) -> None:
    assert one(codec, tensor(1, [2], field(6, doubles(1, 2)) + field(7, b"\x05"))) == (1, (2,), bytes(8))


@pytest.mark.parametrize("number", [5, 6, 9, 12])
def test_a_chunk_that_ends_inside_a_value_is_malformed(codec, number: int) -> None:
    from tfs.errors import InvalidArgument

    for dtype in (1, 3):  # also when the dtype does not use the field
        with pytest.raises(InvalidArgument):
            one(codec, tensor(dtype, [1], field(number, bytes(9))))


@pytest.mark.parametrize("number", [7, 10, 11, 13, 16, 17])
def test_a_packed_varint_that_does_not_end_is_malformed(codec, number: int) -> None:
    from tfs.errors import InvalidArgument

    for chunk in [
        b"\x80",
        b"\x01" * 9 + b"\xff",
        b"\x80" * 10 + b"\x01",
        b"\x01" * 5 + b"\xff" * 12 + b"\x01",
        b"\xff" * 40,
    ]:
        with pytest.raises(InvalidArgument):
            one(codec, tensor(1, [1], field(number, chunk)))


def test_packed_varints_of_every_length_at_every_alignment(codec) -> None:
    for lead in range(9):
        for length in range(1, 11):
            value = 1 << (7 * (length - 1)) if length < 10 else 2**63
            values = [1] * lead + [value] * 3 + [1] * 5
            proto = tensor(9, [len(values)], field(10, varints(values)))
            assert one(codec, proto)[2] == np.array(values, np.uint64).tobytes()


# --- strings --------------------------------------------------------------------------------------------------------------------


def test_strings_in_their_field(codec) -> None:
    three = field(8, b"a") + field(8, b"") + field(8, b"long enough to be allocated somewhere else")
    words = [b"a", b"", b"long enough to be allocated somewhere else"]
    assert one(codec, tensor(7, [3], three)) == (7, (3,), words)
    assert one(codec, tensor(7, [2], three)) == (7, (2,), words[:2])
    assert one(codec, tensor(7, [5], three)) == (7, (5,), [*words, words[2], words[2]])
    assert one(codec, tensor(7, [2])) == (7, (2,), [b"", b""])
    assert one(codec, tensor(7, [], field(8, b"s"))) == (7, (), [b"s"])
    assert one(codec, tensor(7, [0], three)) == (7, (0,), [])
    assert one(codec, tensor(7, [1], number(8, 5))) == (7, (1,), [b""])


def test_strings_in_content(codec) -> None:
    content = varints([1, 0, 200]) + b"a" + b"x" * 200
    assert one(codec, tensor(7, [3], field(4, content))) == (7, (3,), [b"a", b"", b"x" * 200])
    assert one(codec, tensor(7, [1, 1], field(4, b"\x80\x00"))) == (7, (1, 1), [b""])
    assert one(codec, tensor(7, [1], field(4, b"\x82\x80\x80\x80\x70ab"))) == (7, (1,), [b"ab"])


@pytest.mark.parametrize(
    "content",
    [
        b"\x01",
        b"\x01ab",
        b"\x00\x00",
        b"\x05abc",
        b"\x80",
        b"\xff\xff\xff\xff\x0f",
        b"\x81\x80\x80\x80\x80\x00a",
    ],
)
def test_string_content_that_does_not_add_up_is_bad(codec, content: bytes) -> None:
    assert one(codec, tensor(7, [1], field(4, content))) == "bad"


def test_more_strings_claimed_than_content_has_bytes_is_bad(codec) -> None:
    assert one(codec, tensor(7, [2**40], field(4, bytes(100)))) == "bad"


# --- shapes ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [[], [1], [0], [2, 0, 3], [1] * 254, [0, 2**40, 2**40], [2**40, 0]])
def test_shapes(codec, shape: list[int]) -> None:
    dtype, found, data = one(codec, tensor(1, shape, field(5, floats(1))))
    assert (dtype, found) == (1, tuple(shape))
    assert data == (b"" if 0 in shape else floats(1))


@pytest.mark.parametrize(
    "shape",
    [
        [-1],
        [2, -1],
        [0, -1],
        [-(2**63)],
        [1] * 255,
        [1] * 1000,
        [2**62, 2],
        [2**40, 2**40, 0],
        [2**63 - 1, 2],
        [2**32, 2**32],
    ],
)
def test_shapes_that_are_bad(codec, shape: list[int]) -> None:
    assert one(codec, tensor(1, shape, field(5, floats(1)))) == "bad"


def test_no_shape_at_all_is_a_scalar(codec) -> None:
    assert one(codec, number(1, 1) + field(5, floats(4))) == (1, (), floats(4))


def test_an_unknown_rank_is_ignored(codec) -> None:
    assert one(codec, number(1, 1) + field(2, number(3, 1)) + field(5, floats(4))) == (1, (), floats(4))
    shaped = number(1, 1) + field(2, number(3, 1) + field(2, number(1, 2))) + field(5, floats(4))
    assert one(codec, shaped) == (1, (2,), floats(4, 4))


def test_repeated_shapes_merge_and_the_last_dtype_stands(codec) -> None:
    proto = number(1, 3) + dims(2) + dims(3) + number(1, 1) + field(5, floats(4))
    assert one(codec, proto) == (1, (2, 3), floats(4) * 6)


def test_the_last_size_of_a_dim_stands(codec) -> None:
    dim = field(2, number(1, 7) + field(2, b"name") + number(1, 2))
    assert one(codec, number(1, 1) + field(2, dim) + field(5, floats(4))) == (1, (2,), floats(4, 4))


@pytest.mark.parametrize("dtype", [0, 20, 21, 34, 99, 101, 107, 2**31 - 1, 2**32 - 1, 2**64 - 1])
def test_dtypes_that_cannot_be_sent_are_bad(codec, dtype: int) -> None:
    assert one(codec, tensor(dtype, [1])) == "bad"
    assert one(codec, tensor(dtype, [0])) == "bad"


def test_only_32_bits_of_the_dtype_count(codec) -> None:
    assert one(codec, tensor(2**32 + 1, [1], field(5, floats(4)))) == (1, (1,), floats(4))


# --- claims -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [1, 3, 7, 18])
@pytest.mark.parametrize("claim", [2**31, 2**40, 2**50, 2**62])
def test_a_fill_beyond_the_limit_is_bad(codec, dtype: int, claim: int) -> None:
    assert one(codec, tensor(dtype, [claim])) == "bad"


def test_the_fill_limit_is_exact(fast) -> None:
    limit = reference.MAX_FILL_BYTES // 4
    decode = _fastpath._probe_decode
    values = field(5, floats(1, 2))
    assert decode(request(entry("x", tensor(1, [limit + 2], values))), make=False)["inputs"]["x"] == (
        1,
        limit + 2,
        2,
    )
    assert decode(request(entry("x", tensor(1, [limit + 3], values))), make=False)["inputs"]["x"] == "bad"


def test_decoding_allocates_nothing_for_a_claim(fast) -> None:
    claims = [entry(f"x{i}", tensor(1, [2**26], field(5, floats(1)))) for i in range(100)]
    made = request(*claims)
    before = _fastpath.fake_counts()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shown = _fastpath._probe_decode(made, make=False)
    assert _fastpath.fake_counts() == before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 1024  # KiB
    assert len(shown["inputs"]) == 100
    assert (
        shown["payload_bytes"] == 100 * 2**28
    )  # what the tensors would take counts against the engine's limits
