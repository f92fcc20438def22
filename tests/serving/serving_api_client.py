"""A client as TensorFlow Serving's own documentation writes it, with tensorflow-serving-api and Python TensorFlow.

    python serving_api_client.py TARGET EXPECTED_DIRECTORY MODEL:SIGNATURE...

Sends the recorded request of every model and compares the answer with TensorFlow's.  Run by test_skeleton.py in a process of its
own, because importing TensorFlow takes seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)


def check(
    stub: prediction_service_pb2_grpc.PredictionServiceStub,
    arrays: np.lib.npyio.NpzFile,
    model: str,
    signature: str,
) -> None:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for key in arrays.files:
        if key.startswith("in_"):
            request.inputs[key[3:]].CopyFrom(tf.make_tensor_proto(arrays[key]))
    response = stub.Predict(request, timeout=30)
    for key in arrays.files:
        if key.startswith("out_"):
            np.testing.assert_allclose(
                tf.make_ndarray(response.outputs[key[4:]]), arrays[key], rtol=1e-5, atol=1e-6
            )
    assert response.model_spec.name == model
    assert response.model_spec.version.value == 1


def main() -> None:
    target, expected, *models = sys.argv[1:]
    with grpc.insecure_channel(target) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        status_stub = model_service_pb2_grpc.ModelServiceStub(channel)
        for one in models:
            model, _, signature = one.partition(":")
            check(stub, np.load(Path(expected) / f"{model}.npz"), model, signature)
            request = get_model_status_pb2.GetModelStatusRequest()
            request.model_spec.name = model
            (state,) = status_stub.GetModelStatus(request, timeout=10).model_version_status
            assert state.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
            print(f"{model} agrees")


if __name__ == "__main__":
    main()
