"""An image classifier that takes encoded JPEG bytes: the model decodes them, clients send files as they are.

    python -m examples.jpeg.run [--work=DIRECTORY]

A small net learns circles, squares and triangles drawn here. Bytes travel as {"b64": ...} over REST and as they are over gRPC.
"""

from __future__ import annotations

import argparse
import base64
import io
import shutil
import tempfile
from pathlib import Path

import keras
import numpy as np
import requests
import tensorflow as tf
from PIL import Image, ImageDraw

from examples.serving import serving
from tfs.client import Client

SHAPES = ("circle", "square", "triangle")
SIDE = 32
TRAINED_ON = 600


def draw(shape: str, rng: np.random.Generator, side: int = 96) -> bytes:
    """A JPEG of the shape somewhere on a grey ground."""
    image = Image.new("RGB", (side, side), tuple(rng.integers(150, 255, 3).tolist()))
    radius = rng.integers(side // 5, side // 3)
    x, y = rng.integers(radius, side - radius, 2)
    colour = tuple(rng.integers(0, 110, 3).tolist())
    box = [(x - radius, y - radius), (x + radius, y + radius)]
    canvas = ImageDraw.Draw(image)
    if shape == "circle":
        canvas.ellipse(box, colour)
    elif shape == "square":
        canvas.rectangle(box, colour)
    else:
        canvas.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], colour)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=90)
    return encoded.getvalue()


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Encoded JPEGs [n] -> [n, SIDE, SIDE, 3] in 0..1, whatever their size."""

    def one(data: tf.Tensor) -> tf.Tensor:
        return tf.image.resize(tf.io.decode_jpeg(data, channels=3), [SIDE, SIDE], antialias=True) / 255.0

    return tf.map_fn(one, encoded, fn_output_signature=tf.float32)


def train(rng: np.random.Generator) -> keras.Model:
    labels = rng.integers(0, len(SHAPES), TRAINED_ON)
    images = decode(tf.constant([draw(SHAPES[label], rng) for label in labels]))
    keras.utils.set_random_seed(1)
    net = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            keras.layers.Conv2D(8, 5, strides=2, activation="relu"),
            keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(len(SHAPES), activation="softmax"),
        ]
    )
    net.compile(optimizer=keras.optimizers.Adam(3e-3), loss="sparse_categorical_crossentropy")
    net.fit(images, labels, epochs=15, verbose=0)
    return net


def export(net: keras.Model, path: Path) -> None:
    """The net with the decoding before it and the names behind it."""
    archive = keras.export.ExportArchive()
    archive.track(net)
    names = tf.constant(SHAPES)

    def serve(jpeg: tf.Tensor) -> dict[str, tf.Tensor]:
        scores = net(decode(jpeg))
        return {"label": tf.gather(names, tf.argmax(scores, 1)), "score": tf.reduce_max(scores, 1)}

    archive.add_endpoint("serve", serve, [tf.TensorSpec([None], tf.string, name="jpeg")])
    archive.write_out(str(path), verbose=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a classifier of encoded images.")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "tfs-jpeg")
    work = parser.parse_args().work.absolute()
    base = work / "shapes"
    shutil.rmtree(base, ignore_errors=True)
    rng = np.random.default_rng(3)
    export(train(rng), base / "1")

    jpegs = [draw(shape, rng, side) for shape, side in zip(SHAPES, (64, 96, 200), strict=True)]
    for shape, jpeg in zip(SHAPES, jpegs, strict=True):
        (work / f"{shape}.jpg").write_bytes(jpeg)
    with serving("--model_name=shapes", f"--model_base_path={base}") as server, Client(server.grpc) as client:
        body = {"instances": [{"b64": base64.b64encode(jpeg).decode()} for jpeg in jpegs]}
        reply = requests.post(f"{server.rest}/v1/models/shapes:predict", json=body, timeout=30)
        print("REST:", [row["label"] for row in reply.json()["predictions"]])
        print("gRPC:", [label.decode() for label in client.predict("shapes", {"jpeg": jpegs})["label"]])
    print("true:", list(SHAPES))


if __name__ == "__main__":
    main()
