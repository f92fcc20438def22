"""TensorFlow's data types and numpy's: which is which, and what Python values become.

Owns: the table of DataTypes, the way from anything array-like to (DataType, shape, little-endian memory) and back. The types that
numpy lacks (bfloat16, float8, 4-bit integers) are those of the package ml_dtypes where it is installed, else unsigned integers of
their width. Must not know: messages, channels. Pure functions; any thread.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from tfs.errors import InvalidArgument

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]
else:
    Array = np.ndarray  # numpy.typing costs a tenth of the import
Values = memoryview | list[bytes]


class DataType(enum.IntEnum):
    """tensorflow.DataType."""

    DT_INVALID = 0
    DT_FLOAT = 1
    DT_DOUBLE = 2
    DT_INT32 = 3
    DT_UINT8 = 4
    DT_INT16 = 5
    DT_INT8 = 6
    DT_STRING = 7
    DT_COMPLEX64 = 8
    DT_INT64 = 9
    DT_BOOL = 10
    DT_QINT8 = 11
    DT_QUINT8 = 12
    DT_QINT32 = 13
    DT_BFLOAT16 = 14
    DT_QINT16 = 15
    DT_QUINT16 = 16
    DT_UINT16 = 17
    DT_COMPLEX128 = 18
    DT_HALF = 19
    DT_RESOURCE = 20
    DT_VARIANT = 21
    DT_UINT32 = 22
    DT_UINT64 = 23
    DT_FLOAT8_E5M2 = 24
    DT_FLOAT8_E4M3FN = 25
    DT_FLOAT8_E4M3FNUZ = 26
    DT_FLOAT8_E4M3B11FNUZ = 27
    DT_FLOAT8_E5M2FNUZ = 28
    DT_INT4 = 29
    DT_UINT4 = 30
    DT_INT2 = 31
    DT_UINT2 = 32
    DT_FLOAT4_E2M1FN = 33


# What the memory of a tensor holds, by numpy's names; for the last group ml_dtypes has a type of the name in OWN_NAMES.
_STORAGE: Final[dict[int, str]] = {
    1: "f4", 2: "f8", 3: "i4", 4: "u1", 5: "i2", 6: "i1", 8: "c8", 9: "i8", 10: "?", 17: "u2", 18: "c16", 19: "f2", 22: "u4", 23: "u8",
    11: "i1", 12: "u1", 13: "i4", 15: "i2", 16: "u2",
    14: "u2", 24: "u1", 25: "u1", 26: "u1", 27: "u1", 28: "u1", 29: "i1", 30: "u1", 31: "i1", 32: "u1", 33: "u1",
}  # fmt: skip
_OWN_NAMES: Final[dict[int, str]] = {
    14: "bfloat16", 24: "float8_e5m2", 25: "float8_e4m3fn", 26: "float8_e4m3fnuz", 27: "float8_e4m3b11fnuz", 28: "float8_e5m2fnuz",
    29: "int4", 30: "uint4", 31: "int2", 32: "uint2", 33: "float4_e2m1fn",
}  # fmt: skip
_QUANTISED: Final = (11, 12, 13, 15, 16)
_BY_STORAGE: Final = {
    np.dtype(storage): number
    for number, storage in _STORAGE.items()
    if number not in _OWN_NAMES and number not in _QUANTISED
}
_BY_OWN_NAME: Final = {name: number for number, name in _OWN_NAMES.items()}


class Typed(NamedTuple):
    """An input whose DataType numpy cannot express: quantised types, or bfloat16 as uint16 where ml_dtypes is not installed."""

    values: Array
    dtype: DataType


def storage(dtype: int) -> np.dtype[Any]:
    """The numpy type of a tensor's memory. Raises InvalidArgument for types that cannot be sent."""
    name = _STORAGE.get(dtype)
    if name is None:
        raise InvalidArgument(f"a tensor of {dtype_name(dtype)} cannot be made an array")
    return np.dtype(name)


def numpy_type(dtype: int) -> np.dtype[Any]:
    """What a tensor of `dtype` is as an array (strings: object, of bytes). Raises InvalidArgument for types that cannot be sent."""
    if dtype == DataType.DT_STRING:
        return np.dtype(object)
    own = _OWN_NAMES.get(dtype)
    if own is not None:
        try:
            import ml_dtypes
        except ImportError:
            return storage(dtype)
        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, own))
        return found
    return storage(dtype)


def is_bits(dtype: int) -> bool:
    """Whether arrays of `dtype` hold bare bits here, because numpy lacks the type and ml_dtypes is not installed."""
    return dtype in _OWN_NAMES and numpy_type(dtype).num < 256


def dtype_name(dtype: int) -> str:
    """`DT_FLOAT`, or for numbers nobody knows `DataType 99`."""
    try:
        return DataType(dtype).name
    except ValueError:
        return f"DataType {dtype}"


def to_array(dtype: int, shape: tuple[int, ...], values: Values) -> Array:
    """The codec's (dtype, shape, values) as an array that shares the memory; strings become an object array of bytes."""
    if isinstance(values, list):
        strings: Array = np.empty(len(values), object)
        strings[:] = values
        strings.shape = shape
        return strings
    array: Array = np.ndarray(shape, numpy_type(dtype), values)
    return array


def to_tensor(alias: str, value: object) -> tuple[int, tuple[int, ...], Array | list[bytes]]:
    """An input as (DataType, shape, C-contiguous little-endian memory; for strings a list of bytes).

    Arrays keep their type. Python numbers become what TensorFlow makes of them: floats DT_FLOAT, integers DT_INT32 or, when they do
    not fit, DT_INT64. str is sent as UTF-8. Raises InvalidArgument naming the input."""
    if isinstance(value, Typed):
        array = np.ascontiguousarray(value.values)
        if array.dtype.itemsize != storage(value.dtype).itemsize:
            raise InvalidArgument(f'inputs["{alias}"]: {array.dtype} is not as wide as {value.dtype.name}')
        return value.dtype, np.shape(value.values), _memory(array)
    if isinstance(value, (str, bytes)):
        given = _strings(value)
    elif hasattr(value, "__array__"):
        given = np.asarray(value)
    else:
        given = _from_python(alias, value)
    if given.dtype.kind in "OSUT":
        return DataType.DT_STRING, given.shape, [_bytes(alias, item) for item in given.ravel().tolist()]
    array = np.ascontiguousarray(given, given.dtype.newbyteorder("<"))
    number = _BY_STORAGE.get(array.dtype) or _BY_OWN_NAME.get(array.dtype.name)
    if number is None:
        raise InvalidArgument(f'inputs["{alias}"]: arrays of {array.dtype} have no counterpart in TensorFlow')
    return number, given.shape, _memory(array)


def _memory(array: Array) -> Array:
    """The same memory under a type that the buffer protocol knows: those of ml_dtypes it does not."""
    return array if array.dtype.num < 256 else array.view(f"u{array.dtype.itemsize}")


def _from_python(alias: str, value: object) -> Array:
    """A list or a number."""
    try:
        array = np.asarray(value)
    except UnicodeDecodeError:  # bytes among str
        return _strings(value)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(f'inputs["{alias}"] is no array: {error}') from None
    if array.dtype.kind in "SU":  # numpy would cut trailing NULs
        return _strings(value)
    if array.dtype == np.float64:
        return array.astype(np.float32)
    if array.dtype == np.int64 and (not array.size or -(2**31) <= array.min() <= array.max() < 2**31):
        return array.astype(np.int32)
    return array


def _strings(value: object) -> Array:
    return np.array(value, object)


def _bytes(alias: str, item: object) -> bytes:
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return item.encode()
    raise InvalidArgument(f'inputs["{alias}"]: expected str or bytes in it, got {type(item).__name__}')
