"""Bodies of classify and regress: every rule of JSON -> Examples, the texts, and results -> JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from tfs import messages
from tfs.errors import InvalidArgument
from tfs.service.example_json import classification_json, decode, regression_json


def features(element: str) -> dict[str, Any]:
    """The features of one Example given as JSON: name -> (kind, values)."""
    (serialized,) = decode(b'{"examples": [%s]}' % element.encode("utf-8", "surrogateescape")).examples
    example = messages.Example.FromString(serialized)
    found = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        found[name] = None if kind is None else (kind, list(getattr(feature, kind).value))
    return found


def refused(body: str) -> str:
    with pytest.raises(InvalidArgument) as raised:
        decode(body.encode())
    return raised.value.message


@pytest.mark.parametrize(
    ("value", "want"),
    [
        ("1", ("int64_list", [1])),
        ("-0", ("int64_list", [0])),
        ("true", ("int64_list", [1])),
        ("[true, false, 7]", ("int64_list", [1, 0, 7])),
        ("9223372036854775807", ("int64_list", [2**63 - 1])),
        ("-9223372036854775808", ("int64_list", [-(2**63)])),
        ("-9223372036854775809", ("float_list", [-(2.0**63)])),
        ("18446744073709551616", ("float_list", [2.0**64])),
        ("1" + "0" * 30, ("float_list", [1.0000000150474662e30])),
        ("1.0", ("float_list", [1.0])),
        ("1e2", ("float_list", [100.0])),
        ("[2.5, 1e300, -1e300]", ("float_list", [2.5, math.inf, -math.inf])),
        ("[Infinity, -Infinity, Inf, -Inf]", ("float_list", [math.inf, -math.inf] * 2)),
        ("[NInf, -NaInfinity]", ("float_list", [math.inf, -math.inf])),
        ("[NaN.5, -Inf.25, NaNe2, Infinity.5e1]", ("float_list", [0.5, -0.25, 0.0, 5.0])),
        ('"abc"', ("bytes_list", [b"abc"])),
        ('"\\u00e9\\ud83d\\ude00\\n\\u0000"', ("bytes_list", ["\u00e9\U0001f600\n\0".encode()])),
        ('["Inf", "-NaN"]', ("bytes_list", [b"Inf", b"-NaN"])),
        ('"\udcff\udcfe"', ("bytes_list", [b"\xff\xfe"])),
        ('{"b64": "aGk="}', ("bytes_list", [b"hi"])),
        (
            '[{"b64": "aGk"}, "x", {"b64": " a G k = "}, {"b64": ""}]',
            ("bytes_list", [b"hi", b"x", b"hi", b""]),
        ),
        ("[]", None),
    ],
)
def test_values(value: str, want: Any) -> None:
    assert features(f'{{"f": {value}}}') == {"f": want}


def test_nan() -> None:
    for token in ("NaN", "-NaN", "[NaN]"):
        ((kind, (value,)),) = features(f'{{"f": {token}}}').values()
        assert (kind, math.isnan(value)) == ("float_list", True)


def test_of_equal_features_the_last_wins_and_of_equal_keys_the_first() -> None:
    assert features('{"f": 1, "f": "x", "g": 2}') == {"f": ("bytes_list", [b"x"]), "g": ("int64_list", [2])}
    assert features('{"f\\u0000a": 1, "f\\u0000b": 2}') == {"f": ("int64_list", [2])}, "names end at a NUL"
    body = decode(b'{"signature_name": "a", "examples": [{}], "signature_name": 3, "examples": 4}')
    assert (body.signature_name, body.examples) == ("a", [b""])


def test_the_context_comes_before_every_example() -> None:
    body = decode(b'{"context": {"c": 1}, "examples": [{"x": 2}, {}]}')
    merged = [dict(messages.Example.FromString(one).features.feature) for one in body.examples]
    assert [sorted(one) for one in merged] == [["c", "x"], ["c"]]


@pytest.mark.parametrize(
    "body", [' {"examples": [{}]} trailing', '\ufeff{"examples":[{}]}{', '{"a": [[[{}]]], "examples": [{}]}']
)
def test_what_is_read_past(body: str) -> None:
    assert decode(body.encode()).examples == [b""]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("", "JSON Parse error: The document is empty"),
        ("x", "JSON Parse error: Invalid value. at offset: 0"),
        ('{"examples": [{}', "JSON Parse error: Missing a comma or ']' after an array element. at offset: 16"),
        ("[1, 2]", "JSON Value: [1, 2] Is not object"),
        ("NaN", "JSON Value:  Is not object"),
        ('{"signature_name": 3, "examples": []}', "JSON Value: {\n    \"signature_name\": 3,\n    \"examples\": []\n} not formatted correctly. 'signature_name' key must be a string value."),
        ("{}", "JSON Value: {} When method is classify, key 'examples' is expected and was not found"),
        ('{"examples": {}}', "JSON Value: {\n    \"examples\": {}\n} Expecting 'examples' value to be an list/array"),
        ('{"examples": []}', "JSON Value: {\n    \"examples\": []\n} 'examples' value is an empty array"),
        ('{"examples": [1]}', "Example must be JSON object but got JSON Number"),
        ('{"examples": [null]}', "Example must be JSON object but got JSON Null"),
        ('{"examples": [{}, true]}', "Example must be JSON object but got JSON True"),
        ('{"examples": ["x"]}', "Example must be JSON object but got JSON String"),
        ('{"examples": [[]], "context": 1}', "Example must be JSON object but got JSON Number"),
        ('{"examples": [{"f": null}]}', "Feature: f has element with unexpected JSON type: Null"),
        ('{"examples": [{"f": [[1]]}]}', "Feature: f has element with unexpected JSON type: Array"),
        ('{"examples": [{"f": {"a": 1}}]}', "Feature: f has element with unexpected JSON type: Object"),
        ('{"examples": [{"f": {"b64": 1}}]}', "Feature: f has element with unexpected JSON type: Object"),
        ('{"examples": [{"f": {"b64": "", "x": 1}}]}', "Feature: f has element with unexpected JSON type: Object"),
        ('{"examples": [{"f": [1, 2.5]}]}', "Unexpected element type in feature: f expecting type: int64"),
        ('{"examples": [{"f": [2.5, 1]}]}', "Unexpected element type in feature: f expecting type: float"),
        ('{"examples": [{"f": ["a", 1]}]}', "Unexpected element type in feature: f expecting type: bytes"),
        ('{"examples": [{"f": 9223372036854775808}]}', "Feature: f has uint64_t element. Only int64_t is supported."),
        ('{"examples": [{"f": {"b64": "a"}}]}', "Unable to base64 decode"),
        ('{"examples": [{"f": {"b64": "aGk=="}}]}', "Unable to base64 decode"),
        ('{"examples": [{"f": {"b64": "a-_="}}]}', "Unable to base64 decode"),
    ],
)  # fmt: skip
def test_refusals(body: str, text: str) -> None:
    assert refused(body) == text


@pytest.mark.parametrize("inner", ["[" * 200_000 + "]" * 200_000, '{"a":' * 100_000 + "1" + "}" * 100_000])
def test_absurd_nesting_is_an_error(inner: str) -> None:
    assert refused(f'{{"ignored": {inner}, "examples": [{{}}]}}') == "JSON Value is nested too deeply"
    # A number that only the second reading understands.
    assert refused(f'{{"ignored": [Inf, {inner}], "examples": [{{}}]}}') == "JSON Value is nested too deeply"


def test_classifications_print() -> None:
    response = messages.ClassificationResponse()
    row = response.result.classifications.add()
    row.classes.add(label='a"\u00e9', score=0.1)
    row.classes.add(score=1e-7)
    response.result.classifications.add()
    body = classification_json(response)
    assert json.loads(body) == {"results": [[['a"\u00e9', 0.1], ["", 1e-07]], []]}
    assert body.startswith(b'{\n    "results": ')


def test_regressions_print_the_shortest_text_of_a_float32() -> None:
    response = messages.RegressionResponse()
    for value in (1 / 3, 16777216.0, math.inf, -math.inf, math.nan, -0.0, 3.4028235e38):
        response.result.regressions.add(value=value)
    body = regression_json(response)
    assert (
        body
        == b'{\n    "results": [0.33333334, 16777216.0, Infinity, -Infinity, NaN, -0.0, 3.4028235e+38]\n}'
    )
