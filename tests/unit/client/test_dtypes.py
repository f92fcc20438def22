"""What arrays and Python values become on the wire, and what comes back."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tfs.client.dtypes import DataType, Typed, numpy_type, to_array, to_tensor
from tfs.errors import InvalidArgument
from tfs.messages import DataType as Reference


def test_the_numbers_are_tensorflows() -> None:
    ours = {one.name: int(one) for one in DataType}
    assert ours == {name: number for name, number in Reference.items() if number < 100}


@pytest.mark.parametrize(
    ("value", "dtype", "shape"),
    [
        ([1.0, 2.0], DataType.DT_FLOAT, (2,)),
        (1.5, DataType.DT_FLOAT, ()),
        ([[1, 2]], DataType.DT_INT32, (1, 2)),
        ([1, 1 << 40], DataType.DT_INT64, (2,)),
        (True, DataType.DT_BOOL, ()),
        ([], DataType.DT_FLOAT, (0,)),
        ("text", DataType.DT_STRING, ()),
        ([["a", b"b"]], DataType.DT_STRING, (1, 2)),
        (np.array([1.0]), DataType.DT_DOUBLE, (1,)),
        (np.float32(1), DataType.DT_FLOAT, ()),
        (np.arange(4), DataType.DT_INT64, (4,)),
        (np.array(["ab"]), DataType.DT_STRING, (1,)),
        (np.zeros(2, np.float16), DataType.DT_HALF, (2,)),
        (np.zeros(2, np.complex128), DataType.DT_COMPLEX128, (2,)),
        (np.zeros(2, ml_dtypes.bfloat16), DataType.DT_BFLOAT16, (2,)),
        (np.zeros(2, ml_dtypes.float8_e5m2), DataType.DT_FLOAT8_E5M2, (2,)),
        (np.zeros(2, ml_dtypes.int4), DataType.DT_INT4, (2,)),
        (Typed(np.zeros(2, np.uint16), DataType.DT_BFLOAT16), DataType.DT_BFLOAT16, (2,)),
        (Typed(np.zeros((), np.int8), DataType.DT_QINT8), DataType.DT_QINT8, ()),
    ],
)
def test_types_and_shapes(value: object, dtype: DataType, shape: tuple[int, ...]) -> None:
    found, found_shape, values = to_tensor("x", value)
    assert (found, found_shape) == (dtype, shape)
    if not isinstance(values, list):
        memoryview(values)  # the buffer protocol knows it


def test_strings_keep_their_bytes() -> None:
    assert to_tensor("x", [b"a\0", "ä"])[2] == [b"a\0", "ä".encode()]
    assert to_tensor("x", b"a\0")[2] == [b"a\0"]


def test_other_orders_of_bytes_and_axes_are_made_plain() -> None:
    _, shape, values = to_tensor("x", np.arange(6, dtype=">f4").reshape(2, 3).T)
    assert shape == (3, 2)
    assert bytes(values) == np.array([[0, 3], [1, 4], [2, 5]], "<f4").tobytes()


@pytest.mark.parametrize(
    "value",
    [
        [[1], [1, 2]],
        np.array(["2020-01-01"], "M8[D]"),
        object(),
        [None],
        Typed(np.zeros(2, np.float32), DataType.DT_BFLOAT16),
    ],
)
def test_what_is_no_tensor(value: object) -> None:
    with pytest.raises(InvalidArgument, match=r'inputs\["x"\]'):
        to_tensor("x", value)


def test_bfloat16_comes_back_as_ml_dtypes_has_it() -> None:
    values = memoryview(np.array([1.5], ml_dtypes.bfloat16).view(np.uint16).tobytes())
    array = to_array(DataType.DT_BFLOAT16, (1,), values)
    assert array.dtype == ml_dtypes.bfloat16
    assert float(array[0]) == 1.5


def test_bfloat16_without_ml_dtypes_is_its_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    assert numpy_type(DataType.DT_BFLOAT16) == np.uint16
    assert numpy_type(DataType.DT_FLOAT8_E5M2) == np.uint8


def test_types_that_cannot_be_sent() -> None:
    with pytest.raises(InvalidArgument, match="DT_RESOURCE"):
        numpy_type(DataType.DT_RESOURCE)
