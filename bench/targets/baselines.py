"""Floors: what Python's gRPC and HTTP servers cost when they do nothing."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.runner import ROOT, Launch, free_port
from bench.targets import Target

RIVALS = ROOT / "bench" / "rivals"


def echo(_model: str, _base_path: Path) -> Launch:
    port = free_port()
    return Launch("grpcio-echo", [sys.executable, str(RIVALS / "echo_grpc.py"), str(port)], {"grpc": port})


def constant(_model: str, _base_path: Path) -> Launch:
    port = free_port()
    return Launch(
        "uvicorn-constant", [sys.executable, str(RIVALS / "constant_asgi.py"), str(port)], {"rest": port}
    )


TARGETS = (
    Target("grpcio-echo", "empty grpcio.aio echo", ["grpc"], echo),
    Target("uvicorn-constant", "constant uvicorn answer", ["rest"], constant),
)
