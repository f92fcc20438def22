"""What people write by hand: Python TensorFlow behind grpcio or FastAPI."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from bench.runner import ROOT, Launch, free_port
from bench.targets import Target

RIVALS = ROOT / "bench" / "rivals"


def launcher(name: str, face: str, script: str) -> Callable[[str, Path], Launch]:
    def launch(model: str, base_path: Path) -> Launch:
        port = free_port()
        version = max(
            (one for one in base_path.iterdir() if one.name.isdigit()), key=lambda one: int(one.name)
        )
        return Launch(
            name, [sys.executable, str(RIVALS / script), str(port), model, str(version)], {face: port}
        )

    return launch


def needs(*modules: str) -> Callable[[], str | None]:
    def missing() -> str | None:
        absent = [name for name in modules if importlib.util.find_spec(name) is None]
        return f"not installed: {', '.join(absent)}" if absent else None

    return missing


TARGETS = (
    Target(
        "grpcio-tensorflow",
        "grpcio + Python TensorFlow",
        ["grpc"],
        launcher("grpcio-tensorflow", "grpc", "grpc_tensorflow.py"),
        needs("tensorflow", "tensorflow_serving"),
    ),
    Target(
        "fastapi-tensorflow",
        "FastAPI + Python TensorFlow",
        ["rest"],
        launcher("fastapi-tensorflow", "rest", "fastapi_tensorflow.py"),
        needs("tensorflow", "fastapi"),
    ),
)
