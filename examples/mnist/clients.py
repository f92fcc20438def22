"""Ten held-out digits by REST and by gRPC with tensorflow-serving-api, and a picture of what was predicted.

    python -m examples.mnist.clients --model=models/mnist [--picture=predictions.png]

The model is what train.py exports. Serves it, asks for ten digits both ways, prints predicted against true labels and draws the digits
with their predictions: green when right, red when wrong.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import grpc
import numpy as np
import requests
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from examples.mnist.train import digits
from examples.serving import serving


def by_rest(url: str, images: np.ndarray) -> np.ndarray:
    """Predicted labels: JSON lists in, JSON lists out."""
    reply = requests.post(
        f"{url}/v1/models/mnist:predict", json={"instances": images.round(4).tolist()}, timeout=30
    )
    reply.raise_for_status()
    return np.argmax(reply.json()["predictions"], axis=1)


def by_grpc(target: str, images: np.ndarray) -> np.ndarray:
    """Predicted labels, with the stubs of tensorflow-serving-api."""
    with grpc.insecure_channel(target) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "mnist"
        request.inputs["image"].CopyFrom(tf.make_tensor_proto(images))
        outputs = stub.Predict(request, timeout=30).outputs
    (scores,) = outputs.values()
    return np.argmax(tf.make_ndarray(scores), axis=1)


def draw(path: Path, images: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 5, figsize=(7.5, 3.6))
    for axis, image, guess, label in zip(axes.flat, images, predicted, true, strict=True):
        axis.imshow(image[..., 0], cmap="gray_r")
        axis.set_title(f"{guess} (is {label})", color="green" if guess == label else "red")
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask a served MNIST model for ten digits.")
    parser.add_argument("--model", type=Path, default=Path("models/mnist"), help="the base path to serve")
    parser.add_argument("--picture", type=Path, default=Path("predictions.png"))
    arguments = parser.parse_args()

    images, labels = digits()
    images, labels = images[:10], labels[:10]  # train.py holds the first ones out
    with serving("--model_name=mnist", f"--model_base_path={arguments.model.absolute()}") as server:
        for name, predicted in (
            ("REST", by_rest(server.rest, images)),
            ("gRPC", by_grpc(server.grpc, images)),
        ):
            print(f"{name}: predicted {predicted.tolist()}")
            print(f"      true      {labels.tolist()}   {np.sum(predicted == labels)} of 10 right")
    draw(arguments.picture, images, predicted, labels)
    print(f"{arguments.picture}: green is right, red is wrong")


if __name__ == "__main__":
    main()
