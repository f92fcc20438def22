"""REST predict bodies: what values and shapes become, and the reference's texts where they become nothing."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from json_support import (
    BFLOAT16,
    BOOL,
    COMPLEX,
    DOUBLE,
    FLOAT,
    HALF,
    INT8,
    INT16,
    INT32,
    INT64,
    QUINT8,
    STRING,
    UINT8,
    UINT16,
    UINT32,
    UINT64,
    column,
    decode,
    refusal,
    values,
)

pytestmark = pytest.mark.usefixtures("fake_tensors")


# --- formats ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "shape", "expected"),
    [
        ('{"instances": [1, 2.5, -3]}', (3,), [1, 2.5, -3]),
        ('{"instances": [[1, 2], [3, 4]]}', (2, 2), [[1, 2], [3, 4]]),
        ('{"instances": [[], []]}', (2, 0), [[], []]),
        ('{"instances": [{"x": 1}, {"x": 2}]}', (2,), [1, 2]),
        ('{"instances": [{"x": [1, 2]}, {"x": [3, 4]}]}', (2, 2), [[1, 2], [3, 4]]),
        ('{"instances": [{"x": 1, "x": 2}, {"x": 3}]}', (2,), [1, 2]),
        ('{"inputs": 1.5}', (), 1.5),
        ('{"inputs": []}', (0,), []),
        ('{"inputs": [[], []]}', (2, 0), [[], []]),
        ('{"inputs": [[[1]], [[2]]]}', (2, 1, 1), [[[1]], [[2]]]),
        ('{"inputs": {"x": [1, 2]}}', (2,), [1, 2]),
        ('{"inputs": {"y": {"z": [null]}, "x": [1], "x": "second"}}', (1,), [1]),
        ('{"signature_name": "serving_default", "inputs": 1}', (), 1),
        ('{"inputs": 1, "signature_name": "serving_default", "signature_name": 3}', (), 1),
        ('{"signature_name": "", "inputs": 1}', (), 1),
        ('{"foo": [1], "inputs": 1, "bar": {}}', (), 1),
        ('{"inputs": 1, "inputs": "second"}', (), 1),
        ('{"\\u0069nputs": {"\\u0078": 1}}', (), 1),
        ('{"inputs": 1}{"inputs": 2}', (), 1),
        ('{"inputs": 1}]garbage', (), 1),
        (' \t\r\n{ "inputs" : 1 } ', (), 1),
        ("\ufeff" + '{"inputs": 1}', (), 1),
    ],
)
def test_bodies_become_tensors(body: str, shape: tuple[int, ...], expected: Any) -> None:
    shown = decode(body)["x"]
    assert shown[:2] == (FLOAT, shape)
    assert values(shown) == expected


def test_the_format_is_kept_for_the_reply() -> None:
    assert decode('{"instances": [1]}')[None] == "row"
    assert decode('{"inputs": [1]}')[None] == "column"


def test_several_inputs_by_row_and_by_column() -> None:
    inputs = {"a": FLOAT, "b": INT32, "c": STRING}
    by_row = decode(
        '{"instances": [{"a": [1, 2], "b": 3, "c": "p"}, {"c": "q", "b": 4, "a": [5, 6]}]}', inputs
    )
    by_column = decode('{"inputs": {"c": ["p", "q"], "a": [[1, 2], [5, 6]], "b": [3, 4]}}', inputs)
    for found in (by_row, by_column):
        assert {alias: values(found[alias]) for alias in inputs} == {
            "a": [[1, 2], [5, 6]],
            "b": [3, 4],
            "c": [b"p", b"q"],
        }
    assert values(decode('{"inputs": {"a": 1, "b": [[2]], "c": []}}', inputs)["b"]) == [[2]]


def test_base64_rows_of_several_inputs_feed_the_first() -> None:
    """A quirk: the run then refuses the call, because an input is missing."""
    found = decode('{"instances": [{"b64": "aGk="}]}', {"s": STRING, "t": STRING})
    assert found == {"s": (STRING, (1,), [b"hi"]), None: "row"}


def test_an_input_called_b64_takes_a_number_but_not_base64() -> None:
    assert values(decode('{"instances": [{"b64": 1.0, "z": 2.0}]}', {"b64": FLOAT, "z": FLOAT})["z"]) == [2.0]
    assert refusal('{"inputs": {"b64": "aGk="}}', {"b64": FLOAT}) == (
        'JSON Value: {\n    "b64": "aGk="\n} Type: Object is not of expected type: float'
    )


# --- numbers ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.1", 0.1), ("1e5", 1e5), ("1E+05", 1e5), ("12e-1", 1.2), ("-0.0", -0.0), ("123456789.123456789", 123456789.123456789),
        ("0.3745401203632355", 0.3745401203632355), ("9007199254740993", 9007199254740992.0),
        ("18446744073709551616", 18446744073709551616.0), ("1.7976931348623157e308", 1.7976931348623157e308),
        ("2.2250738585072014e-308", 2.2250738585072014e-308), ("2.2250738585072011e-308", 0.0), ("-5e-324", -0.0), ("1e-400", 0.0),
        ("1.8e308", float("inf")), ("0." + "0" * 400 + "1", 0.0), ("1" * 300, float("1" * 300)),
        ("Infinity", float("inf")), ("-Infinity", -float("inf")), ("Inf", float("inf")), ("-Inf", -float("inf")),
        ("NInf", float("inf")), ("NaN.5", 0.5),
    ],
)  # fmt: skip
def test_doubles(text: str, expected: float) -> None:
    _, _, data = decode(f'{{"inputs": {text}}}', DOUBLE)["x"]
    assert data == struct.pack("<d", expected)


@pytest.mark.parametrize("text", ["NaN", "-NaN"])
def test_nan(text: str) -> None:
    assert column(text, FLOAT) != column(text, FLOAT)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.1", 0.1), ("1e39", float("inf")), ("-1e39", -float("inf")), ("1e-40", 0.0), ("-1e-40", -0.0), ("1e-60", 0.0),
        ("16777217", 16777216.0), ("-7", -7.0), ("18446744073709551615", 18446744073709551616.0), ("3.4028235e38", 3.4028235e38),
        ("1.1754944e-38", 1.1754944e-38),
    ],
)  # fmt: skip
def test_floats(text: str, expected: float) -> None:
    _, _, data = decode(f'{{"inputs": {text}}}', FLOAT)["x"]
    assert data == struct.pack("<f", expected)


def test_halves_and_bfloat16() -> None:
    texts = [0.1, 1.5, 65504, 65519, 65520, 6e-8, 2e-8, -2.5, 5.97e-5, float("inf")]
    printed = ", ".join("Infinity" if v == float("inf") else repr(v) for v in texts)
    with np.errstate(over="ignore"):
        expected = np.array(texts, np.float32).astype(np.float16)
    assert decode(f'{{"inputs": [{printed}]}}', HALF)["x"][2] == expected.tobytes()
    assert decode('{"inputs": [1.5, 1.00390625, 1.01171875, NaN]}', BFLOAT16)["x"][2] == struct.pack(
        "<4H", 0x3FC0, 0x3F80, 0x3F82, 0x7FC0
    )


@pytest.mark.parametrize(
    ("dtype", "text", "expected"),
    [
        (INT32, "[-2147483648, 2147483647, -0]", [-(2**31), 2**31 - 1, 0]),
        (INT8, "[127, 128, 300, -129]", [127, -128, 44, 127]),
        (UINT8, "[255, 256, 300, -1]", [255, 0, 44, 255]),
        (INT16, "[70000]", [4464]),
        (UINT16, "[65535, 65536, -1]", [65535, 0, 65535]),
        (INT64, "[9223372036854775807, -9223372036854775808]", [2**63 - 1, -(2**63)]),
        (UINT32, "[0, 4294967295]", [0, 2**32 - 1]),
        (UINT64, "[0, 18446744073709551615]", [0, 2**64 - 1]),
        (BOOL, "[true, false]", [True, False]),
    ],
)
def test_integers_and_bools(dtype: int, text: str, expected: list[Any]) -> None:
    assert column(text, dtype) == expected


@pytest.mark.parametrize(
    ("dtype", "text", "shown", "kind", "name"),
    [
        (FLOAT, "null", "null", "Null", "float"),
        (FLOAT, "true", "true", "True", "float"),
        (DOUBLE, '"x"', '"x"', "String", "double"),
        (FLOAT, '{"x": 1}', '{\n    "x": 1\n}', "Object", "float"),
        (INT32, "1.0", "1.0", "Number", "int32"),
        (INT8, "1e1", "10.0", "Number", "int8"),
        (UINT8, "2147483648", "2147483648", "Number", "uint8"),
        (INT16, "-2147483649", "-2147483649", "Number", "int16"),
        (UINT16, "-0.0", "-0.0", "Number", "uint16"),
        (INT64, "9223372036854775808", "9223372036854775808", "Number", "int64"),
        (INT64, "-9223372036854775809", "-9223372036854776000.0", "Number", "int64"),
        (UINT32, "-1", "-1", "Number", "uint32"),
        (UINT32, "4294967296", "4294967296", "Number", "uint32"),
        (UINT64, "-1", "-1", "Number", "uint64"),
        (UINT64, "18446744073709551616", "18446744073709553000.0", "Number", "uint64"),
        (UINT64, "1e-7", "1e-7", "Number", "uint64"),
        (BOOL, "1", "1", "Number", "bool"),
        (BOOL, "null", "null", "Null", "bool"),
        (BOOL, "NaN", "", "Number", "bool"),
        (STRING, "1", "1", "Number", "string"),
        (STRING, "false", "false", "False", "string"),
        (COMPLEX, '{"x": 1}', '{\n    "x": 1\n}', "Object", "complex64"),
    ],
)
def test_values_of_another_type(dtype: int, text: str, shown: str, kind: str, name: str) -> None:
    expected = f"JSON Value: {shown} Type: {kind} is not of expected type: {name}"
    assert refusal(f'{{"inputs": {{"x": {text}}}}}', dtype) == expected
    row = f"Failed to process element: 1 key: x of 'instances' list. Error: INVALID_ARGUMENT: {expected}"
    good = {STRING: '"s"', BOOL: "true"}.get(dtype, "1")
    if dtype != COMPLEX:
        assert refusal(f'{{"instances": [{{"x": {good}}}, {{"x": {text}}}]}}', dtype) == row


def test_dtypes_without_conversion() -> None:
    assert (
        refusal('{"inputs": [1.5]}', COMPLEX, code=12) == "Conversion of JSON Value: 1.5 to type: complex64"
    )
    assert refusal('{"instances": [1]}', QUINT8) == (
        "Failed to process element: 0 of 'instances' list. Error: UNIMPLEMENTED: Conversion of JSON Value: 1 to type: quint8"
    )
    assert decode('{"inputs": [[], []]}', COMPLEX)["x"] == (COMPLEX, (2, 0), b"")


# --- strings ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r'"a\u0000b"', b"a\0b"),
        (r'"\"\\\/\b\f\n\r\t"', b'"\\/\b\f\n\r\t'),
        (r'"\u00e9\u65E5\ud83d\ude00"', "é日😀".encode()),
        (r'"\udc00"', b"\xed\xb0\x80"),
        ('"日本語 😀"', "日本語 😀".encode()),
        ('"' + "x" * 1000 + '"', b"x" * 1000),
        ('{"b64": "aGk="}', b"hi"),
        ('{"b64": "aGk"}', b"hi"),
        ('{"b64": "/+8="}', b"\xff\xef"),
        ('{"b64": " aG\\nk = "}', b"hi"),
        ('{"b64": ""}', b""),
        ('{"\\u00624": "/wAB"}'.replace("u00624", "u006264"), b"\xff\0\x01"),
    ],
)
def test_strings(text: str, expected: bytes) -> None:
    assert column(text, STRING) == expected
    assert column(f"[{text}, {text}]", STRING) == [expected, expected]


@pytest.mark.parametrize(
    "text", ["aGVsbG8==", "_-8=", "a", "=", "aGk=a", "====", "aG=", "a\\u0000Gk", "@", "aGk==="]
)
def test_text_that_is_not_base64(text: str) -> None:
    assert refusal(f'{{"inputs": [{{"b64": "{text}"}}]}}', STRING) == "Unable to base64 decode"


@pytest.mark.parametrize(
    "text",
    ['{"b64": "aGk=", "x": 1}', '{"b64": 12}', "{}", '{"b65": "aGk="}', '{"b64": "aGk=", "b64": "aGk="}'],
)
def test_objects_that_are_not_base64(text: str) -> None:
    message = refusal(f'{{"inputs": {{"x": [{text}]}}}}', STRING)
    assert message.startswith("JSON Value: {")
    assert message.endswith("} not formatted correctly for base64 data")


# --- shapes -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[1], [1, 2]]", "Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
        ("[[1, 2], [1]]", "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        ("[[], [1]]", "Encountered list at unexpected size: 1 at level: 1 expected size: 0"),
        ("[1, [2]]", "Encountered list at unexpected level: 1 expected < 1"),
        ("[[1], [[2]]]", "Encountered list at unexpected level: 2 expected < 2"),
        ("[[1], 2]", "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        (
            "[[[1]], [null]]",
            "JSON Value: null found at incorrect level: 3 in the JSON DOM. Expected at level: 3",
        ),
        # the size of a list is seen before what is in it, values before it in the text come first
        ('[[1], ["x", 2]]', "Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
        ('[["x"], [1, 2]]', 'JSON Value: "x" Type: String is not of expected type: float'),
        (
            '[[[1], [2]], [[3, "x"], [4], [5]]]',
            "Encountered list at unexpected size: 3 at level: 1 expected size: 2",
        ),
        (
            '[[[1], [2]], [[3, "x"], [4]]]',
            "Encountered list at unexpected size: 2 at level: 2 expected size: 1",
        ),
    ],
)
def test_ragged_lists(text: str, message: str) -> None:
    assert refusal(f'{{"inputs": {text}}}') == message
    assert (
        refusal(f'{{"instances": [{text}]}}')
        == f"Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: {message}"
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "[[1], [2, 3]]",
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor size: 1 but got: 2",
        ),
        (
            "[[[1, 2]], [[1], [2]]]",
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting shape [1,2] but got: [2,1]",
        ),
        (
            '[{"x": 1}, {"x": [2]}]',
            "Failed to process element: 1 key: x of 'instances' list. Error: INVALID_ARGUMENT: Expecting shape [] but got: [1]",
        ),
        ('[1, {"x": 2}]', "Expecting value/list but got object at item 1 of input list"),
        ('[{"x": 1}, [2]]', "Expecting object but got list at item 1 of input list"),
        ('[{"x": 1}, {"b64": "aGk="}]', "Expecting object but got list at item 1 of input list"),
        (
            "[{}]",
            "Failed to process element: 0 of 'instances' list. JSON object: {} keys must be equal to: x",
        ),
        (
            '[{"z\\u0000q": 1}]',
            "Failed to process element: 0 key: z of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not have named input: z",
        ),
    ],
)
def test_rows_that_do_not_fit_together(body: str, message: str) -> None:
    assert refusal(f'{{"instances": {body}}}') == message


def test_rows_of_several_inputs() -> None:
    inputs = {"b": FLOAT, "a": FLOAT, "c": FLOAT}
    assert refusal('{"instances": [{"c": 1, "a": 2}]}', inputs) == (
        "Failed to process element: 0 of 'instances' list. JSON object: "
        '{\n    "c": 1,\n    "a": 2\n} keys must be equal to: a,b,c'
    )
    assert refusal('{"instances": [1]}', inputs) == (
        "instances is a plain list, but expecting list of objects as multiple input tensors required as per tensorinfo_map"
    )
    assert refusal('{"inputs": [1]}', inputs) == (
        "inputs is a plain value/list, but expecting an object as multiple input tensors required as per tensorinfo_map"
    )
    assert refusal('{"inputs": {"a": 1}}', inputs) == "Missing named input: b in 'inputs' object."
