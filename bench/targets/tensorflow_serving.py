"""TensorFlow Serving itself, when TFS_BIN names its binary.

With the default number of gRPC threads most answers under load are RESOURCE_EXHAUSTED on a small machine, so it gets the 200 that its
operators give it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from bench.runner import Launch, free_port
from bench.targets import Target


def missing() -> str | None:
    binary = os.environ.get("TFS_BIN")
    if not binary:
        return "set TFS_BIN to the path of tensorflow_model_server"
    return None if shutil.which(binary) else f"TFS_BIN={binary} is not an executable"


def launch(model: str, base_path: Path) -> Launch:
    ports = {"grpc": free_port(), "rest": free_port()}
    return Launch(
        "tensorflow-serving",
        [
            *(os.environ["TFS_BIN"], f"--model_name={model}", f"--model_base_path={base_path}"),
            *(f"--port={ports['grpc']}", f"--rest_api_port={ports['rest']}", "--grpc_max_threads=200"),
        ],
        ports,
    )


TARGETS = (Target("tensorflow-serving", "TensorFlow Serving", ["grpc", "rest"], launch, missing),)
