"""Asks a served MNIST model about a digit over gRPC, with nothing but grpcio and the message classes that come with tfs.

python examples/mnist/ask.py 127.0.0.1:8500 models/digit.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import grpc
import numpy as np

from tfs import messages


def main(target: str, path: str) -> None:
    image = np.array(json.loads(Path(path).read_text())["instances"], np.float32)
    request = messages.PredictRequest()
    request.model_spec.name = "mnist"
    tensor = request.inputs["image"]
    tensor.dtype = messages.DataType.DT_FLOAT
    for size in image.shape:
        tensor.tensor_shape.dim.add().size = size
    tensor.tensor_content = image.tobytes()
    with grpc.insecure_channel(target) as channel:
        predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        response = messages.PredictResponse.FromString(predict(request.SerializeToString(), timeout=10))
    (scores,) = (np.array(output.float_val) for output in response.outputs.values())
    print(
        f"it is a {scores.argmax()} ({scores.max():.1%} sure), says version {response.model_spec.version.value}"
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: ask.py HOST:PORT REQUEST.json")
    try:
        main(*sys.argv[1:])
    except grpc.RpcError as error:
        sys.exit(f"ask.py: {error.code().name}: {error.details()}")
