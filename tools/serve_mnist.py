"""What `make run` ends with: serves the MNIST example on loopback, says when it is ready and what to try.

    python tools/serve_mnist.py [--port=8500] [--rest_api_port=8501]

The server is the ordinary `python -m tfs serve`, a child with the terminal of its own; stopping this script by Ctrl-C or SIGTERM
stops the server in order and ends with its exit status.
"""

from __future__ import annotations

import argparse
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

MODELS = Path("models")
READY_TIMEOUT_S = 60


def ready(server: subprocess.Popen[bytes], ports: list[int]) -> bool:
    """Waits until all `ports` of 127.0.0.1 answer (the server opens them when its models are loaded) or the server ended."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    waiting = list(ports)
    while waiting and server.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", waiting[0])) == 0:
                waiting.pop(0)
            else:
                time.sleep(0.02)
    return not waiting


def taken(port: int) -> bool:
    """Whether somebody else already listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Serve the MNIST example on loopback.")
    parser.add_argument("--port", type=int, default=8500)
    parser.add_argument("--rest_api_port", type=int, default=8501)
    arguments = parser.parse_args()
    ports = [arguments.port, arguments.rest_api_port]
    for port in filter(taken, ports):
        print(f"port {port} is taken; choose others: make run GRPC_PORT=9500 REST_PORT=9501", file=sys.stderr)
        return 1

    command = [
        sys.executable,
        "-m",
        "tfs",
        "serve",
        "--model_name=mnist",
        f"--model_base_path={MODELS.absolute()}/mnist",
    ]
    command += [f"--port={ports[0]}", f"--rest_api_port={ports[1]}", "--bind_address=127.0.0.1"]
    server = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the server too
    if ready(server, ports):
        print(
            f"\nA digit 3, to be recognised from another terminal:\n"
            f"  curl -d @{MODELS / 'digit.json'} http://127.0.0.1:{ports[1]}/v1/models/mnist:predict\n"
            f"  {sys.executable} examples/mnist/ask.py 127.0.0.1:{ports[0]} {MODELS / 'digit.json'}\n"
            f"Ctrl-C stops the server.\n",
            flush=True,
        )
    return server.wait()


if __name__ == "__main__":
    sys.exit(main())
