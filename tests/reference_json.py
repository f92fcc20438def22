"""The slow JSON codec: the same answers as `_fast/json_*.pxi`, by the json module and NumPy, written to be read.

Owns: REST predict's conversion rules and error texts in their plainest form.  Must not know: the compiled module.
It leaves the grammar to Python's json, which differs from the reference's parser in details: `Unreadable` means "json says no",
nothing more.  Tensors are shown as `(dtype number, shape, raw little-endian bytes)`, strings as `(7, shape, [bytes, …])`.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import reference_numbers as numbers

from tfs.errors import InvalidArgument, TfsError, Unimplemented

DT_STRING, DT_BFLOAT16 = 7, 14
MAX_RANK = 254
INDENT = "    "
NAMES = {
    1: "float", 2: "double", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string", 8: "complex64", 9: "int64", 10: "bool",
    11: "qint8", 12: "quint8", 13: "qint32", 14: "bfloat16", 15: "qint16", 16: "quint16", 17: "uint16", 18: "complex128",
    19: "half", 22: "uint32", 23: "uint64",
}  # fmt: skip
FLOATS = {1: "<f4", 2: "<f8", 14: "<f4", 19: "<f2"}
INTEGERS = {  # dtype -> storage, least and greatest value taken; the narrow ones wrap around
    3: ("<i4", -(2**31), 2**31 - 1),
    4: ("u1", -(2**31), 2**31 - 1),
    5: ("<i2", -(2**31), 2**31 - 1),
    6: ("i1", -(2**31), 2**31 - 1),
    17: ("<u2", -(2**31), 2**31 - 1),
    9: ("<i8", -(2**63), 2**63 - 1),
    22: ("<u4", 0, 2**32 - 1),
    23: ("<u8", 0, 2**64 - 1),
}

Tensor = tuple[int, tuple[int, ...], Any]


class Unreadable(TfsError):
    """Python's json does not read the document."""


class TooDeep(Exception):
    """More dimensions than a tensor can have."""


class Members(tuple[tuple[str, Any], ...]):
    """A JSON object as its members, in order, duplicates included; lists are JSON arrays."""

    def first(self, name: str) -> Any:
        return next((value for key, value in self if key == name), ABSENT)


class Row(NamedTuple):
    """What one value brings: its shape and its elements."""

    shape: tuple[int, ...]
    elements: list[Any]


ABSENT = object()


# --- text to values -----------------------------------------------------------------------------------------------------------


class Real(float):
    """A double; `text` is its token, for messages show what the fast reading makes of that."""

    text = "0.0"


def real(text: str) -> float:
    value = Real(text)
    value.text = text
    return value


def integer(text: str) -> int | float:
    value = int(text)
    return value if -(2**63) <= value < 2**64 else real(text)


def read(body: bytes) -> Any:
    """The first value of the text, whatever follows it."""
    if not body:
        raise InvalidArgument("JSON Parse error: The document is empty")
    decoder = json.JSONDecoder(parse_int=integer, parse_float=real, object_pairs_hook=Members)
    text = body.decode("utf-8", "surrogateescape")
    try:
        value, _ = decoder.raw_decode(text.lstrip(" \t\r\n"))
    except (ValueError, RecursionError) as error:
        raise Unreadable(str(error)) from None
    return value


def raw(text: str) -> bytes:
    """Bytes that were not UTF-8 as they came; an escaped lone surrogate in three bytes."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


# --- how values are shown in messages -----------------------------------------------------------------------------------------


def shown_string(text: str) -> str:
    short = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(short.get(c, f"\\u{ord(c):04X}" if c < " " else c) for c in text) + '"'


def tokens(value: Any, level: int = 0) -> Iterator[str]:
    """The pieces of a dump, each with what stands before it; an empty piece ends the dump (NaN and infinities)."""
    if isinstance(value, Members):
        yield "{"
        for n, (key, item) in enumerate(value):
            yield ("," if n else "") + "\n" + INDENT * (level + 1) + shown_string(key)
            yield from prefixed(": ", tokens(item, level + 1))
        yield ("\n" + INDENT * level if value else "") + "}"
    elif isinstance(value, list):
        yield "["
        for n, item in enumerate(value):
            yield from prefixed(", " if n else "", tokens(item, level + 1))
        yield "]"
    elif isinstance(value, str):
        yield shown_string(value)
    elif isinstance(value, float):
        shown = numbers.fast(value.text) if isinstance(value, Real) else value
        yield numbers.shown(shown) if math.isfinite(shown) else "STOP"
    else:
        yield json.dumps(value)


def prefixed(prefix: str, pieces: Iterator[str]) -> Iterator[str]:
    yield prefix + next(pieces)
    yield from pieces


def dump(value: Any) -> str:
    """The value as messages show it: no piece is begun beyond 256 bytes."""
    out = ""
    for piece in tokens(value):
        if len(raw(out)) >= 256:
            break
        if piece.endswith("STOP"):
            out += piece[: -len("STOP")]
            break
        out += piece
    return out


def fault(text: str) -> InvalidArgument:
    return InvalidArgument(raw(text).decode("utf-8", "surrogateescape"))


# --- values to elements -------------------------------------------------------------------------------------------------------


def type_of(value: Any) -> str:
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return str(value)
    kinds = {Members: "Object", list: "Array", str: "String"}
    return kinds.get(type(value), "Number")


def is_base64(value: Any) -> bool:
    return (
        isinstance(value, Members)
        and len(value) == 1
        and value[0][0] == "b64"
        and isinstance(value[0][1], str)
    )


def decode_base64(text: str) -> bytes:
    """Standard alphabet, white space anywhere, padding optional but right."""
    packed = re.sub(r"[ \t\n\v\f\r]", "", text)
    body = packed.rstrip("=.")
    pads = len(packed) - len(body)
    if not re.fullmatch(r"[A-Za-z0-9+/]*", body) or len(body) % 4 == 1 or pads not in (0, -len(body) % 4):
        raise InvalidArgument("Unable to base64 decode")
    try:
        return base64.b64decode(body + "=" * (-len(body) % 4))
    except binascii.Error:
        raise InvalidArgument("Unable to base64 decode") from None


def element(value: Any, dtype: int) -> Any:
    """One scalar as the dtype takes it: bytes for strings, else a number or bool."""
    refusal = f"JSON Value: {dump(value)} Type: {type_of(value)} is not of expected type: {NAMES[dtype]}"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if dtype == DT_STRING and isinstance(value, Members):
        if not is_base64(value):
            raise fault(f"JSON Value: {dump(value)} not formatted correctly for base64 data")
        return decode_base64(value[0][1])
    if isinstance(value, Members):
        raise fault(refusal)
    if dtype == DT_STRING and isinstance(value, str):
        return raw(value)
    if dtype in FLOATS and is_number:
        return float(value)
    if dtype in INTEGERS and is_number and isinstance(value, int):
        _, least, greatest = INTEGERS[dtype]
        if least <= value <= greatest:
            return value
    if dtype == 10 and isinstance(value, bool):
        return value
    if dtype not in (*FLOATS, *INTEGERS, DT_STRING, 10):
        raise Unimplemented(f"Conversion of JSON Value: {dump(value)} to type: {NAMES[dtype]}")
    raise fault(refusal)


def shape_of(value: Any) -> tuple[int, ...]:
    """Along the first elements."""
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(shape)


def fill(value: Any, level: int, shape: tuple[int, ...], dtype: int) -> Iterator[Any]:
    if not isinstance(value, list):
        if level != len(shape):
            raise fault(
                f"JSON Value: {dump(value)} found at incorrect level: {level + 1} in the JSON DOM. Expected at level: {len(shape)}"
            )
        yield element(value, dtype)
        return
    if level >= len(shape):
        raise InvalidArgument(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise InvalidArgument(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for item in value:
        yield from fill(item, level + 1, shape, dtype)


def row_of(value: Any, dtype: int) -> Row:
    shape = shape_of(value)
    return Row(shape, list(fill(value, 0, shape, dtype)))


def tensor(dtype: int, shape: tuple[int, ...], elements: list[Any]) -> Tensor:
    """A name given twice in a row brings elements too many: the first ones stand."""
    if len(shape) > MAX_RANK:
        raise TooDeep
    elements = elements[: math.prod(shape)]
    if dtype == DT_STRING:
        return dtype, shape, elements
    if dtype not in FLOATS:
        storage = INTEGERS[dtype][0] if dtype in INTEGERS else "?"
        return dtype, shape, wrapped(elements, storage)
    return dtype, shape, floats(elements, dtype)


def placed(name: str, dtype: int, shape: tuple[int, ...], elements: list[Any]) -> Tensor:
    try:
        return tensor(dtype, shape, elements)
    except TooDeep:
        raise fault(f"tensor parsing error: {name}") from None


def wrapped(elements: list[Any], storage: str) -> bytes:
    width = np.dtype(storage).itemsize
    return b"".join((int(value) % 256**width).to_bytes(width, "little") for value in elements)


def floats(elements: list[float], dtype: int) -> bytes:
    """Subnormal floats and doubles are zeros; the 16-bit kinds are rounded from float32."""
    with np.errstate(over="ignore"):
        values = np.array(elements, "<f8")
        values = values if dtype == 2 else values.astype("<f4")
        least = np.finfo(values.dtype).smallest_normal
        values = np.where(np.abs(values) < least, np.copysign(values.dtype.type(0), values), values).astype(
            values.dtype
        )
        if dtype != DT_BFLOAT16:
            return values.astype(FLOATS[dtype]).tobytes()
    bits = values.view("<u4")
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype("<u2").tobytes()


# --- the two formats ----------------------------------------------------------------------------------------------------------


class Column:
    """The rows of one input so far; all must look like the first."""

    def __init__(self) -> None:
        self.first: Row | None = None
        self.elements: list[Any] = []

    def add(self, row: Row) -> None:
        self.elements += row.elements
        if self.first is None:
            self.first = row
        elif len(row.elements) != len(self.first.elements):
            raise InvalidArgument(
                f"Expecting tensor size: {len(self.first.elements)} but got: {len(row.elements)}"
            )
        elif row.shape != self.first.shape:
            raise InvalidArgument(
                f"Expecting shape {shown_shape(self.first.shape)} but got: {shown_shape(row.shape)}"
            )


def shown_shape(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def named_row(k: int, item: Members, inputs: dict[str, int], columns: dict[str, Column]) -> None:
    for key, value in item:
        name = key.split("\0")[0]
        try:
            if name not in inputs:
                raise fault(f"JSON object: does not have named input: {name}")
            columns[name].add(row_of(value, inputs[name]))
        except TfsError as error:
            raise fault(
                f"Failed to process element: {k} key: {name} of 'instances' list. Error: {error.status_text}"
            ) from None
    if {key.split("\0")[0] for key, _ in item} != set(inputs):
        wanted = ",".join(sorted(inputs, key=str.encode))
        raise fault(
            f"Failed to process element: {k} of 'instances' list. JSON object: {dump(item)} keys must be equal to: {wanted}"
        )


def rows(items: list[Any], inputs: dict[str, int]) -> dict[str, Tensor]:
    def is_named(item: Any) -> bool:
        return isinstance(item, Members) and not is_base64(item)

    if not isinstance(items[0], Members) and len(inputs) > 1:
        raise InvalidArgument(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per tensorinfo_map"
        )
    named = is_named(items[0])
    only = min(inputs, key=str.encode)
    columns = {name: Column() for name in (inputs if named else [only])}
    for k, item in enumerate(items):
        if is_named(item) != named:
            expected, got = ("object", "list") if named else ("value/list", "object")
            raise InvalidArgument(f"Expecting {expected} but got {got} at item {k} of input list")
        if named:
            named_row(k, item, inputs, columns)
            continue
        try:
            columns[only].add(row_of(item, inputs[only]))
        except TfsError as error:
            raise fault(
                f"Failed to process element: {k} of 'instances' list. Error: {error.status_text}"
            ) from None
    found = {}
    for name, column in columns.items():
        assert column.first is not None
        found[name] = placed(name, inputs[name], (len(items), *column.first.shape), column.elements)
    return found


def columns(value: Any, inputs: dict[str, int]) -> dict[str, Tensor]:
    found = {}
    if not isinstance(value, Members) or is_base64(value):
        if len(inputs) > 1:
            raise InvalidArgument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per tensorinfo_map"
            )
        value = Members([(next(iter(inputs)), value)])
    for name in sorted(inputs, key=str.encode):
        item = value.first(name)
        if item is ABSENT:
            raise InvalidArgument(f"Missing named input: {name} in 'inputs' object.")
        row = row_of(item, inputs[name])
        found[name] = placed(name, inputs[name], row.shape, row.elements)
    return found


def decode(
    body: bytes, inputs: dict[str, int], signature: bytes = b"serving_default"
) -> dict[str | None, Any]:
    """As `_fastpath._probe_json_decode`; raises `Unreadable` where json does not read the document."""
    document = read(body)
    if not isinstance(document, Members):
        raise fault(f"JSON Value: {dump(document)} Is not object")
    name = document.first("signature_name")
    if name is not ABSENT and not isinstance(name, str):
        raise fault(
            f"JSON Value: {dump(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    asked = "serving_default" if name in (ABSENT, "") else name
    if asked != signature.decode():
        raise fault(f'Serving signature name: "{asked}" not found in signature def')
    if not inputs:
        raise fault(f"Failed to get input map for signature: {'DEFAULT' if name in (ABSENT, '') else name}")
    instances, named = document.first("instances"), document.first("inputs")
    if instances is not ABSENT and named is not ABSENT:
        text = "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
        raise fault(f"JSON Value: {dump(document)} {text}")
    if named is not ABSENT:
        return {**columns(named, inputs), None: "column"}
    if instances is ABSENT:
        raise InvalidArgument("Missing 'inputs' or 'instances' key")
    if not isinstance(instances, list):
        raise fault(f"JSON Value: {dump(document)} Expecting 'instances' to be an list/array")
    if not instances:
        raise fault(f"JSON Value: {dump(document)} No values in 'instances' array")
    return {**rows(instances, inputs), None: "row"}


# --- tensors to text ----------------------------------------------------------------------------------------------------------


def values(alias: str, shown: Tensor) -> Any:
    """Nested lists of what json.dumps would print."""
    dtype, shape, data = shown
    if dtype == DT_STRING:
        texts = [
            {"b64": base64.b64encode(item).decode()} if alias.endswith("_bytes") else item.decode()
            for item in data
        ]
        flat = np.empty(len(texts), object)
        flat[:] = texts
        return flat.reshape(shape).tolist()
    if dtype == DT_BFLOAT16:
        wide = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
        return wide.reshape(shape).tolist()
    storage = FLOATS.get(dtype) or INTEGERS.get(dtype, ("?",))[0]
    return np.frombuffer(data, storage).reshape(shape).tolist()


def encode(outputs: dict[str, Tensor], row: bool) -> Any:
    """The document that `_fastpath._probe_json_encode` prints, as Python values."""
    if not outputs:
        raise InvalidArgument("Cannot convert empty tensor map to JSON")
    first = next(iter(outputs.values()))
    for alias, (_, shape, _) in outputs.items() if row else ():
        if not shape:
            raise InvalidArgument(f"Tensor name: {alias} has no shape information ")
        if shape[0] != first[1][0]:
            raise InvalidArgument(
                f"Tensor name: {alias} has inconsistent batch size: {shape[0]} expecting: {first[1][0]}"
            )
    for dtype, shape, _ in outputs.values():
        if dtype not in (*FLOATS, *INTEGERS, DT_STRING, 10) and math.prod(shape):
            raise InvalidArgument(f"Failed to write JSON value for tensor type: {NAMES[dtype]}")
    lists = {alias: values(alias, shown) for alias, shown in outputs.items()}
    if not row:
        return {"outputs": lists if len(lists) > 1 else next(iter(lists.values()))}
    if len(lists) == 1:
        return {"predictions": next(iter(lists.values()))}
    return {
        "predictions": [dict(zip(lists, items, strict=True)) for items in zip(*lists.values(), strict=True)]
    }
