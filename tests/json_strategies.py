"""Hypothesis strategies for REST predict bodies: right ones, nearly right ones and damaged ones.

Owns: what a client may post.  Must not know: what a codec makes of it.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

ALIASES = ["x", "y", "b64", "in put/é", 'q"\\']
# complex64, quint8 and resource-free dtypes that take no JSON are in on purpose
DTYPES = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 17, 19, 22, 23]
LIMITS = [2**n + d for n in (7, 8, 15, 16, 31, 32, 53, 63, 64) for d in (-1, 0, 1)]

text = st.text(max_size=8) | st.sampled_from(
    ["", "a\0b", '"\\/\b\f\n\r\t\x1f', "日本", "aGk=", "aGk", "/+8=", " aG k = ", "a", "@", "x" * 300]
)
integers = (
    st.integers(-5, 5) | st.sampled_from(LIMITS) | st.sampled_from(LIMITS).map(lambda n: -n) | st.integers()
)
floats = (
    st.floats()
    | st.floats(width=32)
    | st.sampled_from([0.0, -0.0, 1.0, 1e-40, 5e-324, 1e39, 65504.0, 65520.0, 6e-8, 1e21, 1e22, 1e-6, 1e-7])
)
base64_objects = st.fixed_dictionaries({"b64": text})


def matching(dtype: int) -> st.SearchStrategy[Any]:
    """Scalars that a dtype takes, mostly."""
    if dtype == 7:
        return text | base64_objects
    if dtype == 10:
        return st.booleans()
    return floats | integers if dtype in (1, 2, 14, 19) else integers


scalars = (
    st.none()
    | st.booleans()
    | integers
    | floats
    | text
    | base64_objects
    | st.fixed_dictionaries({"b64": text, "x": text})
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*ALIASES, "z", ""]), inner, max_size=3)
    ),
)


@st.composite
def arrays(draw: st.DrawFn, dtype: int, shape: list[int]) -> Any:
    if not shape:
        return draw(matching(dtype))
    return [draw(arrays(dtype, shape[1:])) for _ in range(shape[0])]


@st.composite
def nearly(draw: st.DrawFn, value: Any) -> Any:
    """`value` with, now and then, something else somewhere in it."""
    if draw(st.integers(0, 9)) or not isinstance(value, list | dict):
        return value if draw(st.integers(0, 9)) else draw(anything)
    if isinstance(value, list):
        return [draw(nearly(item)) for item in value] + (
            [draw(anything)] if draw(st.integers(0, 4)) == 0 else []
        )
    return {key: draw(nearly(item)) for key, item in value.items()}


signatures = st.dictionaries(st.sampled_from(ALIASES), st.sampled_from(DTYPES), min_size=1, max_size=3)
shapes = st.lists(st.integers(0, 3), max_size=3)


@st.composite
def documents(draw: st.DrawFn, inputs: dict[str, int]) -> Any:
    """A body for the inputs, right but for what `nearly` does to it."""
    count = draw(st.integers(1, 3))
    style = draw(st.sampled_from(["rows", "named", "columns", "bare", "odd"]))
    first = min(inputs, key=str.encode)
    if style == "rows":
        shape = draw(shapes)
        value: Any = {"instances": [draw(arrays(inputs[first], shape)) for _ in range(count)]}
    elif style == "named":
        wanted = {alias: draw(shapes) for alias in inputs}
        value = {
            "instances": [
                {alias: draw(arrays(inputs[alias], wanted[alias])) for alias in inputs} for _ in range(count)
            ]
        }
    elif style == "columns":
        value = {"inputs": {alias: draw(arrays(dtype, draw(shapes))) for alias, dtype in inputs.items()}}
    elif style == "bare":
        value = {"inputs": draw(arrays(inputs[first], draw(shapes)))}
    else:
        value = draw(
            st.dictionaries(
                st.sampled_from(["instances", "inputs", "signature_name", "other"]), anything, max_size=4
            )
        )
    if draw(st.integers(0, 5)) == 0:
        value = {"signature_name": draw(st.sampled_from(["serving_default", "", "nope", 3, None])), **value}
    if draw(st.integers(0, 5)) == 0:
        value = {**value, "signature_name": draw(st.sampled_from(["serving_default", "", "nope"]))}
    return draw(nearly(value))


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, dict[str, int]]:
    inputs = draw(signatures)
    document = draw(documents(inputs))
    printed = json.dumps(
        document, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, None, 1]))
    )
    return printed.encode("utf-8", "surrogatepass"), inputs


@st.composite
def damaged(draw: st.DrawFn) -> tuple[bytes, dict[str, int]]:
    """A body with a few bytes changed, removed or put in."""
    body, inputs = draw(bodies())
    spoiled = bytearray(body)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(spoiled)))
        kind = draw(st.integers(0, 2))
        spoiled[at : at + kind] = draw(
            st.sampled_from(
                [b"", b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b"1", b"-", b".", b"e5", b"\0", b" "]
            )
        )
    return bytes(spoiled), inputs
