"""The compiled JSON codec against its slow twin, on whatever Hypothesis thinks of: the same tensors, the same codes and texts.

TFS_FUZZ_BODIES sets how many mutated bodies the last test throws at the decoder (100,000 by default).
"""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path
from typing import Any

import json_strategies
import numpy as np
import pytest
import reference_json
import reference_numbers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfs import _fastpath, errors

pytestmark = pytest.mark.usefixtures("fake_tensors")
relaxed = settings(suppress_health_check=list(HealthCheck), max_examples=300)
CORPUS = Path(__file__).parent / "corpus_json"
STORAGE = {1: "<f4", 2: "<f8", 19: "<f2"}
WIDTHS = {
    1: 4,
    2: 8,
    3: 4,
    4: 1,
    5: 2,
    6: 1,
    7: 0,
    8: 8,
    9: 8,
    10: 1,
    12: 1,
    14: 2,
    17: 2,
    19: 2,
    22: 4,
    23: 8,
}
BODIES = int(os.environ.get("TFS_FUZZ_BODIES", "100000"))


def plain(shown: Any) -> Any:
    """NaNs compare equal whatever bits they have."""
    if not isinstance(shown, tuple) or shown[0] not in STORAGE:
        return shown
    values = np.frombuffer(shown[2], STORAGE[shown[0]])
    return (
        *shown[:2],
        values.tobytes()
        if not np.isnan(values).any()
        else [None if math.isnan(v) else v for v in values.tolist()],
    )


def outcome(decode: Any, body: bytes, inputs: dict[str, int]) -> Any:
    try:
        found = decode(body, inputs)
    except reference_json.Unreadable:
        return "unreadable"
    except errors.TfsError as error:
        return int(error.code), error.message
    return {alias: plain(shown) for alias, shown in found.items()}


def check_alike(body: bytes, inputs: dict[str, int]) -> None:
    fast = outcome(_fastpath._probe_json_decode, body, inputs)
    slow = outcome(reference_json.decode, body, inputs)
    if isinstance(fast, tuple) and fast[1].startswith("JSON Parse error"):
        # Python's json is laxer here: numbers beyond DBL_MAX, a bare `0.`, lone high surrogates
        assert slow in ("unreadable", fast) or "number" in fast[1].lower() or "surrogate" in fast[1]
    elif (
        slow != "unreadable"
    ):  # where Python's json is stricter (Inf, a byte order mark, NUL) there is nothing to compare
        assert fast == slow


@relaxed
@given(json_strategies.bodies())
def test_bodies_end_alike(posted: tuple[bytes, dict[str, int]]) -> None:
    check_alike(*posted)


# Lists of one number each (images of one channel) have a way of their own through the decoder.
ONES = (
    *("[[1],[2]]", "[[1], [2.5] ,\n[ 3 ]]", "[[[1],[2]],[[3],[4]]]", "[[1e3],[-0],[1E-2]]", "[[NaN],[1]]", "[[true],[false]]"),
    *("[[1],[2,3]]", "[[1],[]]", "[[],[1]]", "[[1],2]", "[1,[2]]", "[[1],[[2]]]", "[[[1]],[2]]"),
    *("[[1],]", "[[1],[2]", "[[1][2]]", "[[1],[2]]]", "[[1,],[2]]", "[[01],[2]]", "[[1],[-]]"),
    *('[["a"],["b"]]', '[["a"],[1]]', '[[1],["a"]]', "[[1],[null]]", '[[1],[{"b64":"YQ=="}]]', "[[1],[2147483648]]", "[[1],[1.5]]"),
)  # fmt: skip


@pytest.mark.parametrize("dtype", [1, 2, 3, 7, 9, 10])
@pytest.mark.parametrize("form", ['{"inputs": %s}', '{"instances": %s}'], ids=["columns", "rows"])
@pytest.mark.parametrize("rows", ONES)
def test_lists_of_one_value_end_alike(rows: str, form: str, dtype: int) -> None:
    check_alike((form % rows).encode(), {"x": dtype})


@relaxed
@given(json_strategies.damaged())
def test_damaged_bodies_end_alike(posted: tuple[bytes, dict[str, int]]) -> None:
    check_alike(*posted)


@relaxed
@given(
    st.binary(max_size=40)
    | st.text(alphabet='{}[]:,"\\0123456789.eE+-truefalsnINnity \n', max_size=40).map(str.encode)
)
def test_any_bytes_are_answered(body: bytes) -> None:
    """Hypothesis also draws the constants that it finds in the sources, whole requests among them: those decode."""
    found = outcome(_fastpath._probe_json_decode, body, {"x": 1})
    assert isinstance(found, dict) or found[0] == errors.Code.INVALID_ARGUMENT


@relaxed
@given(st.floats() | st.floats(width=32), st.sampled_from([1, 2]))
def test_printed_floats_read_back(value: float, dtype: int) -> None:
    with np.errstate(over="ignore"):
        array = np.array([value], STORAGE[dtype])
    printed = _fastpath._probe_json_encode({"y": (dtype, (1,), array.tobytes())}, True)
    back = json.loads(printed)["predictions"]
    assert isinstance(back[0], float)
    np.testing.assert_array_equal(np.array(back, STORAGE[dtype]), array)
    assert math.copysign(1, back[0]) == math.copysign(1, float(array[0])) or math.isnan(back[0])


@relaxed
@given(
    st.text(alphabet="0123456789", min_size=1, max_size=24),
    st.integers(-330, 300),
    st.integers(0, 24),
    st.booleans(),
)
def test_decimal_text_is_rounded_as_python_rounds_it(
    digits: str, exponent: int, point: int, minus: bool
) -> None:
    lead = (digits[:point] or "0").lstrip("0") or "0"
    text = f"{'-' if minus else ''}{lead}.{digits[point:] or '0'}e{exponent}"
    value = float(text)
    if not math.isfinite(value):
        return
    _, _, data = _fastpath._probe_json_decode(f'{{"inputs": {text}}}'.encode(), {"x": 2})["x"]
    expected = value if abs(value) >= 2.0**-1022 else math.copysign(0.0, value)
    assert data == np.array(expected, "<f8").tobytes()


@given(
    st.text("0123456789", min_size=1, max_size=40),
    st.integers(-290, 250),
    st.integers(1, 25),
    st.booleans(),
)
def test_numbers_are_shown_with_the_digits_of_the_reference(
    digits: str, exponent: int, point: int, minus: bool
) -> None:
    lead = (digits[:point] or "0").lstrip("0") or "0"
    text = f"{'-' if minus else ''}{lead}.{digits[point:] or '0'}e{exponent}"
    value = reference_numbers.fast(text)
    if value == 0 or abs(value) >= 2.0**-1022:
        assert _fastpath.json_excerpt(f"[{text}]".encode()) == f"[{reference_numbers.shown(value)}]"


outputs = st.dictionaries(
    st.sampled_from(["y", "z_bytes", 'a"\\\n', "日本"]),
    st.sampled_from(json_strategies.DTYPES),
    min_size=1,
    max_size=3,
)


@st.composite
def results(draw: st.DrawFn) -> dict[str, Any]:
    rows = draw(st.integers(0, 3))
    made = {}
    for alias, dtype in draw(outputs).items():
        shape = (rows, *draw(json_strategies.shapes)) if draw(st.integers(0, 9)) else ()
        count = math.prod(shape)
        width = WIDTHS[dtype]
        if dtype == 7:
            data: Any = [draw(json_strategies.text).encode() for _ in range(count)]
        elif dtype == 10:
            data = bytes(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
        else:
            data = draw(st.binary(min_size=count * width, max_size=count * width))
        made[alias] = (dtype, shape, data)
    return made


def values_alike(printed: Any, expected: Any) -> None:
    """The same document; floats may differ by what float32 cannot hold."""
    assert type(printed) is type(expected)
    if isinstance(printed, dict):
        assert list(printed) == list(expected)
        for key in printed:
            values_alike(printed[key], expected[key])
    elif isinstance(printed, list):
        assert len(printed) == len(expected)
        for a, b in zip(printed, expected, strict=True):
            values_alike(a, b)
    elif isinstance(printed, float) and not math.isnan(expected):
        assert printed == expected or np.float32(printed) == np.float32(expected)
    elif not isinstance(printed, float):
        assert printed == expected


def printed_or_refused(encode: Any, made: dict[str, Any], row: bool) -> tuple[Any, str]:
    try:
        return encode(made, row), ""
    except errors.InvalidArgument as error:
        return None, error.message


@relaxed
@given(results(), st.booleans())
def test_replies_are_alike(made: dict[str, Any], row: bool) -> None:
    printed, refused = printed_or_refused(_fastpath._probe_json_encode, made, row)
    expected, expected_refusal = printed_or_refused(reference_json.encode, made, row)
    assert refused == expected_refusal
    if not refused:
        values_alike(json.loads(printed), expected)


# --- the corpus ---------------------------------------------------------------------------------------------------------------


def kept() -> list[tuple[bytes, dict[str, int]]]:
    """Each file: one line with the inputs, then the body."""
    pairs = []
    for path in sorted(CORPUS.iterdir()):
        head, _, body = path.read_bytes().partition(b"\n")
        pairs.append((body, json.loads(head)))
    return pairs


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_kept_bodies_end_alike(path: Path) -> None:
    head, _, body = path.read_bytes().partition(b"\n")
    check_alike(body, json.loads(head))


def test_every_truncation_is_answered() -> None:
    for body, inputs in kept():
        if len(body) < 4000:
            for end in range(len(body)):
                check_alike(body[:end], inputs)


def mutate(body: bytes, chance: random.Random) -> bytes:
    spoiled = bytearray(body)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(spoiled) + 1)
        spoiled[at : at + chance.randrange(4)] = chance.choice(
            (
                b"",
                b"",
                b"[",
                b"]",
                b"{",
                b"}",
                b",",
                b":",
                b'"',
                b"\\",
                b"\\u",
                b"9",
                b"-",
                b".",
                b"e",
                b"E-",
                b"\0",
                b"NaN",
                b"null",
                b"\xff",
            )
        )
    return bytes(spoiled)


def test_mutated_bodies_are_answered() -> None:
    """Whatever comes: tensors or an error with a code; never a crash, a hang or a tensor left behind."""
    chance = random.Random(20)
    seeds = [pair for pair in kept() if len(pair[0]) < 2000]
    tensors, codes = 0, set()
    for _ in range(BODIES):
        body, inputs = chance.choice(seeds)
        try:
            _fastpath._probe_json_decode(mutate(body, chance), inputs)
            tensors += 1
        except errors.TfsError as error:
            codes.add(int(error.code))
    assert codes == {3, 12}
    assert BODIES // 100 < tensors < BODIES
