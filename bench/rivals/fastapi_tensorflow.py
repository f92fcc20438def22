"""The tutorials' alternative: FastAPI on uvicorn and Python TensorFlow, JSON through lists.

python bench/rivals/fastapi_tensorflow.py PORT MODEL_NAME SAVED_MODEL
"""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import fastapi
import pydantic
import tensorflow as tf
import uvicorn

PORT, NAME, PATH = int(sys.argv[1]), sys.argv[2], sys.argv[3]
LOADED = tf.saved_model.load(PATH)
RUN = LOADED.signatures["serving_default"]
SPECS = RUN.structured_input_signature[1]
app = fastapi.FastAPI()


class Body(pydantic.BaseModel):
    instances: list[Any]


def plain(value: tf.Tensor) -> Any:
    array = value.numpy()
    return [text.decode() for text in array] if value.dtype == tf.string else array.tolist()


@app.post(f"/v1/models/{NAME}:predict")
def predict(body: Body) -> dict[str, Any]:
    columns = {next(iter(SPECS)): body.instances}
    if len(SPECS) > 1:
        columns = {name: [row[name] for row in body.instances] for name in SPECS}
    outputs = RUN(**{name: tf.constant(column, SPECS[name].dtype) for name, column in columns.items()})
    values = {name: plain(value) for name, value in outputs.items()}
    if len(values) == 1:
        return {"predictions": next(iter(values.values()))}
    rows = len(next(iter(values.values())))
    return {"predictions": [{name: column[row] for name, column in values.items()} for row in range(rows)]}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning", access_log=False)
