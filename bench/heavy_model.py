"""Writes the SavedModel that bench.reload_memory swaps: `plus` with 50 MB of weights, y = x + 1 + sum(weights) of zeros.

    python -m bench.heavy_model DIRECTORY

Runs in its own process because it imports TensorFlow.
"""

from __future__ import annotations

import sys

import tensorflow as tf

ROWS, COLUMNS = 12_500, 1000  # floats: 50 MB


def main(directory: str) -> None:
    model = tf.Module()
    model.weights = tf.Variable(tf.zeros([ROWS, COLUMNS]))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def plus(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x + 1.0 + model.weights[0, 0]}

    model.plus = plus
    tf.saved_model.save(model, directory, signatures=plus)


if __name__ == "__main__":
    main(sys.argv[1])
