"""REST predict bodies through the compiled decoder, shown as Python values.

Owns: `decode`, `values`, `column`, `refusal`, the numbers of the dtypes.  Must not know: what a test expects.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tfs import _fastpath, errors

FLOAT, DOUBLE, INT32, UINT8, INT16, INT8, STRING, COMPLEX, INT64, BOOL = range(1, 11)
QUINT8, BFLOAT16, UINT16, HALF, UINT32, UINT64 = 12, 14, 17, 19, 22, 23
STORAGE = {
    1: "<f4",
    2: "<f8",
    3: "<i4",
    4: "u1",
    5: "<i2",
    6: "i1",
    9: "<i8",
    10: "?",
    17: "<u2",
    19: "<f2",
    22: "<u4",
    23: "<u8",
}


def decode(
    body: str | bytes, inputs: dict[str, int] | int = FLOAT, signature: str = "serving_default"
) -> dict[Any, Any]:
    wanted = {"x": inputs} if isinstance(inputs, int) else inputs
    raw = body.encode() if isinstance(body, str) else body
    found: dict[Any, Any] = _fastpath._probe_json_decode(raw, wanted, signature.encode())
    return found


def values(shown: tuple[int, tuple[int, ...], Any]) -> Any:
    """The tensor as nested lists."""
    dtype, shape, data = shown
    if dtype == STRING:
        flat = np.empty(len(data), object)
        flat[:] = data
        return flat.reshape(shape).tolist()
    return np.frombuffer(data, STORAGE[dtype]).reshape(shape).tolist()


def column(text: str, dtype: int) -> Any:
    """What `{"inputs": text}` becomes."""
    return values(decode(f'{{"inputs": {text}}}', dtype)["x"])


def refusal(
    body: str | bytes, inputs: dict[str, int] | int = FLOAT, code: int = 3, signature: str = "serving_default"
) -> str:
    with pytest.raises(errors.TfsError) as caught:
        decode(body, inputs, signature)
    assert caught.value.code == code
    return caught.value.message
