"""What the clients give and take beside arrays: status, metadata, classes, model configurations.

Owns: these values and how they lie in the messages of TensorFlow Serving. Must not know: channels, HTTP. Immutable; any thread.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tfs.client import _wire
from tfs.client.dtypes import Array, dtype_name, numpy_type
from tfs.errors import Code, InvalidArgument


def check_choice(version: int | None, label: str | None) -> None:
    """Raises InvalidArgument for a version and a label at once."""
    if version is not None and label is not None:
        raise InvalidArgument(
            f"version {version} and label '{label}' at once: a version is chosen by one of them"
        )


class State(enum.IntEnum):
    """Where a version is in its life."""

    UNKNOWN = 0
    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


class VersionStatus(NamedTuple):
    """One version of a model; `code` and `message` tell what went wrong, Code.OK when nothing did."""

    version: int
    state: State
    code: Code = Code.OK
    message: str = ""


class Class(NamedTuple):
    """One class of a classification."""

    label: str
    score: float


class TensorInfo(NamedTuple):
    """An input or output of a signature. `shape`: None where a dimension is free; None altogether when the rank is free."""

    name: str
    dtype: int
    shape: tuple[int | None, ...] | None

    @property
    def dtype_name(self) -> str:
        """`DT_FLOAT`."""
        return dtype_name(self.dtype)

    @property
    def numpy_type(self) -> np.dtype[Any]:
        """The array type to send or expect; object for strings."""
        return numpy_type(self.dtype)


@dataclass(frozen=True, slots=True)
class Signature:
    """What a signature wants and gives; `defaults` are the inputs that may be left out over gRPC."""

    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    method_name: str = ""
    defaults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """A loaded version and its signatures."""

    name: str
    version: int
    signatures: Mapping[str, Signature]


class Prediction(dict[str, Array]):
    """The outputs by name, and which version gave them. Arrays share the memory of the reply and are then read-only: `.copy()` to
    change one."""

    __slots__ = ("_spec",)

    def __init__(self, outputs: Mapping[str, Array], spec: bytes = b"") -> None:
        super().__init__(outputs)
        self._spec = spec

    @property
    def version(self) -> int:
        """The version that answered; 0 where the server does not say (REST)."""
        return model_spec_version(memoryview(self._spec))


@dataclass(frozen=True, slots=True)
class Latest:
    """Serve the `count` highest versions."""

    count: int = 1

    def body(self) -> bytes:
        return _wire.field(100, _wire.integer(1, self.count))


@dataclass(frozen=True, slots=True)
class All:
    """Serve every version there is."""

    def body(self) -> bytes:
        return _wire.field(101, b"")


@dataclass(frozen=True, slots=True)
class Specific:
    """Serve exactly these versions."""

    versions: Sequence[int]

    def body(self) -> bytes:
        return _wire.field(102, _wire.field(1, b"".join(map(_wire.varint, self.versions))))


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A model to serve: what a `config` block of a model configuration file says."""

    name: str
    base_path: str
    versions: Latest | All | Specific = field(default_factory=Latest)
    labels: Mapping[str, int] = field(default_factory=dict)
    platform: str = "tensorflow"

    def body(self) -> bytes:
        """The message ModelConfig."""
        labels = b"".join(
            _wire.field(8, _wire.text(1, label) + _wire.varint(2 << 3) + _wire.varint(version))
            for label, version in self.labels.items()
        )
        return (
            _wire.text(1, self.name)
            + _wire.text(2, self.base_path)
            + _wire.text(4, self.platform)
            + _wire.field(7, self.versions.body())
            + labels
        )


# -- reading


def model_spec_version(spec: memoryview) -> int:
    """ModelSpec.version, or 0."""
    version = 0
    for body in _wire.messages(spec, 2):
        version = _wire.last_integer(body, 1)
    return version


def read_signature(body: memoryview) -> Signature:
    """A serialized SignatureDef. Raises Internal when it is none."""
    return Signature(
        {name: _tensor_info(info) for name, info in sorted(_wire.entries(body, 1))},
        {name: _tensor_info(info) for name, info in sorted(_wire.entries(body, 2))},
        _wire.last_text(body, 3),
        tuple(sorted(name for name, _ in _wire.entries(body, 4))),
    )


def _tensor_info(body: memoryview) -> TensorInfo:
    name = _wire.last_text(body, 1)
    for sparse in _wire.messages(body, 4):
        name = f"sparse({_wire.last_text(sparse, 1)})"
    for composite in _wire.messages(body, 5):
        name = "composite(" + ", ".join(_wire.last_text(c, 1) for c in _wire.messages(composite, 2)) + ")"
    shape: tuple[int | None, ...] | None = ()
    for proto in _wire.messages(body, 3):
        sizes = [_wire.last_integer(dim, 1) for dim in _wire.messages(proto, 2)]
        shape = None if _wire.last_integer(proto, 3) else tuple(n if n >= 0 else None for n in sizes)
    return TensorInfo(name, _wire.last_integer(body, 2), shape)


def read_metadata(reply: bytes) -> ModelMetadata:
    """GetModelMetadataResponse."""
    data = memoryview(reply)
    name, version = "", 0
    for spec in _wire.messages(data, 1):
        name, version = _wire.last_text(spec, 1), model_spec_version(spec)
    signatures = {}
    for key, packed in _wire.entries(data, 2):
        for body in _wire.messages(packed, 2) if key == "signature_def" else ():
            signatures.update({key: read_signature(one) for key, one in sorted(_wire.entries(body, 1))})
    return ModelMetadata(name, version, signatures)


def read_status(reply: bytes) -> list[VersionStatus]:
    """GetModelStatusResponse."""
    found = []
    for one in _wire.messages(memoryview(reply), 1):
        code, message = 0, ""
        for status in _wire.messages(one, 3):
            code, message = _wire.last_integer(status, 1), _wire.last_text(status, 2)
        state = State(_wire.last_integer(one, 2))
        found.append(VersionStatus(_wire.last_integer(one, 1), state, Code(code), message))
    return found


def read_classes(reply: bytes) -> list[list[Class]]:
    """ClassificationResponse: the classes of each example."""
    found = []
    for result in _wire.messages(memoryview(reply), 1):
        for row in _wire.messages(result, 1):
            found.append([_class(one) for one in _wire.messages(row, 1)])
    return found


def _class(body: memoryview) -> Class:
    return Class(_wire.last_text(body, 1), _last_float(body, 2))


def _last_float(body: memoryview, number: int) -> float:
    value = 0.0
    for found, kind, _, raw in _wire.fields(body):
        if found == number and kind == _wire.FIXED32:
            value = float(np.frombuffer(raw, "<f4")[0])
    return value


def read_regressions(reply: bytes) -> Array:
    """RegressionResponse: a value per example, float32."""
    values = [
        _last_float(one, 1)
        for result in _wire.messages(memoryview(reply), 1)
        for one in _wire.messages(result, 1)
    ]
    return np.array(values, np.float32)
