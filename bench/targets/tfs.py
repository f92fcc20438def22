"""This server, by transport."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.runner import Launch, free_port
from bench.targets import Target


def command(model: str, base_path: Path, transport: str, *flags: str) -> Launch:
    """`python -m tfs serve` for one model on free loopback ports."""
    ports = {"grpc": free_port(), "rest": free_port()}
    return Launch(
        f"tfs-{transport}",
        [
            *(
                sys.executable,
                "-m",
                "tfs",
                "serve",
                f"--model_name={model}",
                f"--model_base_path={base_path}",
            ),
            *(f"--port={ports['grpc']}", f"--rest_api_port={ports['rest']}", "--bind_address=127.0.0.1"),
            *(f"--grpc_transport={transport}", *flags),
        ],
        ports,
    )


def native_missing() -> str | None:
    """Why there is no native transport, or None."""
    try:
        from tfs import _fastpath
    except ImportError as error:
        return f"tfs._fastpath is not built ({error}): make build"
    return None if hasattr(_fastpath, "NativeServer") else "built without libnghttp2"


TARGETS = (
    Target(
        "tfs-native",
        "tfs, native gRPC",
        ["grpc", "rest"],
        lambda m, p: command(m, p, "native"),
        native_missing,
    ),
    Target("tfs-grpcio", "tfs, grpcio", ["grpc", "rest"], lambda m, p: command(m, p, "grpcio")),
)
