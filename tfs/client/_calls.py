"""Every RPC as a value: the method's path, the request's bytes, and how the reply is read.

Owns: the requests of TensorFlow Serving's services. Must not know: who carries the bytes, so that the blocking and the asyncio client
share all of it. Pure functions; any thread.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from tfs.client import _wire, types
from tfs.client.dtypes import Array, to_array, to_tensor
from tfs.client.examples import Example, to_example
from tfs.errors import Code, from_code

try:
    from tfs._fastpath import client_decode, client_encode
except ImportError:  # no compiler where it was installed: the slow twin
    from tfs.client._codec_py import client_decode, client_encode

T = TypeVar("T")

_PREDICTION: Final = "/tensorflow.serving.PredictionService/"
_MODEL: Final = "/tensorflow.serving.ModelService/"


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One RPC."""

    path: str
    request: bytes
    read: Callable[[bytes], T]


@functools.lru_cache(maxsize=256)
def spec(model: str, version: int | None = None, label: str | None = None, signature: str = "") -> bytes:
    """The field model_spec, which is the first of every request. Raises InvalidArgument for a version and a label at once."""
    types.check_choice(version, label)
    choice = b""
    if version is not None:
        choice = _wire.field(2, _wire.integer(1, version))
    elif label is not None:
        choice = _wire.field(4, label.encode())
    return _wire.field(1, _wire.text(1, model) + choice + _wire.text(3, signature))


def predict(
    head: bytes, inputs: Mapping[str, object], output_filter: Sequence[str]
) -> Call[types.Prediction]:
    """`head`: the field model_spec. Raises InvalidArgument for inputs that are no tensors."""
    if output_filter:
        head += b"".join(_wire.field(3, name.encode()) for name in output_filter)
    tensors = [(alias.encode(), *to_tensor(alias, value)) for alias, value in inputs.items()]
    return Call(_PREDICTION + "Predict", client_encode(head, tensors), _read_prediction)


def _read_prediction(reply: bytes) -> types.Prediction:
    outputs, model_spec = client_decode(reply)
    return types.Prediction({alias: to_array(*tensor) for alias, tensor in outputs.items()}, model_spec)


def _input(examples: Sequence[Example], context: Example | None) -> bytes:
    """The field `input`."""
    body = b"".join(_wire.field(1, to_example(one)) for one in examples)
    if context is None:
        return _wire.field(2, _wire.field(1, body))
    return _wire.field(2, _wire.field(2, body + _wire.field(2, to_example(context))))


def classify(
    head: bytes, examples: Sequence[Example], context: Example | None
) -> Call[list[list[types.Class]]]:
    return Call(_PREDICTION + "Classify", head + _input(examples, context), types.read_classes)


def regress(head: bytes, examples: Sequence[Example], context: Example | None) -> Call[Array]:
    return Call(_PREDICTION + "Regress", head + _input(examples, context), types.read_regressions)


def metadata(head: bytes) -> Call[types.ModelMetadata]:
    return Call(
        _PREDICTION + "GetModelMetadata", head + _wire.field(2, b"signature_def"), types.read_metadata
    )


def status(head: bytes) -> Call[list[types.VersionStatus]]:
    return Call(_MODEL + "GetModelStatus", head, types.read_status)


def reload(models: Sequence[types.ModelConfig] | bytes, metrics: Sequence[str]) -> Call[dict[str, int]]:
    """`models`: the whole new set, or a serialized ModelServerConfig."""
    if not isinstance(models, bytes):
        models = _wire.field(1, b"".join(_wire.field(1, one.body()) for one in models))
    request = _wire.field(1, models) + b"".join(_wire.field(2, name.encode()) for name in metrics)
    return Call(_MODEL + "HandleReloadConfigRequest", request, _read_reload)


def _read_reload(reply: bytes) -> dict[str, int]:
    data = memoryview(reply)
    for outcome in _wire.messages(data, 1):
        code = _wire.last_integer(outcome, 1)
        if code != Code.OK:
            raise from_code(code, _wire.last_text(outcome, 2))
    return {_wire.last_text(one, 1): _wire.last_integer(one, 2) for one in _wire.messages(data, 2)}
