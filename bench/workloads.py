"""What is asked: models, requests in every encoding, and the answers that count as right.

Owns: the table of workloads.  Requests and answers are the arrays that Python TensorFlow left beside the example models
(tests/models).  Must not know: servers, processes, load generators.
"""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.loads import Call
from tests.models.made import made_models
from tfs import messages

PREDICT = "/tensorflow.serving.PredictionService/Predict"
TOLERANCE = 1e-4
# dtype -> (DataType name, typed field of TensorProto)
FIELDS = {
    "float32": ("DT_FLOAT", "float_val"),
    "int32": ("DT_INT32", "int_val"),
    "int64": ("DT_INT64", "int64_val"),
    "bytes": ("DT_STRING", "string_val"),
}
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Workload:
    """A model with a request and its right answer.

    `all_digits`: JSON as `json.dumps(array.tolist())` writes it, with the 17 digits of the double that a float32 became."""

    name: str
    model: str
    inputs: Arrays
    outputs: Arrays
    all_digits: bool = False

    def grpc(self, content: bool = False) -> Call:
        """Predict over gRPC; `content` chooses tensor_content instead of the typed fields."""
        return Call(PREDICT, predict_request(self.model, self.inputs, content), self._grpc_is_right)

    def rest(self) -> Call:
        """Predict over REST, in row format where the inputs have rows."""
        rows = rest_rows(self.inputs, self.all_digits)
        body = json.dumps(rows, separators=(",", ":")).encode()
        return Call(f"/v1/models/{self.model}:predict", body, self._rest_is_right)

    def _grpc_is_right(self, answer: bytes) -> bool:
        outputs = messages.PredictResponse.FromString(answer).outputs
        return all(
            name in outputs and equal(array_of(outputs[name]), value) for name, value in self.outputs.items()
        )

    def _rest_is_right(self, answer: bytes) -> bool:
        predictions = json.loads(answer)["predictions"]
        if len(self.outputs) == 1:
            (value,) = self.outputs.values()
            return equal(np.array(predictions), value)
        columns = {name: [row[name] for row in predictions] for name in self.outputs}
        return all(equal(np.array(columns[name]), value) for name, value in self.outputs.items())


def equal(got: np.ndarray, wanted: np.ndarray) -> bool:
    if wanted.dtype.kind == "S":
        return bool(np.array_equal(got.astype("S"), wanted))
    return got.size == wanted.size and bool(
        np.allclose(got.reshape(wanted.shape), wanted, rtol=TOLERANCE, atol=TOLERANCE)
    )


def predict_request(model: str, inputs: Arrays, content: bool) -> bytes:
    """A serialized PredictRequest for the latest version and the default signature."""
    request = messages.PredictRequest()
    request.model_spec.name = model
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tensor_of(value, content))
    return request.SerializeToString()


def tensor_of(value: np.ndarray, content: bool) -> Any:
    kind = "bytes" if value.dtype.kind == "S" else value.dtype.name
    type_name, field = FIELDS[kind]
    proto = messages.TensorProto(dtype=messages.DataType.Value(type_name))
    for size in value.shape:
        proto.tensor_shape.dim.add().size = size
    if content and kind != "bytes":
        proto.tensor_content = value.tobytes()
    else:
        getattr(proto, field).extend(value.ravel().tolist())
    return proto


def array_of(proto: Any) -> np.ndarray:
    name = messages.DataType.Name(proto.dtype)
    kind, field = next((kind, field) for kind, (type_name, field) in FIELDS.items() if type_name == name)
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_content:
        return np.frombuffer(proto.tensor_content, kind).reshape(shape)
    return np.array(getattr(proto, field), "S" if kind == "bytes" else kind).reshape(shape)


def rest_rows(inputs: Arrays, all_digits: bool) -> dict[str, Any]:
    values = {name: json_value(value, all_digits) for name, value in inputs.items()}
    if len(values) == 1:
        return {"instances": next(iter(values.values()))}
    rows = len(next(iter(values.values())))
    return {"instances": [{name: column[row] for name, column in values.items()} for row in range(rows)]}


def json_value(value: np.ndarray, all_digits: bool) -> Any:
    if value.dtype.kind == "S":
        return [
            text.decode() if text.isascii() else {"b64": base64.b64encode(text).decode()}
            for text in value.tolist()
        ]
    if value.dtype == np.float32 and not all_digits:
        # The shortest text that reads back to the same float32, as careful clients send it.
        return np.array([float(str(one)) for one in value.ravel()]).reshape(value.shape).tolist()
    return value.tolist()


# --- the table ----------------------------------------------------------------------------------------------------------------------


@functools.cache
def directory() -> Path:
    """Where the models are: NAME/1."""
    return made_models()


def recorded(name: str, rows: int | None = None) -> Workload:
    """The request that TensorFlow answered when the model was made; its first `rows` rows."""
    arrays = np.load(directory() / "expected" / f"{name}.npz")
    inputs = {key[3:]: arrays[key][:rows] for key in arrays.files if key.startswith("in_")}
    outputs = {key[4:]: arrays[key][:rows] for key in arrays.files if key.startswith("out_")}
    return Workload(name, name, inputs, outputs)


def echo(count: int) -> Workload:
    """`count` floats there and back."""
    value = np.random.default_rng(3).standard_normal(count).astype(np.float32)
    return Workload(f"echo{count}", "echo", {"x": value}, {"y": value})


def repeated(name: str, rows: int) -> Workload:
    """The first row of a recorded request `rows` times."""
    one = recorded(name, 1)
    inputs = {key: np.repeat(value, rows, axis=0) for key, value in one.inputs.items()}
    outputs = {key: np.repeat(value, rows, axis=0) for key, value in one.outputs.items()}
    return Workload(f"{name}x{rows}", name, inputs, outputs)


def standard() -> list[Workload]:
    """The workloads of the report, small to large."""
    return [
        recorded("half_plus_two"),
        recorded("mnist", 1),
        recorded("mnist_large", 1),
        recorded("strings"),
        recorded("inputs64"),
        recorded("embedding"),
        recorded("images"),
    ]


EMPTY = Call("/bench.Echo/Echo", b"", lambda answer: answer == b"")
CONSTANT = Call("/", b'{"instances": [1.0, 2.0, 5.0]}', lambda answer: b"predictions" in answer)
