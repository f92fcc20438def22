"""What TensorFlow itself makes of TensorProtos: `python parse_tensors.py < protos > shown`, both pickled lists.

Owns: the one call of `Tensor::FromProto` that Python can reach.  Runs in its own process, so that tests never import TensorFlow.
A tensor is shown as `(dtype number, shape, raw bytes or list of strings)`, a refused one as "bad".
"""

from __future__ import annotations

import pickle
import sys
from typing import Any

import numpy as np
import tensorflow as tf


def parse(dtype: int, proto: bytes) -> Any:
    try:
        tensor = tf.io.parse_tensor(proto, out_type=tf.as_dtype(dtype))
    except tf.errors.InvalidArgumentError:
        return "bad"
    shape = tuple(tensor.shape)
    if 0 in shape:
        return dtype, shape, [] if dtype == 7 else b""
    array = np.asarray(tensor.numpy(), dtype=object if dtype == 7 else None)
    return dtype, shape, list(array.reshape(-1)) if dtype == 7 else array.tobytes()


if __name__ == "__main__":
    protos = pickle.load(sys.stdin.buffer)
    pickle.dump([parse(dtype, proto) for dtype, proto in protos], sys.stdout.buffer)
