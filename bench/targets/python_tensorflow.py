"""What people write by hand: Python TensorFlow behind grpcio, FastAPI or LitServe.

LitServe wants its own versions of what it shares with others, so it lives in bench/.cache/litserve, where `make bench` puts it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from bench.runner import CACHE, ROOT, Launch, free_port
from bench.targets import Target

RIVALS = ROOT / "bench" / "rivals"
LITSERVE = CACHE / "litserve"


def launcher(
    name: str, face: str, script: str, packages: Path | None = None
) -> Callable[[str, Path], Launch]:
    """`packages`: a directory of Python packages that go before those of this environment."""
    environment = {"PYTHONPATH": f"{packages}:{ROOT}"} if packages else {}

    def launch(model: str, base_path: Path) -> Launch:
        port = free_port()
        version = max(
            (one for one in base_path.iterdir() if one.name.isdigit()), key=lambda one: int(one.name)
        )
        return Launch(
            name,
            [sys.executable, str(RIVALS / script), str(port), model, str(version)],
            {face: port},
            environment,
        )

    return launch


def needs(*modules: str) -> Callable[[], str | None]:
    def missing() -> str | None:
        absent = [name for name in modules if importlib.util.find_spec(name) is None]
        return f"not installed: {', '.join(absent)}" if absent else None

    return missing


def litserve_missing() -> str | None:
    if (LITSERVE / "litserve").is_dir():
        return needs("tensorflow")()
    return "not in bench/.cache/litserve: `make bench` puts it there where pip can"


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
    Target(
        "litserve-tensorflow",
        "LitServe + Python TensorFlow",
        ["rest"],
        launcher("litserve-tensorflow", "rest", "litserve_tensorflow.py", LITSERVE),
        litserve_missing,
    ),
)
