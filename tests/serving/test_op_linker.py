"""Ops of a real package (tensorflow_text), loaded on demand and run, in a server of its own.

`Utf8Binarize` reads attributes through a C++ map whose hash seed must be TensorFlow's own: without op_linker its kernel aborts the
process.  The model is made by Python TensorFlow in a process of its own.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from support import Server, plain_environment

from tfs.op_linker import shared_object

MAKE_MODEL = """
import sys
import tensorflow as tf
import tensorflow_text as text

class Model(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="s")])
    def binarize(self, s):
        return {"bits": text.utf8_binarize(s, word_length=2)}

model = Model()
tf.saved_model.save(model, sys.argv[1], signatures={"serving_default": model.binarize})
"""


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_text") is None,
    reason="tensorflow-text has no wheel for this TensorFlow or Python",
)
def test_an_op_of_tensorflow_text_runs(start_server: Callable[..., Server], tmp_path: Path) -> None:
    base = tmp_path / "text"
    subprocess.run(
        [sys.executable, "-c", MAKE_MODEL, str(base / "1")], check=True, env=plain_environment(), timeout=100
    )
    server = start_server("--model_name=text", f"--model_base_path={base}").wait_ready()
    answer = requests.post(
        f"{server.url}/v1/models/text:predict", json={"instances": ["a"]}, timeout=20
    ).json()
    bits = answer["predictions"][0]
    assert bits[:24] == [float(bit) for bit in reversed(f"{ord('a'):024b}")]
    assert "Loaded the op library" in server.log()
    server.stop()


def test_the_object_is_what_the_linker_reads(tmp_path: Path) -> None:
    file = tmp_path / "link.so"
    file.write_bytes(shared_object(["/one", "/two"], 62))
    read = subprocess.run(["readelf", "--dynamic", str(file)], capture_output=True, text=True, check=True)
    needed = [line.split("[")[1].split("]")[0] for line in read.stdout.splitlines() if "NEEDED" in line]
    assert needed == ["/one", "/two"]
