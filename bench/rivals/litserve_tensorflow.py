"""LitServe and Python TensorFlow: a web process and a worker of its own for the model, JSON through lists.

PYTHONPATH=bench/.cache/litserve python bench/rivals/litserve_tensorflow.py PORT MODEL_NAME SAVED_MODEL
"""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import litserve

PORT, NAME, PATH = int(sys.argv[1]), sys.argv[2], sys.argv[3]


class Predict(litserve.LitAPI):
    def setup(self, device: str) -> None:
        import tensorflow as tf  # in the worker, which is another process

        self.tf = tf
        self.loaded = tf.saved_model.load(PATH)
        self.run = self.loaded.signatures["serving_default"]
        self.specs = self.run.structured_input_signature[1]

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # an annotation would be taken for a query parameter
        rows = request["instances"]
        columns = {next(iter(self.specs)): rows}
        if len(self.specs) > 1:
            columns = {name: [row[name] for row in rows] for name in self.specs}
        return {name: self.tf.constant(column, self.specs[name].dtype) for name, column in columns.items()}

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {name: value.numpy() for name, value in self.run(**inputs).items()}

    def encode_response(self, outputs: dict[str, Any]) -> dict[str, Any]:
        values = {
            name: [text.decode() for text in value] if value.dtype.kind == "O" else value.tolist()
            for name, value in outputs.items()
        }
        if len(values) == 1:
            return {"predictions": next(iter(values.values()))}
        rows = len(next(iter(values.values())))
        return {
            "predictions": [{name: column[row] for name, column in values.items()} for row in range(rows)]
        }


if __name__ == "__main__":
    api = Predict(api_path=f"/v1/models/{NAME}:predict")
    server = litserve.LitServer(api, accelerator="cpu")
    server.run(host="127.0.0.1", port=PORT, log_level="warning", generate_client_file=False)
