"""PredictRequest out, PredictResponse in: the compiled codec and its slow twin, held to protobuf's own classes."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest
from wiretools import dims, field, fixed32, floats, number, tensor, varints

from tfs import _fastpath
from tfs.client import _calls, _codec_py
from tfs.client.dtypes import _STORAGE, DataType, to_array
from tfs.errors import Internal
from tfs.messages import PredictRequest, PredictResponse

HEAD = _calls.spec("m", version=3, signature="s")


def response(proto: bytes, alias: str = "y") -> bytes:
    return field(1, field(1, alias.encode()) + field(2, proto)) + field(2, field(1, b"m"))


def decoded(codec, proto: bytes):
    """(dtype, array) of the only output."""
    outputs, spec = codec.decode(response(proto))
    assert spec == field(1, b"m")
    dtype, shape, values = outputs["y"]
    return dtype, to_array(dtype, shape, values)


def values_of(request: bytes, alias: str = "x"):
    return PredictRequest.FromString(request).inputs[alias]


def test_the_compiled_codec_is_the_one_in_use() -> None:
    assert _calls.client_encode is _fastpath.client_encode
    assert _calls.client_decode is _fastpath.client_decode


def test_without_a_compiled_core_the_slow_twin_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tfs._fastpath", None)
    try:
        assert importlib.reload(_calls).client_encode is _codec_py.client_encode
    finally:
        monkeypatch.undo()
        importlib.reload(_calls)


# -- requests


def test_a_request_is_what_protobuf_reads(codec) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    request = PredictRequest.FromString(
        codec.encode(
            HEAD + field(3, b"y"),
            [
                (b"x", 1, (2, 3), x),
                (b"empty", 9, (0, 4), np.empty((0, 4), np.int64)),
                (b"n", 3, (), np.int32(-7)),
            ],
        )
    )
    assert (request.model_spec.name, request.model_spec.version.value) == ("m", 3)
    assert (request.model_spec.signature_name, list(request.output_filter)) == ("s", ["y"])
    assert request.inputs["x"].tensor_content == x.tobytes()
    assert [dim.size for dim in request.inputs["x"].tensor_shape.dim] == [2, 3]
    assert [dim.size for dim in request.inputs["empty"].tensor_shape.dim] == [0, 4]
    assert request.inputs["empty"].tensor_content == b""
    assert request.inputs["n"].HasField("tensor_shape")
    assert request.inputs["n"].tensor_content == np.int32(-7).tobytes()


def test_strings_go_into_string_val(codec) -> None:
    proto = values_of(codec.encode(HEAD, [(b"x", 7, (3,), [b"a", b"", b"\xff" * 300])]))
    assert proto.dtype == 7
    assert list(proto.string_val) == [b"a", b"", b"\xff" * 300]


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 16383, 16384, 65535, 65536, 1 << 21])
def test_lengths_around_the_steps_of_a_varint(codec, size: int) -> None:
    data = np.full(size, 7, np.uint8)
    proto = values_of(codec.encode(HEAD, [(b"x", 4, (size,), data)]))
    assert proto.tensor_content == data.tobytes()
    assert proto.tensor_shape.dim[0].size == size


def test_both_write_the_same_bytes() -> None:
    inputs = [(b"x", 1, (5,), np.ones(5, np.float32)), (b"s", 7, (1,), [b"text"]), (b"", 9, (), np.int64(1))]
    assert _fastpath.client_encode(HEAD, inputs) == _codec_py.client_encode(HEAD, inputs)


def test_a_request_that_somebody_holds_is_never_written_again(codec) -> None:
    """The compiled codec writes large requests into the memory of the last one when nobody has that any more."""
    size = 1 << 20
    inputs = [[(b"x", 4, (size,), np.full(size, fill, np.uint8))] for fill in range(3)]
    held = [codec.encode(HEAD, one) for one in inputs]
    view = memoryview(codec.encode(HEAD, inputs[0]))
    codec.encode(HEAD, inputs[1])
    assert bytes(view) == held[0]
    assert [values_of(one).tensor_content[-1] for one in held] == [0, 1, 2]
    del view
    for _ in range(3):
        assert codec.encode(HEAD, inputs[2]) == held[2]


def test_memory_that_is_not_contiguous_is_refused(codec) -> None:
    with pytest.raises((ValueError, TypeError, BufferError)):
        codec.encode(HEAD, [(b"x", 1, (2,), np.zeros(4, np.float32)[::2])])


# -- replies


@pytest.mark.parametrize("dtype", [d for d in DataType if d in _STORAGE])
@pytest.mark.parametrize("content", [False, True])
def test_every_dtype_comes_back(codec, dtype: DataType, content: bool) -> None:
    storage = np.dtype(_STORAGE[dtype])
    if storage.kind in "iu":
        limits = np.iinfo(storage)
        sent = np.array([0, 1, limits.max, limits.min, 5, 6], storage)
    elif storage.kind == "b":
        sent = np.array([1, 0, 1, 1, 0, 0], storage)
    else:
        sent = np.array([0.0, -0.0, 1.5, -2.25, np.inf, 3e4], storage)
    _fastpath.fake_runtime()
    reply = _fastpath._probe_encode(b"m", 4, b"s", [(b"y", int(dtype), (2, 3), sent.tobytes())], content)
    outputs, _ = codec.decode(reply)
    found, shape, values = outputs["y"]
    assert (found, shape) == (dtype, (2, 3))
    assert bytes(values) == sent.tobytes()
    assert to_array(found, shape, values).shape == (2, 3)


def test_packed_floats_stay_where_they_lie(codec) -> None:
    reply = response(tensor(1, [3], field(5, floats(1, 2, 3))))
    ((_, _, values),) = codec.decode(reply)[0].values()
    assert values.readonly
    assert values.obj is reply or values.obj.obj is reply


def test_single_values_and_several_chunks(codec) -> None:
    proto = tensor(1, [4], fixed32(5, floats(1)) + field(5, floats(2, 3)) + fixed32(5, floats(4)))
    assert decoded(codec, proto)[1].tolist() == [1, 2, 3, 4]
    proto = tensor(3, [4], number(7, 1) + field(7, varints([2, 300])) + number(7, (1 << 64) - 5))
    assert decoded(codec, proto)[1].tolist() == [1, 2, 300, -5]


def test_missing_values_repeat_the_last_and_surplus_is_ignored(codec) -> None:
    assert decoded(codec, tensor(1, [3], field(5, floats(7))))[1].tolist() == [7, 7, 7]
    assert decoded(codec, tensor(1, [3]))[1].tolist() == [0, 0, 0]
    assert decoded(codec, tensor(1, [1], field(5, floats(1, 2))))[1].tolist() == [1]
    assert decoded(codec, tensor(9, [2, 2], field(10, varints([5, 6]))))[1].tolist() == [[5, 6], [6, 6]]
    assert decoded(codec, tensor(7, [2], field(8, b"a")))[1].tolist() == [b"a", b"a"]
    assert decoded(codec, tensor(7, [2]))[1].tolist() == [b"", b""]


def test_strings_as_content(codec) -> None:
    assert decoded(codec, tensor(7, [3], field(4, b"\x01\x00\x03abcd")))[1].tolist() == [b"a", b"", b"bcd"]


def test_shapes(codec) -> None:
    assert decoded(codec, tensor(1, [], field(5, floats(2.5))))[1].shape == ()
    assert decoded(codec, tensor(1, [0, 5]))[1].shape == (0, 5)
    assert decoded(codec, tensor(7, [2, 0]))[1].shape == (2, 0)
    assert decoded(codec, number(1, 1) + dims(2) + dims(1) + field(5, floats(1, 2)))[1].shape == (2, 1)


@pytest.mark.parametrize(
    "proto",
    [
        tensor(1, [2], field(4, b"\0" * 7)),
        tensor(1, [-1 & (1 << 64) - 1]),
        tensor(1, [1 << 62]),
        tensor(0, [1]),
        tensor(99, [1]),
        tensor(20, [1]),
        tensor(3, [2], field(7, b"\x80")),
        tensor(3, [2], field(7, b"\xff" * 10 + b"\x01")),
        tensor(1, [2], field(5, b"\0" * 6)),
        tensor(7, [2], field(4, b"\x01\x05ab")),
        tensor(1, [1] * 255, field(5, floats(1))),
        b"\x0a",
        b"\x13",
    ],
    ids=str,
)
def test_what_is_no_tensor(codec, proto: bytes) -> None:
    with pytest.raises(Internal, match=r'outputs\["y"\] is no tensor'):
        codec.decode(response(proto))


@pytest.mark.parametrize("reply", [b"\xff", b"\x0a\x05", b"\x0a\x02\x0a\x05", b"\x03", b"\x00"])
def test_what_is_no_reply(codec, reply: bytes) -> None:
    with pytest.raises(Internal, match="it is no PredictResponse"):
        codec.decode(reply)


def test_every_truncation_is_an_error_or_a_shorter_reply(codec) -> None:
    whole = response(tensor(1, [2], field(5, floats(1, 2)))) + response(
        tensor(9, [1], field(10, b"\x05")), "z"
    )
    for end in range(len(whole)):
        try:
            outputs, _ = codec.decode(whole[:end])
        except Internal:
            continue
        assert set(outputs) <= {"y", "z"}


def test_protobuf_writes_what_both_read(codec) -> None:
    reply = PredictResponse()
    reply.outputs["a"].dtype = 10
    reply.outputs["a"].tensor_shape.dim.add(size=2)
    reply.outputs["a"].bool_val.extend([True, False])
    reply.outputs["b"].dtype = 19
    reply.outputs["b"].tensor_shape.SetInParent()
    reply.outputs["b"].half_val.append(0x3C00)
    outputs, _ = codec.decode(reply.SerializeToString())
    assert to_array(*outputs["a"]).tolist() == [True, False]
    assert to_array(*outputs["b"]) == np.float16(1)
