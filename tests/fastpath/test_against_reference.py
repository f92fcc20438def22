"""The compiled codec against its slow twin, on whatever Hypothesis thinks of: the same results, the same refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import strategies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfs import _fastpath, errors, messages

pytestmark = pytest.mark.usefixtures("fake_tensors")
relaxed = settings(suppress_health_check=list(HealthCheck), max_examples=200)
FLOATS = {1: "<u4", 2: "<u8", 8: "<u4", 18: "<u8"}
EXPONENT = {"<u4": (0x7F800000, 0x007FFFFF, 0x7FC00000), "<u8": (0x7FF << 52, (1 << 52) - 1, 0x7FF8 << 48)}


def plain_nans(shown: Any) -> Any:
    """Every NaN as the same one: numbers that pass through Python lose the bits inside."""
    if isinstance(shown, str) or shown[0] not in FLOATS:
        return shown
    kind = FLOATS[shown[0]]
    exponent, fraction, plain = EXPONENT[kind]
    bits = np.frombuffer(shown[2], kind).copy()
    bits[(bits & exponent == exponent) & (bits & fraction != 0)] = plain
    return (*shown[:2], bits.tobytes())


def decoded(decode: Any, request: bytes) -> Any:
    try:
        shown = decode(request)
    except errors.InvalidArgument:
        return "INVALID_ARGUMENT"
    shown["inputs"] = {alias: plain_nans(tensor) for alias, tensor in shown["inputs"].items()}
    return shown


@relaxed
@given(strategies.requests())
def test_requests_decode_alike(request: bytes) -> None:
    shown = decoded(_fastpath._probe_decode, request)
    assert shown != "INVALID_ARGUMENT"
    assert shown == decoded(reference.decode, request)


@relaxed
@given(strategies.damaged())
def test_damaged_requests_end_alike(request: bytes) -> None:
    assert decoded(_fastpath._probe_decode, request) == decoded(reference.decode, request)


@relaxed
@given(st.binary(max_size=60))
def test_any_bytes_end_alike(request: bytes) -> None:
    assert decoded(_fastpath._probe_decode, request) == decoded(reference.decode, request)


def canonical(response: bytes) -> bytes:
    """Map order and NaN bits aside: parsed and written again by protobuf, whose floats keep their bits."""
    message = messages.PredictResponse.FromString(response)
    written: bytes = message.SerializeToString(deterministic=True)
    return written


def plain_outputs(made: list[Any]) -> list[Any]:
    return [(alias, *plain_nans((dtype, shape, data))) for alias, dtype, shape, data in made]


@relaxed
@given(strategies.outputs(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.text(max_size=3))
def test_responses_encode_alike(made: list[Any], as_content: bool, version: int, signature: str) -> None:
    arguments = (b"model", version, signature.encode(), plain_outputs(made), as_content)
    fast, slow = _fastpath._probe_encode(*arguments), reference.encode(*arguments)
    assert len(fast) == len(slow)
    assert canonical(fast) == canonical(slow)


@relaxed
@given(strategies.outputs(), st.booleans(), st.data())
def test_rows_of_a_batch_encode_alike(made: list[Any], as_content: bool, data: st.DataObject) -> None:
    shared = min((shape[0] for _, _, shape, _ in made if shape), default=0)
    begin = data.draw(st.integers(0, shared))
    count = data.draw(st.integers(0, shared - begin))
    wanted = data.draw(st.none() | st.permutations(range(len(made))).map(lambda order: order[:2]))
    arguments = (b"m", 1, b"", plain_outputs(made), as_content, (shared, begin, count), wanted)
    assert canonical(_fastpath._probe_encode(*arguments)) == canonical(reference.encode(*arguments))


@relaxed
@given(strategies.outputs(), st.booleans())
def test_what_is_encoded_decodes_to_the_same(made: list[Any], as_content: bool) -> None:
    """A reply's outputs sent back as inputs: one is the inverse of the other."""
    reply = messages.PredictResponse.FromString(_fastpath._probe_encode(b"m", 1, b"", made, as_content))
    request = messages.PredictRequest(model_spec={"name": "m"})
    for alias, proto in reply.outputs.items():
        request.inputs[alias].CopyFrom(proto)
    shown = _fastpath._probe_decode(request.SerializeToString())["inputs"]
    assert shown == {alias.decode(): (dtype, shape, data) for alias, dtype, shape, data in made}
