"""A subclassed Keras model, saved with a signature of its own name.

    python -m examples.subclassed.run [--work=DIRECTORY]

`tf.saved_model.save(model, path, signatures={"call": ...})` is what most books print. Under Keras 3 the file it writes reads other
variables than it restores; TensorFlow Serving loads it and then fails every request. Here it is healed when it is loaded, with a line
in the log, and answers as Keras does.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from examples.serving import serving
from tfs.client import Client, RestClient, TfsError


class Distance(keras.Model):
    """Two dense layers and a method that is the signature."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = keras.layers.Dense(8, activation="relu")
        self.out = keras.layers.Dense(1)

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="point")])
    def call(self, point: tf.Tensor) -> tf.Tensor:
        return self.out(self.hidden(point))


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a subclassed Keras model.")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "tfs-subclassed")
    base = parser.parse_args().work.absolute() / "distance"

    keras.utils.set_random_seed(1)
    model = Distance()
    model(tf.zeros([1, 3]))  # makes the variables
    tf.saved_model.save(model, str(base / "1"), signatures={"call": model.call})

    points = np.random.default_rng(1).random((4, 3), np.float32)
    with serving("--model_name=distance", f"--model_base_path={base}") as server:
        print(server.wait_log("healed"))
        with Client(server.grpc) as client, RestClient(server.rest) as rest:
            try:
                client.predict("distance", {"point": points})
            except TfsError as error:
                print(f"without signature_name: {error.status_text}")
            (by_grpc,) = client.predict("distance", {"point": points}, signature="call").values()
            (by_rest,) = rest.predict("distance", {"point": points}, signature="call").values()
    expected = model(points).numpy()
    print("gRPC equals Keras:", np.allclose(by_grpc, expected, atol=1e-6))
    print("REST equals Keras:", np.allclose(by_rest, expected, atol=1e-6))


if __name__ == "__main__":
    main()
