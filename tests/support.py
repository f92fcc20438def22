"""How the tests start a real server process, find ports, and wait.

Owns: the `Server` class behind the fixtures of conftest.py and the small helpers that test files import (`from support import …`).
Must not know: which models exist, what a server answers.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import tfs

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Polls `condition` until it holds; fails the test, naming `what`, after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s} s for {what}")
        time.sleep(0.01)


def plain_environment() -> dict[str, str]:
    """The environment without a sanitizer's preload, with this very `tfs` importable from any directory."""
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    return environment | {"PYTHONPATH": import_path(), "PYTHONUNBUFFERED": "1"}


def import_path() -> str:
    first = str(Path(tfs.__file__).absolute().parents[1])
    return os.pathsep.join([first, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """A `python -m tfs serve` process on free loopback ports.  The log holds stdout and stderr."""

    def __init__(self, directory: Path, flags: list[str], transport: str | None) -> None:
        self.grpc_port, self.rest_port = free_port(), free_port()
        self.log_path = directory / f"server-{self.grpc_port}.log"
        given = {flag.partition("=")[0] for flag in flags}
        defaults = {
            "--port": str(self.grpc_port),
            "--rest_api_port": str(self.rest_port),
            "--bind_address": "127.0.0.1",
            "--file_system_poll_wait_seconds": "0",
        }
        if transport is not None:
            defaults["--grpc_transport"] = transport
        command = [sys.executable, "-m", "tfs", "serve", *flags]
        command += [f"{name}={value}" for name, value in defaults.items() if name not in given]
        environment = os.environ | {"PYTHONPATH": import_path(), "PYTHONUNBUFFERED": "1"}
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    @property
    def target(self) -> str:
        """What grpc channels are opened to."""
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def url(self) -> str:
        """The REST address, without a slash at its end."""
        return f"http://127.0.0.1:{self.rest_port}"

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> Server:
        """Until the ports are open, which means that the initial models are available."""

        def ready() -> bool:
            if self.process.poll() is not None:
                pytest.fail(
                    f"the server ended with {self.process.returncode} before it was ready:\n{self.log()}"
                )
            return accepts(self.grpc_port) and accepts(self.rest_port)

        try:
            wait_until(ready, timeout_s, "the server's ports")
        except pytest.fail.Exception:
            pytest.fail(f"the server was not ready after {timeout_s} s:\n{self.log()}")
        return self

    def wait_log(self, text: str, timeout_s: float = 10.0) -> None:
        wait_until(lambda: text in self.log(), timeout_s, f"{text!r} in the server's log")

    def wait_exit(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        return self.process.wait(timeout_s)

    def stop(self) -> None:
        """SIGTERM; asserts an orderly end: exit status 0, no traceback, no sanitizer report."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.wait_exit()
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"the server did not end within {STOP_TIMEOUT_S} s of SIGTERM:\n{self.log()}")
        log = self.log()
        assert status == 0, f"the server ended with {status}:\n{log}"
        for sign in ("Traceback (most recent call last)", "Sanitizer", "never awaited"):
            assert sign not in log, f"{sign!r} in the server's log:\n{log}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def has_native_transport() -> bool:
    """Whether this build of the core carries the native gRPC transport (libnghttp2 was found)."""
    from tfs import _fastpath

    return hasattr(_fastpath, "NativeServer")
