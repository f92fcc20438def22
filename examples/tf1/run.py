"""A TF1 graph with placeholders and a session, saved by `simple_save`, served as it is.

python -m examples.tf1.run [--work=DIRECTORY]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from examples.serving import serving
from tfs.client import Client

tf1 = tf.compat.v1


def save(path: Path) -> None:
    """y = w x + b, with w and b as a training run of 2017 would have left them."""
    with tf.Graph().as_default(), tf1.Session() as session:
        x = tf1.placeholder(tf.float32, [None], name="x")
        w = tf1.get_variable("w", initializer=0.5)
        b = tf1.get_variable("b", initializer=2.0)
        y = tf.add(w * x, b, name="y")
        session.run(tf1.global_variables_initializer())
        tf1.saved_model.simple_save(session, str(path), inputs={"x": x}, outputs={"y": y})


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a TF1 model.")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "tfs-tf1")
    base = parser.parse_args().work.absolute() / "line"
    shutil.rmtree(base, ignore_errors=True)
    save(base / "1")
    with serving("--model_name=line", f"--model_base_path={base}") as server, Client(server.grpc) as client:
        y = client.predict("line", {"x": np.array([1, 2, 5], np.float32)})["y"]
        print("x = [1, 2, 5]   y =", y.tolist())


if __name__ == "__main__":
    main()
