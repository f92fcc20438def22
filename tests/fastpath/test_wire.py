"""The wire format itself: varints, tags, unknown fields, groups, UTF-8, and lengths that lie.

Every body runs on both codecs; what is malformed is INVALID_ARGUMENT on both.
"""

from __future__ import annotations

import pytest
from wiretools import dims, entry, field, fixed32, fixed64, floats, number, request, spec, tensor, varint

from tfs import _fastpath, errors

X = entry("x", tensor(1, [1], field(5, floats(7))))
SEVEN = (1, (1,), floats(7))


def group(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 3) + body + varint(number << 3 | 4)


def nested(depth: int) -> bytes:
    return group(99, nested(depth - 1)) if depth else b""


def test_the_compiled_module_is_the_one_in_use() -> None:
    assert _fastpath.__file__.endswith(".so")


UNKNOWN = {
    "varint": number(1999, 2**64 - 1),
    "fixed64": fixed64(1999, bytes(8)),
    "bytes": field(1999, b"\xff" * 300),
    "fixed32": fixed32(1999, bytes(4)),
    "empty group": group(1999, b""),
    "full group": group(1999, number(1, 5) + field(2, b"abc") + fixed32(3, bytes(4)) + fixed64(4, bytes(8))),
    "groups in groups": nested(50),
    "largest field number": number(2**29 - 1, 1),
    "known number, other wire type": number(2, 5) + fixed32(1, bytes(4)) + fixed64(3, bytes(8)),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_fields_are_skipped_at_every_level(codec, name: str) -> None:
    unknown = UNKNOWN[name]
    dim = field(2, number(1, 1) + (unknown if name != "known number, other wire type" else b""))
    proto = number(1, 1) + unknown.replace(number(2, 5), b"") + field(2, dim) + field(5, floats(7))
    inner = field(2, field(1, b"x") + unknown.replace(number(2, 5), b"") + field(2, proto))
    head = field(1, field(1, b"m") + unknown)
    shown = codec.decode(unknown + head + inner + unknown)
    assert shown["model"] == "m"
    assert shown["inputs"] == {"x": SEVEN}


MALFORMED = {
    "tag only": varint(10 << 3 | 2),
    "field number zero": b"\x00\x00",
    "field number zero, bytes": b"\x02\x00",
    "wire type 6": varint(1999 << 3 | 6),
    "wire type 7": varint(1999 << 3 | 7),
    "tag beyond 32 bits": b"\xf8\xff\xff\xff\xff\x01\x00",
    "unfinished tag": b"\x80",
    "unfinished varint": varint(1999 << 3) + b"\x80\x80",
    "varint of eleven bytes": varint(1999 << 3) + b"\x80" * 10 + b"\x01",
    "fixed32 cut": varint(1999 << 3 | 5) + b"abc",
    "fixed64 cut": varint(1999 << 3 | 1) + b"abcdefg",
    "length beyond the end": varint(1999 << 3 | 2) + varint(4) + b"abc",
    "length 2^31": varint(1999 << 3 | 2) + varint(2**31) + b"abc",
    "length 2^63": varint(1999 << 3 | 2) + varint(2**63) + b"abc",
    "length 2^64-1": varint(1999 << 3 | 2) + varint(2**64 - 1) + b"abc",
    "group never ends": varint(1999 << 3 | 3),
    "group ends alone": varint(1999 << 3 | 4),
    "group ends as another": varint(1999 << 3 | 3) + varint(1998 << 3 | 4),
    "groups too deep": nested(200),
    "text": b"this is not protobuf",
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("level", ["request", "spec", "entry", "tensor", "shape", "dim", "version"])
def test_malformed_bytes_are_refused_at_every_level(codec, level: str, name: str) -> None:
    bad = MALFORMED[name]
    made = {
        "request": request(X) + bad,
        "spec": field(1, field(1, b"m") + bad) + X,
        "entry": request(field(2, field(1, b"x") + bad)),
        "tensor": request(entry("x", tensor(1, [1], bad))),
        "shape": request(entry("x", number(1, 1) + field(2, bad))),
        "dim": request(entry("x", number(1, 1) + field(2, field(2, bad)))),
        "version": field(1, field(2, bad)) + X,
    }[level]
    with pytest.raises(errors.InvalidArgument, match="PredictRequest"):
        codec.decode(made)


@pytest.mark.parametrize("padding", range(1, 10))
def test_varints_may_be_longer_than_needed(codec, padding: int) -> None:
    value = b"\x85" + b"\x80" * (padding - 1) + b"\x00"
    assert codec.decode(field(1, field(2, b"\x08" + value)))["version"] == 5


def test_bits_beyond_64_are_dropped(codec) -> None:
    assert codec.decode(field(1, field(2, b"\x08" + b"\xff" * 9 + b"\x7f")))["version"] == -1


VALID_UTF8 = [
    "",
    "ascii",
    "é",
    "\u07ff",
    "\u0800",
    "日本",
    "\ud7ff",
    "\ue000",
    "\uffff",
    "\U00010000",
    "\U0010ffff",
]
INVALID_UTF8 = [
    b"\x80", b"\xbf", b"\xc0\x80", b"\xc1\xbf", b"\xc3", b"\xc3(", b"\xe0\x80\x80", b"\xe0\x9f\xbf", b"\xe2\x82", b"\xe2(\xa1",
    b"\xe2\x82(", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf0\x80\x80\x80", b"\xf0\x8f\xbf\xbf", b"\xf0\x9f\x98", b"\xf4\x90\x80\x80",
    b"\xf5\x80\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xff", b"\xfe", b"ok\xffok", b"12345678\xe2\x82(",
]  # fmt: skip


def in_string_fields(text: bytes) -> dict[str, bytes]:
    return {
        "model": field(1, field(1, text)),
        "signature": field(1, field(3, text)),
        "label": field(1, field(4, text)),
        "alias": entry(text, b""),
        "filter": field(3, text),
        "dim name": entry("x", number(1, 1) + field(2, field(2, field(2, text)))),
    }


@pytest.mark.parametrize("place", in_string_fields(b""))
def test_utf8_strings_are_taken(codec, place: str) -> None:
    for text in VALID_UTF8:
        codec.decode(in_string_fields(text.encode())[place])


@pytest.mark.parametrize("place", in_string_fields(b""))
def test_other_bytes_in_string_fields_are_refused(codec, place: str) -> None:
    for text in INVALID_UTF8:
        with pytest.raises(errors.InvalidArgument):
            codec.decode(in_string_fields(text)[place])


def test_string_values_are_bytes_and_may_hold_anything(codec) -> None:
    proto = tensor(7, [1], field(8, b"\xff\x00"))
    assert codec.tensor(request(entry("x", proto))) == (7, (1,), [b"\xff\x00"])


def test_fields_may_come_in_any_order(codec) -> None:
    proto = field(5, floats(7)) + dims(1) + number(1, 1)
    made = field(2, field(2, proto) + field(1, b"x")) + field(3, b"y") + spec("m")
    assert codec.decode(made)["inputs"] == {"x": SEVEN}
