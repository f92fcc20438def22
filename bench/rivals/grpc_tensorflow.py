"""The usual hand-written server: grpcio's thread pool and Python TensorFlow, tensors through tf.make_ndarray and make_tensor_proto.

python bench/rivals/grpc_tensorflow.py PORT MODEL_NAME SAVED_MODEL
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.loaded = tf.saved_model.load(path)
        self.run = self.loaded.signatures["serving_default"]

    def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        outputs = self.run(
            **{name: tf.constant(tf.make_ndarray(proto)) for name, proto in request.inputs.items()}
        )
        response = predict_pb2.PredictResponse()
        response.model_spec.name = self.name
        for name, value in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value.numpy()))
        return response


def main(port: int, name: str, path: str) -> None:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(max_workers=8), options=options)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(name, path), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
