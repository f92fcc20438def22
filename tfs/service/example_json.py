"""JSON bodies of classify and regress -> serialized Examples, and results -> JSON.

Owns: the rules of spec (integers stay integers, floats stay floats, the first element of a feature fixes its kind) and their texts.
The grammar of JSON, with the reference's errors, is the core's (`json_bounds`, `json_excerpt`); what it has passed is taken apart by
Python's json with hooks that keep duplicate keys.  Must not know: HTTP, engines.  Any thread.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tfs import messages
from tfs._fastpath import json_bounds, json_excerpt
from tfs.errors import InvalidArgument

_KINDS: Final = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}
_TYPES: Final[dict[type, str]] = {type(None): "Null", dict: "Object", list: "Array", str: "String"}
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]*")
_SPACE: Final = re.compile(r"[ \t\n\v\f\r]+")
_INT64_MIN: Final = -(1 << 63)
_INT64_MAX: Final = (1 << 63) - 1
_UINT64_MAX: Final = (1 << 64) - 1
# What a context may add up to, once for each Example; as for gRPC.
MAX_CONTEXT_BYTES: Final = 256 << 20
# Numbers that the reference reads and Python's json does not: its NaN, half read, may go on as Inf, and a fraction or exponent makes
# it forget the word (`NaN.5` is 0.5). Strings are matched first, so nothing inside one is touched.
_ODD_NUMBERS: Final = re.compile(
    r'"(?:[^"\\]|\\.)*"|(-?)(?:(NaN)|(?:Na?)?Inf(?:inity)?)((?:\.\d+)?(?:[eE][-+]?\d+)?)', re.DOTALL
)


class _Object(dict[str, Any]):
    """A JSON object as look-ups see it (the first of equal keys) that remembers all its members."""

    members: list[tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class Body:
    """A decoded body: the signature's name ("" when not given) and one serialized Example per element, the context in front."""

    signature_name: str
    examples: list[bytes]


def decode(body: bytes) -> Body:
    """Raises InvalidArgument with the reference's texts."""
    document = _parse(body)
    if not isinstance(document, _Object):
        raise InvalidArgument(f"{_value(body)} Is not object")
    signature = document.get("signature_name", "")
    if not isinstance(signature, str):
        raise InvalidArgument(
            f"{_value(body)} not formatted correctly. 'signature_name' key must be a string value."
        )
    context = _example(document["context"]) if "context" in document else b""
    # The reference names classify for both methods.
    if "examples" not in document:
        raise InvalidArgument(
            f"{_value(body)} When method is classify, key 'examples' is expected and was not found"
        )
    examples = document["examples"]
    if not isinstance(examples, list):
        raise InvalidArgument(f"{_value(body)} Expecting 'examples' value to be an list/array")
    if not examples:
        raise InvalidArgument(f"{_value(body)} 'examples' value is an empty array")
    if len(context) * len(examples) > MAX_CONTEXT_BYTES:
        raise InvalidArgument(
            f"{len(examples)} Examples with a context of {len(context)} bytes are more than {MAX_CONTEXT_BYTES} bytes together"
        )
    return Body(signature, [context + _example(one) for one in examples])


def classification_json(response: Any) -> bytes:
    """The REST body of a ClassificationResponse."""
    return _results(
        [[[one.label, _number(one.score)] for one in row.classes] for row in response.result.classifications]
    )


def regression_json(response: Any) -> bytes:
    """The REST body of a RegressionResponse."""
    return _results([_number(one.value) for one in response.result.regressions])


def _results(results: list[Any]) -> bytes:
    return b'{\n    "results": ' + json.dumps(results, ensure_ascii=False).encode() + b"\n}"


def _number(value: float) -> float:
    """The double whose shortest text is the shortest text of this float32."""
    return float(str(np.float32(value)))


def _parse(body: bytes) -> Any:
    """The document, which may be followed by anything; strings carry undecodable bytes as surrogates."""
    begin, end = json_bounds(body)
    text = body[begin:end].decode("utf-8", "surrogateescape")
    try:
        try:
            return _DECODER.raw_decode(text)[0]
        except json.JSONDecodeError:
            return _DECODER.raw_decode(_ODD_NUMBERS.sub(_plain, text))[0]
    except RecursionError:
        raise InvalidArgument("JSON Value is nested too deeply") from None


def _plain(token: re.Match[str]) -> str:
    """An odd number as Python's json spells it; strings as they are."""
    sign, nan, tail = token[1], token[2], token[3]
    if sign is None:
        return token[0]
    return f"{sign}0{tail}" if tail else nan or sign + "Infinity"


def _object(members: list[tuple[str, Any]]) -> _Object:
    made = _Object(reversed(members))
    made.members = members
    return made


def _integer(text: str) -> int | float:
    """An integer literal; beyond uint64 (below int64) it is a floating-point number, as is nothing else without a dot."""
    value = int(text) if len(text) <= 20 else _UINT64_MAX + 1
    if _INT64_MIN <= value <= _UINT64_MAX and len(text) <= 20:
        return value
    return float(text)


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)


def _value(body: bytes) -> str:
    return f"JSON Value: {json_excerpt(body)}"


def _example(value: Any) -> bytes:
    if not isinstance(value, _Object):
        raise InvalidArgument(f"Example must be JSON object but got JSON {_type(value)}")
    example = messages.Example()
    features = example.features.feature
    named = {
        name.partition("\0")[0]: given for name, given in value.members
    }  # up to a NUL; the last of equal names
    for name, given in named.items():
        try:
            feature = features[name]
        except (UnicodeEncodeError, ValueError):
            raise InvalidArgument(f"Feature: {name} has a name that is not UTF-8") from None
        for element in given if isinstance(given, list) else [given]:
            _add(name, feature, element)
    return bytes(example.SerializeToString())


def _add(name: str, feature: Any, element: Any) -> None:
    kind, value = _element(name, element)
    present = feature.WhichOneof("kind")
    if present not in (None, kind):
        raise InvalidArgument(f"Unexpected element type in feature: {name} expecting type: {_KINDS[present]}")
    getattr(feature, kind).value.append(value)


def _element(name: str, element: Any) -> tuple[str, Any]:
    """(field of Feature, value) of one JSON element."""
    if isinstance(element, str):
        return "bytes_list", element.encode("utf-8", "surrogateescape")
    if isinstance(element, int):  # booleans too
        if element > _INT64_MAX:
            raise InvalidArgument(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
        return "int64_list", int(element)
    if isinstance(element, float):
        return "float_list", _to_float32(element)
    if isinstance(element, _Object) and len(element.members) == 1 and isinstance(element.get("b64"), str):
        return "bytes_list", _base64(element["b64"])
    raise InvalidArgument(f"Feature: {name} has element with unexpected JSON type: {_type(element)}")


def _to_float32(value: float) -> float:
    """protobuf refuses doubles beyond float32 that C++ turns into infinity."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def _base64(text: str) -> bytes:
    """Standard alphabet, white space ignored, padding optional but right when there is some."""
    bare = _SPACE.sub("", text)
    digits = bare.rstrip("=")
    padding = len(bare) - len(digits)
    if not _BASE64.fullmatch(digits) or len(digits) % 4 == 1 or (padding and (padding > 2 or len(bare) % 4)):
        raise InvalidArgument("Unable to base64 decode")
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4))
    except binascii.Error:
        raise InvalidArgument("Unable to base64 decode") from None


def _type(value: Any) -> str:
    """RapidJSON's name of a value's type."""
    if isinstance(value, bool):
        return "True" if value else "False"
    for kind, name in _TYPES.items():
        if isinstance(value, kind):
            return name
    return "Number"


_Encoder = Callable[[Any], bytes]
ENCODERS: Final[dict[str, _Encoder]] = {"classify": classification_json, "regress": regression_json}
