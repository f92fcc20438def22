"""PredictRequest: the model spec, the map of inputs, the filter; merging, duplicates, truncation. Bodies run on both codecs."""

from __future__ import annotations

import random
import time

import pytest
from wiretools import entry, field, floats, number, request, spec, tensor

from tfs import _fastpath, errors, messages

ONE = tensor(1, [1], field(5, floats(1)))
TWO = tensor(1, [1], field(5, floats(2)))
SHOWN_ONE, SHOWN_TWO = (1, (1,), floats(1)), (1, (1,), floats(2))


def test_field_numbers_are_those_of_the_descriptors(fake_tensors: None) -> None:
    for name, fields in _fastpath._probe_fields().items():
        descriptor = {
            "Dim": lambda: messages.TensorShapeProto.DESCRIPTOR.nested_types_by_name["Dim"],
            "InputsEntry": lambda: messages.PredictRequest.DESCRIPTOR.nested_types_by_name["InputsEntry"],
        }.get(name, lambda name=name: getattr(messages, name).DESCRIPTOR)()
        assert fields == {field: descriptor.fields_by_name[field].number for field in fields}, name


# --- the model spec -----------------------------------------------------------------------------------------------------------------


def test_a_full_request(codec) -> None:
    head = spec("m", field(2, number(1, 7)) + field(3, b"sig"))
    made = request(entry("a", ONE), field(3, b"out2"), entry("b", TWO), field(3, b"out1"), head=head)
    assert codec.decode(made) == {
        "model": "m", "version": 7, "label": None, "signature": "sig", "filter": ["out2", "out1"],
        "inputs": {"a": SHOWN_ONE, "b": SHOWN_TWO}, "payload_bytes": len(made),
    }  # fmt: skip


def test_an_empty_request_has_no_spec(codec) -> None:
    assert codec.decode(b"") == {
        "model": None, "version": None, "label": None, "signature": "", "filter": [], "inputs": {}, "payload_bytes": 0,
    }  # fmt: skip


def test_an_empty_spec_is_one(codec) -> None:
    assert codec.decode(field(1, b""))["model"] == ""


@pytest.mark.parametrize(
    ("body", "version", "label"),
    [
        (b"", None, None),
        (field(2, b""), 0, None),
        (field(2, number(1, 0)), 0, None),
        (field(2, number(1, 2**64 - 1)), -1, None),
        (field(2, number(1, 5) + number(1, 6)), 6, None),
        (field(2, number(1, 5)) + field(2, b""), 5, None),
        (field(2, number(1, 5)) + field(2, number(1, 6)), 6, None),
        (field(4, b"stable"), None, "stable"),
        (field(4, b""), None, ""),
        (field(2, number(1, 5)) + field(4, b"stable"), None, "stable"),
        (field(4, b"stable") + field(2, number(1, 5)), 5, None),
        (field(2, number(1, 5)) + field(4, b"x") + field(2, b""), 0, None),
    ],
)
def test_version_and_label_are_a_oneof(codec, body: bytes, version: int | None, label: str | None) -> None:
    for made in (spec("m", body), spec("m") + field(1, body)):
        shown = codec.decode(made)
        assert (shown["version"], shown["label"]) == (version, label)


def test_specs_merge(codec) -> None:
    made = field(1, field(1, b"first") + field(3, b"sig")) + entry("x", ONE) + field(1, field(1, b"second"))
    shown = codec.decode(made)
    assert (shown["model"], shown["signature"]) == ("second", "sig")


# --- the map of inputs --------------------------------------------------------------------------------------------------------------


def test_a_later_key_replaces_an_earlier_one(codec) -> None:
    made = request(entry("x", ONE), entry("y", ONE), entry("x", TWO))
    assert codec.decode(made)["inputs"] == {"x": SHOWN_TWO, "y": SHOWN_ONE}


def test_a_replaced_input_must_still_be_protobuf(codec) -> None:
    with pytest.raises(errors.InvalidArgument):
        codec.decode(request(entry("x", b"\xff"), entry("x", TWO)))


def test_what_an_entry_leaves_out_is_empty(codec) -> None:
    assert codec.decode(request(field(2, field(2, ONE))))["inputs"] == {"": SHOWN_ONE}
    assert codec.decode(request(field(2, field(1, b"x"))))["inputs"] == {"x": "bad"}
    assert codec.decode(request(field(2, b"")))["inputs"] == {"": "bad"}


def test_inside_an_entry_the_last_key_stands_and_values_merge(codec) -> None:
    twice = (
        field(1, b"a")
        + field(2, tensor(1, [2]))
        + field(1, b"b")
        + field(2, field(5, floats(3)))
        + field(2, field(5, floats(4)))
    )
    assert codec.decode(request(field(2, twice)))["inputs"] == {"b": (1, (2,), floats(3, 4))}


def test_many_values_in_one_entry_take_linear_time(fast) -> None:
    pieces = b"".join(field(2, field(5, floats(i))) for i in range(200_000))
    made = request(field(2, field(1, b"x") + field(2, tensor(1, [200_000])) + pieces))
    before = time.process_time()
    assert fast.tensor(made)[2] == floats(*range(200_000))
    assert time.process_time() - before < 2


@pytest.mark.parametrize("count", [15, 16, 17, 18, 300])
def test_duplicates_among_few_and_many_inputs(codec, count: int) -> None:
    order = list(range(count)) + random.Random(5).sample(range(count), 5)
    entries = [entry(f"key{i}", tensor(1, [1], field(5, floats(turn)))) for turn, i in enumerate(order)]
    last = {f"key{i}": (1, (1,), floats(turn)) for turn, i in enumerate(order)}
    assert codec.decode(request(*entries))["inputs"] == last


def test_all_inputs_under_one_key(codec) -> None:
    assert codec.decode(request(*[entry("x", ONE)] * 99, entry("x", TWO)))["inputs"] == {"x": SHOWN_TWO}


def test_a_hundred_thousand_inputs_are_not_quadratic(fast) -> None:
    made = request(*[entry(f"{i:05d}", ONE) for i in range(100_000)], entry("00007", TWO))
    before = time.process_time()
    shown = _fastpath._probe_decode(made, make=False)
    assert len(shown["inputs"]) == 100_000
    assert time.process_time() - before < 2


@pytest.mark.parametrize(("number", "text"), [(2, "131072 inputs"), (3, "131072 strings in output_filter")])
def test_too_many_entries_are_refused_before_anything_is_reserved(fast, number: int, text: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=text):
        fast.decode(field(number, b"") * 131_073)


def test_malformed_tensors_are_named(fast) -> None:
    with pytest.raises(errors.InvalidArgument, match=r'malformed TensorProto in inputs\["images"\]'):
        fast.decode(request(entry("images", tensor(1, [1], field(5, b"abc")))))


# --- the filter -----------------------------------------------------------------------------------------------------------------------


def test_the_filter_keeps_order_and_duplicates(codec) -> None:
    made = request(field(3, b"b"), field(3, b""), field(3, b"a"), field(3, b"b"))
    assert codec.decode(made)["filter"] == ["b", "", "a", "b"]


# --- damage ---------------------------------------------------------------------------------------------------------------------------


SEEDS = {
    "floats": request(entry("x", tensor(1, [2, 2], field(5, floats(1, 2, 3, 4))))),
    "strings": request(entry("s", tensor(7, [2], field(8, b"ab") + field(8, b"cd")))),
    "content": request(entry("x", tensor(3, [2], field(4, bytes(8)))), field(3, b"y")),
    "version": request(entry("x", ONE), head=spec("m", field(2, number(1, 300)) + field(3, b"sig"))),
    "label": request(entry("x", ONE), head=spec("m", field(4, b"stable"))),
    "packed ints": request(
        entry("i", tensor(9, [3], field(10, b"\x01\xac\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")))
    ),
    "unknown": request(field(99, b"abc"), entry("x", ONE + field(99, b"q")), number(98, 300)),
}


def outcome(codec, made: bytes):
    try:
        return codec.decode(made)
    except errors.InvalidArgument:
        return "INVALID_ARGUMENT"


@pytest.mark.parametrize("seed", SEEDS)
def test_every_truncation_ends_as_the_twin_says(both, seed: str) -> None:
    fast, slow = both
    made = SEEDS[seed]
    assert outcome(fast, made) != "INVALID_ARGUMENT"
    refused = 0
    for length in range(len(made)):
        found = outcome(fast, made[:length])
        assert found == outcome(slow, made[:length]), length
        refused += found == "INVALID_ARGUMENT"
    assert refused > len(made) // 2


@pytest.mark.parametrize("seed", SEEDS)
def test_every_byte_set_to_its_extremes_ends_as_the_twin_says(both, seed: str) -> None:
    fast, slow = both
    for position in range(len(SEEDS[seed])):
        for value in (0x00, 0x01, 0x7F, 0x80, 0xFF):
            damaged = bytearray(SEEDS[seed])
            damaged[position] = value
            assert outcome(fast, bytes(damaged)) == outcome(slow, bytes(damaged)), (position, value)


@pytest.mark.parametrize("level", ["entry", "tensor", "shape", "chunk"])
@pytest.mark.parametrize("length", [2**20, 2**31 - 1, 2**31, 2**32, 2**62, 2**63, 2**64 - 1])
def test_lengths_that_lie_allocate_nothing(codec, level: str, length: int) -> None:
    from reference import varint

    lie = {
        "entry": b"\x12",
        "tensor": b"\x12\x0a\x12",
        "shape": b"\x12\x0c\x12\x0a\x12",
        "chunk": b"\x12\x0c\x12\x0a\x2a",
    }[level]
    before = _fastpath.fake_counts()["bytes"]
    with pytest.raises(errors.InvalidArgument):
        codec.decode(spec("m") + lie + varint(length) + b"ab")
    assert _fastpath.fake_counts()["bytes"] == before
