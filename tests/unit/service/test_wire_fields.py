"""The reader of top-level fields against protobuf's own encoding, at every truncation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfs import messages
from tfs.service.wire import fields


def made() -> bytes:
    request = messages.MultiInferenceRequest()
    request.tasks.add(method_name="a" * 200)
    request.tasks.add()
    request.input.example_list.examples.add().features.feature["x"].float_list.value.append(1.0)
    return bytes(request.SerializeToString())


def test_fields_are_those_that_protobuf_wrote() -> None:
    request = messages.MultiInferenceRequest.FromString(made())
    assert list(fields(made())) == [
        (1, request.tasks[0].SerializeToString()),
        (1, b""),
        (2, request.input.SerializeToString()),
    ]


def test_other_wire_types_are_skipped() -> None:
    group = b"\x1b\x08\x05\x23\x0d\x00\x00\x00\x00\x24\x12\x01a\x1c"  # 3 { 1: 5  4 { 1: fixed32 }  2: "a" }
    data = b"\x08\x96\x01" + b"\x11" + bytes(8) + b"\x1d" + bytes(4) + group + b"\x0a\x02hi"
    assert list(fields(data)) == [(1, b"hi")]


def test_a_deep_group_is_no_recursion() -> None:
    assert list(fields(b"\x0b" * 100_000 + b"\x0c" * 100_000 + b"\x12\x00")) == [(2, b"")]


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a", b"\x0a\x05hi", b"\x08", b"\x11\x00", b"\x1d\x00", b"\x0b", b"\x0c", b"\x0b\x14", b"\x0e", b"\x0f",
        b"\x80" * 11, b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0b\x0a\x7f\x0c",
    ],
)  # fmt: skip
def test_damage_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        list(fields(data))


def test_every_truncation_ends_or_is_refused() -> None:
    whole = made()
    for end in range(len(whole)):
        try:
            found = list(fields(whole[:end]))
        except ValueError:
            continue
        assert found == list(fields(whole))[: len(found)]


@given(st.binary(max_size=200))
def test_any_bytes_are_fields_or_a_value_error(data: bytes) -> None:
    try:
        found = list(fields(data))
    except ValueError:
        return
    assert sum(len(payload) for _, payload in found) <= len(data)
