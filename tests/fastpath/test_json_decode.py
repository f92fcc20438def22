"""REST predict bodies: what each becomes, and the reference's texts where it becomes nothing."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from tfs import _fastpath, errors

pytestmark = pytest.mark.usefixtures("fake_tensors")
FLOAT, DOUBLE, INT32, UINT8, INT16, INT8, STRING, COMPLEX, INT64, BOOL = range(1, 11)
QUINT8, BFLOAT16, UINT16, HALF, UINT32, UINT64 = 12, 14, 17, 19, 22, 23
STORAGE = {
    1: "<f4",
    2: "<f8",
    3: "<i4",
    4: "u1",
    5: "<i2",
    6: "i1",
    9: "<i8",
    10: "?",
    17: "<u2",
    19: "<f2",
    22: "<u4",
    23: "<u8",
}


def decode(
    body: str | bytes, inputs: dict[str, int] | int = FLOAT, signature: str = "serving_default"
) -> dict[Any, Any]:
    wanted = {"x": inputs} if isinstance(inputs, int) else inputs
    raw = body.encode() if isinstance(body, str) else body
    found: dict[Any, Any] = _fastpath._probe_json_decode(raw, wanted, signature.encode())
    return found


def values(shown: tuple[int, tuple[int, ...], Any]) -> Any:
    """The tensor as nested lists."""
    dtype, shape, data = shown
    if dtype == STRING:
        flat = np.empty(len(data), object)
        flat[:] = data
        return flat.reshape(shape).tolist()
    return np.frombuffer(data, STORAGE[dtype]).reshape(shape).tolist()


def column(text: str, dtype: int) -> Any:
    """What `{"inputs": text}` becomes."""
    return values(decode(f'{{"inputs": {text}}}', dtype)["x"])


def refusal(
    body: str | bytes, inputs: dict[str, int] | int = FLOAT, code: int = 3, signature: str = "serving_default"
) -> str:
    with pytest.raises(errors.TfsError) as caught:
        decode(body, inputs, signature)
    assert caught.value.code == code
    return caught.value.message


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


# --- documents ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "text", "offset"),
    [
        (b" \n", "The document is empty.", 2),
        (b"]", "The document is empty.", 0),
        (b"\0{}", "The document is empty.", 0),
        (b'\x0b{"inputs": 1}', "Invalid value.", 0),
        (b"{", "Missing a name for object member.", 1),
        (b"{1: 2}", "Missing a name for object member.", 1),
        (b'{"a": 1,}', "Missing a name for object member.", 8),
        (b'{"a"', "Missing a colon after a name of object member.", 4),
        (b'{"a" 1}', "Missing a colon after a name of object member.", 5),
        (b'{"a": 1 "b"', "Missing a comma or '}' after an object member.", 8),
        (b'{"a": 01}', "Missing a comma or '}' after an object member.", 7),
        (b'{"a": 1]', "Missing a comma or '}' after an object member.", 7),
        (b"[1 2]", "Missing a comma or ']' after an array element.", 3),
        (b"[1}", "Missing a comma or ']' after an array element.", 2),
        (b"[1,]", "Invalid value.", 3),
        (b"[,1]", "Invalid value.", 1),
        (b'{"a": }', "Invalid value.", 6),
        (b"[tru]", "Invalid value.", 4),
        (b"[nul]", "Invalid value.", 4),
        (b"[None]", "Invalid value.", 2),
        (b"[-]", "Invalid value.", 2),
        (b"[+1]", "Invalid value.", 1),
        (b"[.5]", "Invalid value.", 1),
        (b"['a']", "Invalid value.", 1),
        (b"[nan]", "Invalid value.", 2),
        (b"[Infinit]", "Invalid value.", 8),
        (b"[1.]", "Miss fraction part in number.", 3),
        (b"[1e]", "Miss exponent in number.", 3),
        (b"[1.5e+]", "Miss exponent in number.", 6),
        (b"[1e309]", "Number too big to be stored in double.", 1),
        (b"[0e309]", "Number too big to be stored in double.", 1),
        (b"[ -1e99999]", "Number too big to be stored in double.", 2),
        (b"[" + b"1" * 310 + b"]", "Number too big to be stored in double.", 1),
        (b'["abc', "Missing a closing quotation mark in string.", 5),
        (b'["a\0b"]', "Missing a closing quotation mark in string.", 3),
        (b'["a\tb"]', "Invalid escape character in string.", 3),
        (b'["ab\\x41"]', "Invalid escape character in string.", 4),
        (b'["\\', "Invalid escape character in string.", 2),
        (b'["\\u12g4"]', "Incorrect hex digit after \\u escape in string.", 2),
        (b'["\\ud800"]', "The surrogate pair in string is invalid.", 2),
        (b'["\\ud800\\u0041"]', "The surrogate pair in string is invalid.", 2),
        (b'\xef\xbb\xbf["\\q"]', "Invalid escape character in string.", 5),
    ],
)
def test_parse_errors(body: bytes, text: str, offset: int) -> None:
    assert refusal(body) == f"JSON Parse error: {text} at offset: {offset}"


def test_an_empty_body() -> None:
    assert refusal(b"") == "JSON Parse error: The document is empty"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("17", "JSON Value: 17 Is not object"),
        ("[]", "JSON Value: [] Is not object"),
        ("NaN", "JSON Value:  Is not object"),
        ("[1, NaN, 2]", "JSON Value: [1,  Is not object"),
        ('"' + "y" * 400 + '"', 'JSON Value: "' + "y" * 400 + '" Is not object'),
        ('["\\u0001\\u001f\\n\\"\\\\/\x7f"]', 'JSON Value: ["\\u0001\\u001F\\n\\"\\\\/\x7f"] Is not object'),
        (
            "[1, -1, 1.0, 1e6, 1e100, 0.1, 18446744073709551615, 1e-7, 123456789.123, 1e21, 0.000001, -0, -0.0]",
            "JSON Value: [1, -1, 1.0, 1000000.0, 1e100, 0.1, 18446744073709551615, 1e-7, 123456789.123, 1e21, 0.000001, 0, -0.0] Is not object",
        ),
        (
            "[18446744073709551616, 12345678901234567890.5, 123456789012345678901234567890, 1e-45]",
            "JSON Value: [18446744073709553000.0, 12345678901234568000.0, 1.2345678901234566e29, 1.0000000000000002e-45] "
            "Is not object",
        ),
        (
            '[{"a": [{}, {"b": []}], "c": null}, true]',
            'JSON Value: [{\n        "a": [{}, {\n                "b": []\n            }],\n        "c": null\n    }, true] Is not object',
        ),
        ('{"inputs": 1, "instances": 2}', 'JSON Value: {\n    "inputs": 1,\n    "instances": 2\n} Not formatted correctly expecting only '
         "one of 'inputs' or 'instances' keys to exist "),
        ('{"instances": "abc"}', 'JSON Value: {\n    "instances": "abc"\n} Expecting \'instances\' to be an list/array'),
        ('{"instances": []}', "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array"),
        ('{"signature_name": 3}', 'JSON Value: {\n    "signature_name": 3\n} not formatted correctly. \'signature_name\' key must be a '
         "string value."),
        ("{}", "Missing 'inputs' or 'instances' key"),
        ('{"inputs": {}}', "Missing named input: x in 'inputs' object."),
        ('{"signature_name": "nope"}', 'Serving signature name: "nope" not found in signature def'),
        ('{"inputs": 1, "signature_name": "nope"}', 'Serving signature name: "nope" not found in signature def'),
    ],
)  # fmt: skip
def test_documents_of_the_wrong_shape(body: str, message: str) -> None:
    assert refusal(body) == message


def test_bytes_that_are_not_utf8_are_quoted_as_they_came() -> None:
    message = refusal(b'{"instances": "\xff\xfe\xe9"}').encode("utf-8", "surrogateescape")
    assert (
        message
        == b'JSON Value: {\n    "instances": "\xff\xfe\xe9"\n} Expecting \'instances\' to be an list/array'
    )
    assert values(decode(b'{"inputs": "\xff\xfe"}', STRING)["x"]) == b"\xff\xfe"


def test_names_in_rows_end_at_their_first_nul() -> None:
    assert values(decode(b'{"instances": [{"x\\u0000y": 1}, {"x": 2}]}', FLOAT)["x"]) == [1.0, 2.0]
    assert refusal(b'{"inputs": {"x\\u0000y": 1}}') == "Missing named input: x in 'inputs' object."


def test_a_dump_stops_at_256_bytes() -> None:
    pad = ", ".join(f'"k{i}": [{i}, {i}.5, null, true, "v"]' for i in range(40))
    message = refusal(f'{{"instances": [], "pad": {{{pad}}}}}')
    shown = message.removeprefix("JSON Value: ").removesuffix(" No values in 'instances' array")
    assert len(shown) == 256
    assert shown.endswith('"k5": [')


def test_signatures_without_inputs_or_default() -> None:
    assert refusal('{"instances": [1]}', {}) == "Failed to get input map for signature: DEFAULT"
    assert (
        refusal('{"signature_name": "s", "inputs": 1}', {}, signature="s")
        == "Failed to get input map for signature: s"
    )
    assert (
        refusal('{"inputs": 1}', signature="other")
        == 'Serving signature name: "serving_default" not found in signature def'
    )


def test_parse_errors_come_before_all_others() -> None:
    assert refusal('{"signature_name": "nope", "instances": ["x"], }').startswith("JSON Parse error: ")
    assert refusal('{"instances": [1, 2], "a" 1}').startswith("JSON Parse error: ")
    assert refusal('{"signature_name": 3, "instances": "x"}', signature="s").endswith(
        "must be a string value."
    )


# --- hostile bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
def test_absurd_nesting_is_an_error(opening: str, closed: bool) -> None:
    closing = "".join({"[": "]", "{": "}"}[c] for c in reversed(opening) if c in "[{")
    nested = opening * 500_000 + "1" + (closing * 500_000 if closed else "")
    for body in (
        nested,
        '{"instances": [' + nested + "]}",
        '{"inputs": ' + nested + "}",
        '{"zz": ' + nested + ', "inputs": "x"}',
    ):
        message = refusal(body)
        assert message.startswith("JSON Parse error: ") == (not closed)


def test_deep_tensors() -> None:
    def nested(depth: int) -> str:
        return "[" * depth + "1" + "]" * depth

    assert decode(f'{{"inputs": {nested(254)}}}')["x"][1] == (1,) * 254
    assert refusal(f'{{"inputs": {nested(255)}}}') == "tensor parsing error: x"
    assert decode(f'{{"instances": [{nested(253)}]}}')["x"][1] == (1,) * 254
    assert refusal(f'{{"instances": [{nested(254)}]}}') == "tensor parsing error: x"
    assert refusal(f'{{"instances": [{{"x": {nested(254)}}}]}}') == "tensor parsing error: x"
    assert refusal(f'{{"instances": [{{"x": {nested(300)}}}]}}') == "tensor parsing error: x"


def test_large_bodies_grow_their_buffers() -> None:
    array = np.random.default_rng(3).random((50, 400))
    body = '{"instances": ' + str(array.tolist()) + "}"
    assert decode(body, DOUBLE)["x"] == (DOUBLE, (50, 400), array.tobytes())
    named = '{"inputs": {"s": ' + str([[f"{v:.3f}" for v in row] for row in array]).replace("'", '"') + "}}"
    assert decode(named, {"s": STRING})["s"][2] == [f"{v:.3f}".encode() for v in array.reshape(-1)]
