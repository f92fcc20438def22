"""REST predict replies: how tensors print, by row and by column, and what is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from tfs import _fastpath, errors

pytestmark = pytest.mark.usefixtures("fake_tensors")
DTYPES = {
    "<f4": 1,
    "<f8": 2,
    "<i4": 3,
    "u1": 4,
    "<i2": 5,
    "i1": 6,
    "<i8": 9,
    "?": 10,
    "<u2": 17,
    "<f2": 19,
    "<u4": 22,
    "<u8": 23,
}
STRING, COMPLEX, BFLOAT16 = 7, 8, 14


def made(values: Any, kind: str = "<f4") -> tuple[int, tuple[int, ...], bytes]:
    with np.errstate(over="ignore"):
        array = np.array(values, kind)
    return DTYPES[kind], array.shape, array.tobytes()


def strings(*values: bytes, shape: tuple[int, ...] | None = None) -> tuple[int, tuple[int, ...], list[bytes]]:
    return STRING, (len(values),) if shape is None else shape, list(values)


def rows(**outputs: Any) -> str:
    return _fastpath._probe_json_encode(outputs, True).decode()


def columns(**outputs: Any) -> str:
    return _fastpath._probe_json_encode(outputs, False).decode()


def refusal(row: bool, outputs: dict[str, Any]) -> str:
    with pytest.raises(errors.InvalidArgument) as caught:
        _fastpath._probe_json_encode(outputs, row)
    return caught.value.message


def test_layouts() -> None:
    assert rows(y=made([2.5, 3.0])) == '{"predictions": [2.5,3.0]}'
    assert rows(y=made([[1, 2], [3, 4]])) == '{"predictions": [[1.0,2.0],[3.0,4.0]]}'
    assert (
        rows(a=made([[1], [2]]), b=made([3, 4], "<i4"))
        == '{"predictions": [{"a": [1.0],"b": 3},{"a": [2.0],"b": 4}]}'
    )
    assert columns(y=made([2.5, 3.0])) == '{"outputs": [2.5,3.0]}'
    assert columns(y=made(7)) == '{"outputs": 7.0}'
    assert columns(a=made([1]), b=made(3, "<i4")) == '{"outputs": {"a": [1.0],"b": 3}}'


def test_empty_tensors() -> None:
    assert rows(y=made(np.zeros((0,)))) == '{"predictions": []}'
    assert rows(y=made(np.zeros((2, 0)))) == '{"predictions": [[],[]]}'
    assert rows(a=made(np.zeros((0, 3))), b=made(np.zeros((0,)))) == '{"predictions": []}'
    assert columns(y=made(np.zeros((2, 0)))) == '{"outputs": [[],[]]}'
    assert columns(y=(COMPLEX, (0,), b"")) == '{"outputs": []}'
    assert columns(y=made(np.zeros((0, 2)))) == '{"outputs": []}'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0"), (-0.0, "-0.0"), (1.0, "1.0"), (999.0, "999.0"), (1000.0, "1000.0"), (-3.0, "-3.0"), (0.5, "0.5"), (0.1, "0.1"),
        (1 / 3, "0.33333334"), (1e6, "1e+06"), (123456.0, "123456.0"), (1e-5, "1e-05"), (16777216.0, "16777216.0"), (3.4028235e38, "3.4028235e+38"),
        (math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity"), (1e-40, "1e-40"),
    ],
)  # fmt: skip
def test_floats_print_short_and_stay_floats(value: float, text: str) -> None:
    assert columns(y=made(value)) == f'{{"outputs": {text}}}'


def test_doubles_print_short_and_stay_floats() -> None:
    assert columns(y=made([0.1, 1 / 3, 9007199254740992.0, 1e300, 5e-324, -0.0], "<f8")) == (
        '{"outputs": [0.1,0.3333333333333333,9007199254740992.0,1e+300,5e-324,-0.0]}'
    )


@pytest.mark.parametrize(
    ("kind", "values", "text"),
    [
        ("<i4", [-(2**31), 2**31 - 1], "-2147483648,2147483647"),
        ("u1", [0, 255], "0,255"),
        ("i1", [-128, 127], "-128,127"),
        ("<i2", [-32768, 32767], "-32768,32767"),
        ("<u2", [0, 65535], "0,65535"),
        ("<u4", [0, 2**32 - 1], "0,4294967295"),
        ("<i8", [-(2**63), 2**63 - 1], "-9223372036854775808,9223372036854775807"),
        ("<u8", [0, 2**64 - 1], "0,18446744073709551615"),
        ("?", [True, False], "true,false"),
        ("<f2", [0.5, -2.0, 65504.0, math.inf, 6e-8], "0.5,-2.0,65504.0,Infinity,5.9604645e-08"),
    ],
)
def test_other_numbers(kind: str, values: list[Any], text: str) -> None:
    assert columns(y=made(values, kind)) == f'{{"outputs": [{text}]}}'


def test_bfloat16() -> None:
    assert columns(y=(BFLOAT16, (3,), b"\xc0\x3f\x80\xff\x00\x80")) == '{"outputs": [1.5,-Infinity,-0.0]}'


def test_strings() -> None:
    assert rows(y=strings(b"a", "h\u00e9".encode(), b"")) == '{"predictions": ["a","h\u00e9",""]}'
    assert (
        columns(y=strings(b'"\\/\b\f\n\r\t\x00\x1f\x7f', shape=()))
        == '{"outputs": "\\"\\\\/\\b\\f\\n\\r\\t\\u0000\\u001F\x7f"}'
    )
    assert _fastpath._probe_json_encode({"y": strings(b"\xff\xfe")}, False) == b'{"outputs": ["\xff\xfe"]}'
    assert columns(y=strings(*[b"x" * n for n in range(40)])) == json.dumps(
        {"outputs": ["x" * n for n in range(40)]}
    ).replace(", ", ",")


def test_bytes_outputs_are_base64() -> None:
    assert rows(y_bytes=strings(b"a", b"\xff\x00\x01", b"", b"abcd")) == (
        '{"predictions": [{"b64": "YQ=="},{"b64": "/wAB"},{"b64": ""},{"b64": "YWJjZA=="}]}'
    )
    assert columns(y_bytes=strings(b"hi", shape=())) == '{"outputs": {"b64": "aGk="}}'
    assert columns(n_bytes=made([3], "<i4")) == '{"outputs": [3]}'


def test_names_are_escaped() -> None:
    assert (
        columns(**{'out "q" \u00e9\n': made([1]), "b": made([2])})
        == '{"outputs": {"out \\"q\\" \u00e9\\n": [1.0],"b": [2.0]}}'
    )


def test_the_rows_of_a_call_in_a_batch() -> None:
    outputs = {"a": made(np.arange(12).reshape(6, 2)), "s": strings(*b"pqrstu".hex(" ").encode().split())}
    printed = json.loads(_fastpath._probe_json_encode(outputs, True, (6, 2, 3)))
    assert printed["predictions"] == [{"a": [2.0 * i, 2.0 * i + 1], "s": f"{0x70 + i:x}"} for i in (2, 3, 4)]
    assert json.loads(_fastpath._probe_json_encode({"a": outputs["a"]}, False, (6, 5, 1))) == {
        "outputs": [[10.0, 11.0]]
    }


def test_refusals() -> None:
    assert refusal(True, {}) == refusal(False, {}) == "Cannot convert empty tensor map to JSON"
    assert refusal(True, {"total": made(3.0)}) == "Tensor name: total has no shape information "
    assert (
        refusal(True, {"a": made([1, 2]), "b": made([1, 2, 3])})
        == "Tensor name: b has inconsistent batch size: 3 expecting: 2"
    )
    for row in (True, False):
        assert (
            refusal(row, {"y": (COMPLEX, (1,), bytes(8))})
            == "Failed to write JSON value for tensor type: complex64"
        )
        assert (
            refusal(row, {"y": (12, (1,), bytes(1))}) == "Failed to write JSON value for tensor type: quint8"
        )


def test_large_replies_grow_their_buffer() -> None:
    array = np.random.default_rng(5).random((300, 50), np.float32)
    back = np.array(json.loads(rows(y=made(array)))["predictions"], np.float32)
    np.testing.assert_array_equal(back, array)
