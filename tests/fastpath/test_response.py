"""PredictResponse: every dtype in its typed field or as content, shapes, row ranges, the model spec. Bodies run on both codecs."""

from __future__ import annotations

import numpy as np
import pytest
from reference import DTYPES

from tfs import _fastpath, errors, messages

NUMERIC = [number for number in DTYPES if number != 7]


def reply(codec, *outputs, **more):
    return messages.PredictResponse.FromString(codec.encode(b"m", 3, b"", list(outputs), **more))


def sample(dtype: int) -> bytes:
    """Six elements that reach the ends of their type."""
    storage = np.dtype(DTYPES[dtype].storage)
    if storage.kind == "b":
        return b"\x01\x00\x01\x01\x00\x00"
    if storage.kind in "iu":
        limits = np.iinfo(storage)
        return np.array([0, 1, limits.max, limits.min, limits.max // 2, 5], storage).tobytes()
    return np.array([0.0, -0.0, 1.5, -2.25, np.inf, 1e30], storage).tobytes()


@pytest.mark.parametrize("dtype", NUMERIC)
def test_numbers_go_into_their_typed_field(codec, dtype: int) -> None:
    data = sample(dtype)
    proto = reply(codec, (b"y", dtype, (2, 3), data)).outputs["y"]
    row = DTYPES[dtype]
    assert [field.name for field, _ in proto.ListFields()] == ["dtype", "tensor_shape", row.field]
    assert (proto.dtype, [dim.size for dim in proto.tensor_shape.dim]) == (dtype, [2, 3])
    values = getattr(proto, row.field)
    if row.field == "float8_val":
        assert values == data
    else:
        storage = np.dtype(row.storage)
        storage = storage.type(0).real.dtype if storage.kind == "c" else storage
        assert np.array(list(values), storage).tobytes() == data


@pytest.mark.parametrize("dtype", NUMERIC)
def test_numbers_as_content(codec, dtype: int) -> None:
    data = sample(dtype)
    proto = reply(codec, (b"y", dtype, (6,), data), as_content=True).outputs["y"]
    assert [field.name for field, _ in proto.ListFields()] == ["dtype", "tensor_shape", "tensor_content"]
    assert proto.tensor_content == data


def test_negative_small_integers_are_sign_extended(codec) -> None:
    proto = reply(codec, (b"y", 6, (1,), b"\x80")).outputs["y"]
    assert list(proto.int_val) == [-128]


def test_values_are_packed_and_never_compressed(fast) -> None:
    encoded = fast.encode(b"m", 1, b"", [(b"y", 1, (4,), bytes(16))])
    assert b"\x2a\x10" + bytes(16) in encoded  # float_val, 16 bytes


WORDS = [b"", b"a", b"\xff\x00", b"x" * 300]


def test_strings(codec) -> None:
    proto = reply(codec, (b"y", 7, (2, 2), WORDS)).outputs["y"]
    assert list(proto.string_val) == WORDS
    assert proto.tensor_content == b""


def test_strings_as_content(codec) -> None:
    proto = reply(codec, (b"y", 7, (2, 2), WORDS), as_content=True).outputs["y"]
    assert proto.tensor_content == b"\x00\x01\x02\xac\x02" + b"".join(WORDS)
    assert not proto.string_val


@pytest.mark.parametrize("as_content", [False, True])
def test_a_scalar_has_an_empty_shape(codec, as_content: bool) -> None:
    proto = reply(codec, (b"y", 1, (), b"\x00\x00\x80?"), as_content=as_content).outputs["y"]
    assert proto.HasField("tensor_shape")
    assert not proto.tensor_shape.dim


@pytest.mark.parametrize("as_content", [False, True])
@pytest.mark.parametrize(("dtype", "data"), [(1, b""), (7, []), (3, b""), (10, b""), (24, b"")])
def test_an_empty_tensor_has_no_values_field(codec, dtype: int, data, as_content: bool) -> None:
    proto = reply(codec, (b"y", dtype, (0, 2), data), as_content=as_content).outputs["y"]
    assert [field.name for field, _ in proto.ListFields()] == ["dtype", "tensor_shape"]
    assert [dim.size for dim in proto.tensor_shape.dim] == [0, 2]


@pytest.mark.parametrize("version", [0, 1, 127, 128, 2**63 - 1, -1, -(2**63)])
@pytest.mark.parametrize(("signature", "shown"), [(b"", "serving_default"), (b"sig", "sig")])
def test_the_model_spec(codec, version: int, signature: bytes, shown: str) -> None:
    spec = messages.PredictResponse.FromString(codec.encode(b"name", version, signature, [])).model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("name", version, shown)
    assert spec.HasField("version")
    assert not spec.HasField("version_label")


def test_rows_of_a_batch(codec) -> None:
    numbers = np.arange(12, dtype="<f4")
    words = [str(i).encode() for i in range(6)]
    outputs = [
        (b"n", 1, (6, 2), numbers.tobytes()),
        (b"s", 7, (6,), words),
        (b"scalar", 3, (), b"\x05\0\0\0"),
    ]
    shown = reply(codec, *outputs, rows=(6, 2, 3)).outputs
    assert list(shown["n"].float_val) == numbers[4:10].tolist()
    assert [dim.size for dim in shown["n"].tensor_shape.dim] == [3, 2]
    assert list(shown["s"].string_val) == words[2:5]
    assert list(shown["scalar"].int_val) == [5]


def test_no_rows_of_a_batch(codec) -> None:
    proto = reply(codec, (b"n", 1, (6, 2), bytes(48)), rows=(6, 3, 0)).outputs["n"]
    assert [dim.size for dim in proto.tensor_shape.dim] == [0, 2]
    assert not proto.float_val


def test_only_what_is_wanted(codec) -> None:
    outputs = [
        (alias, 3, (), number)
        for alias, number in [(b"a", b"\1\0\0\0"), (b"b", b"\2\0\0\0"), (b"c", b"\3\0\0\0")]
    ]
    shown = reply(codec, *outputs, wanted=[2, 0]).outputs
    assert {alias: list(proto.int_val) for alias, proto in shown.items()} == {"a": [1], "c": [3]}


@pytest.mark.parametrize("dtype", [20, 21])
def test_handles_cannot_be_sent(codec, dtype: int) -> None:
    with pytest.raises(errors.Unimplemented, match='Output "y"'):
        codec.encode(b"m", 1, b"", [(b"y", dtype, (1,), b"12345678")])


def test_lengths_around_every_varint_size(codec) -> None:
    for size in (126, 127, 128, 129, 16382, 16383, 16384, 16385, 2**21 - 1, 2**21):
        proto = reply(codec, (b"y", 4, (size,), bytes(size)), as_content=True).outputs["y"]
        assert len(proto.tensor_content) == size


def test_the_whole_journey_without_a_model(fast) -> None:
    request = messages.PredictRequest(model_spec={"name": "m"})
    request.inputs["x"].dtype = 1
    request.inputs["x"].tensor_shape.dim.add().size = 3
    request.inputs["x"].float_val.extend([1, 2, 3])
    reply = fast.encode(b"m", 1, b"", [(b"y", 1, (3,), np.array([1, 2, 3], "<f4").tobytes())])
    assert _fastpath._probe_codec_loop(request.SerializeToString(), 5) == len(reply)
