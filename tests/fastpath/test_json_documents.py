"""REST predict bodies as documents: what is no JSON, duplicate and unknown names, nesting, size."""

from __future__ import annotations

import numpy as np
import pytest
from json_support import (
    DOUBLE,
    FLOAT,
    STRING,
    decode,
    refusal,
    values,
)

pytestmark = pytest.mark.usefixtures("fake_tensors")


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
