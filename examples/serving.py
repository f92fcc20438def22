"""What the examples share: a server for as long as a `with` block lasts.

The server is the ordinary `python -m tfs serve` on free ports of 127.0.0.1; in production one would write that command oneself.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_TIMEOUT_S = 60.0


class Server:
    """A server process: `grpc` is its gRPC address, `rest` its REST address, `log` the file with its log lines."""

    def __init__(self, flags: list[str], scheme: str) -> None:
        ports = free_port(), free_port()
        self.grpc = f"127.0.0.1:{ports[0]}"
        self.rest = f"{scheme}://127.0.0.1:{ports[1]}"
        self.log = Path(tempfile.mkdtemp(prefix="tfs-example-")) / "server.log"
        self.command = [sys.executable, "-m", "tfs", "serve", "--bind_address=127.0.0.1"]
        self.command += [f"--port={ports[0]}", f"--rest_api_port={ports[1]}", *flags]
        print("$ tfs serve " + " ".join(flags), flush=True)
        with self.log.open("wb") as log:
            environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env=environment)
        self._ports = ports

    def wait_ready(self) -> bool:
        """Until the ports are open, which is when every model has a version; False when the server ended instead."""
        deadline = time.monotonic() + START_TIMEOUT_S
        for port in self._ports:
            while not accepts(port):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    return False
                time.sleep(0.02)
        return True

    def wait_log(self, text: str, timeout_s: float = 20.0) -> str:
        """The first log line with `text` in it, as soon as it is there."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for line in self.log.read_text(errors="replace").splitlines():
                if text in line:
                    return line
            time.sleep(0.02)
        raise TimeoutError(f"no {text!r} in {self.log}:\n{self.log.read_text(errors='replace')}")


@contextmanager
def serving(*flags: str, scheme: str = "http") -> Iterator[Server]:
    """A server with these flags that is ready, stopped by SIGTERM at the end. Raises RuntimeError with its log when it does not start."""
    server = Server(list(flags), scheme)
    try:
        if not server.wait_ready():
            raise RuntimeError(f"the server did not start:\n{server.log.read_text(errors='replace')}")
        yield server
    finally:
        server.process.terminate()
        server.process.wait(60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
