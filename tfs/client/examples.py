"""tf.Example without TensorFlow: dicts of features <-> serialized Examples.

Owns: which kind of list a Python value becomes. Must not know: requests, models. Pure functions; any thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfs.client import _wire
from tfs.errors import InvalidArgument

Features = Mapping[str, Any]
Example = Features | bytes


def encode_example(features: Features) -> bytes:
    """A serialized tf.Example. A value is a scalar, a flat sequence or an array: str and bytes become a bytes_list, floats a
    float_list, ints and bools an int64_list; an empty one a feature without values. Raises InvalidArgument naming the feature."""
    return _wire.field(
        1, b"".join(_wire.entry(1, name, _feature(name, value)) for name, value in features.items())
    )


def decode_example(example: bytes) -> dict[str, list[Any]]:
    """The features of a serialized tf.Example as lists of bytes, floats or ints. Raises Internal when it is none."""
    features: dict[str, list[Any]] = {}
    for body in _wire.messages(memoryview(example), 1):
        for name, feature in _wire.entries(body, 1):
            features[name] = _values(feature)
    return features


def to_example(example: Example) -> bytes:
    """A dict encoded, bytes as they are."""
    return example if isinstance(example, bytes) else encode_example(example)


def _feature(name: str, value: object) -> bytes:
    values = _flat(name, value)
    if not values:
        return b""
    first = values[0]
    try:
        if isinstance(first, (str, bytes)):
            return _wire.field(1, b"".join(_wire.field(1, _bytes(one)) for one in values))
        if isinstance(first, (bool, int, np.integer, np.bool_)) and not any(map(_is_float, values)):
            return _wire.field(3, _wire.field(1, b"".join(_wire.varint(int(one)) for one in values)))
        return _wire.field(2, _wire.field(1, _wire.packed_floats(map(float, values))))
    except (TypeError, ValueError, OverflowError):
        raise InvalidArgument(
            f"feature {name!r}: expected all str, bytes, floats or ints, got {value!r:.60}"
        ) from None


def _flat(name: str, value: object) -> Sequence[Any]:
    if isinstance(value, (str, bytes)) or np.isscalar(value):
        return [value]
    if isinstance(value, np.ndarray):
        return list(value.ravel().tolist())
    if isinstance(value, Sequence):
        return value
    raise InvalidArgument(f"feature {name!r}: expected a scalar, a list or an array, got {value!r:.60}")


def _is_float(value: object) -> bool:
    return isinstance(value, (float, np.floating))


def _bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise TypeError


def _values(feature: memoryview) -> list[Any]:
    found: list[Any] = []
    for kind, _, _, body in _wire.fields(feature):
        for _, wire, number, value in _wire.fields(body):
            if kind == 1:
                found.append(bytes(value))
            elif kind == 2:
                found += np.frombuffer(value, "<f4").tolist()
            elif kind == 3:
                numbers = _wire.varints(value) if wire == _wire.BYTES else [number]
                found += map(_wire.signed, numbers)
    return found
