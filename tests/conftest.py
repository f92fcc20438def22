"""What every test may ask for: SavedModels to serve, a live server process, and proof that no C handle was left behind.

Owns: where example models come from (make_models.py, run once in its own process, kept in tests/.cache), how a real server is
started and stopped.  Must not know: what a server answers.  Never imports TensorFlow.
"""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from importlib import metadata
from pathlib import Path

import pytest

import tfs

HERE = Path(__file__).parent
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Polls `condition` until it holds; fails the test, naming `what`, after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s} s for {what}")
        time.sleep(0.01)


# --- models -------------------------------------------------------------------------------------------------------------------


def tensorflow_version() -> str:
    for name in ("tensorflow-cpu", "tensorflow"):
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    pytest.fail("the tests need TensorFlow to make models: install tfs[cpu]")


@pytest.fixture(scope="session")
def models() -> Path:
    """The directory that make_models.py filled: NAME/1 per model, expected/NAME.npz.  Read only: copy what a test changes."""
    script = HERE / "models" / "make_models.py"
    key = hashlib.sha256(script.read_bytes() + tensorflow_version().encode()).hexdigest()[:16]
    directory = HERE / ".cache" / f"models-{key}"
    if not directory.exists():
        fresh = directory.with_name(f"{directory.name}.{os.getpid()}")
        made = subprocess.run(
            [sys.executable, str(script), str(fresh)],
            capture_output=True,
            text=True,
            env=plain_environment(),
            check=False,
        )
        assert made.returncode == 0, f"make_models.py failed:\n{made.stdout}\n{made.stderr}"
        try:
            fresh.rename(directory)
        except OSError:  # another run was first
            shutil.rmtree(fresh)
    return directory


@pytest.fixture
def copied(models: Path, tmp_path: Path) -> Callable[..., Path]:
    """copied(NAME, version=1, to=None): a base path of its own with that version of a model, for tests that change files."""

    def copy(name: str, version: int = 1, to: Path | None = None) -> Path:
        base = to or tmp_path / name
        shutil.copytree(models / name / "1", base / str(version))
        return base

    return copy


# --- the server process ---------------------------------------------------------------------------------------------------------


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


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """start_server("--model_name=m", …, transport=None): a Server that is not yet ready; killed at the end if the test did not."""
    started: list[Server] = []

    def start(*flags: str, transport: str | None = None) -> Server:
        started.append(Server(tmp_path, list(flags), transport))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture
def server(start_server: Callable[..., Server], models: Path) -> Iterator[Callable[..., Server]]:
    """server("mnist", "--flag=value", transport="native"): a ready Server of that model (version 1, under its own name).

    With a name that starts with a dash no model is added to the flags.  Stopped by SIGTERM at the end, asserting exit status 0.
    """
    started: list[Server] = []

    def start(*arguments: str, transport: str | None = None) -> Server:
        names = [a for a in arguments if not a.startswith("-")]
        flags = [a for a in arguments if a.startswith("-")]
        for name in names:
            flags += [f"--model_name={name}", f"--model_base_path={models / name}"]
        started.append(start_server(*flags, transport=transport))
        return started[-1].wait_ready()

    yield start
    for one in started:
        if one.process.returncode is None:
            one.stop()


def has_native_transport() -> bool:
    """Whether this build of the core carries the native gRPC transport (libnghttp2 was found)."""
    from tfs import _fastpath

    return hasattr(_fastpath, "NativeServer")


@pytest.fixture(params=["native", "grpcio"])
def transport(request: pytest.FixtureRequest) -> str:
    """Each gRPC transport in turn, for tests that must hold over both."""
    if request.param == "native" and not has_native_transport():
        pytest.skip("this build has no native transport: libnghttp2 was not found when it was compiled")
    return str(request.param)


# --- no C handle left behind (debug builds) ---------------------------------------------------------------------------------------


def live_handles() -> dict[str, int]:
    """Live C objects by kind; {} in builds that do not count or where the core was not used."""
    core = sys.modules.get("tfs._fastpath")
    counts: dict[str, int] = core.live_handles() if core is not None else {}
    return {kind: count for kind, count in counts.items() if count}


@pytest.fixture(autouse=True)
def no_handle_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Debug builds: a test ends with as many live C handles as were there (in wider fixtures) when it began: usually none."""
    before = live_handles()
    yield
    if os.environ.get("TFS_TEST_BUILD") != "debug":
        return
    gc.collect()
    deadline = time.monotonic() + 2
    while live_handles() != before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert live_handles() == before, f"live C handles after {request.node.nodeid}, beside those before it"


def pytest_sessionstart(session: pytest.Session) -> None:
    """A variant run (make debug, asan, tsan) must test the variant, not the module in the tree."""
    kind = os.environ.get("TFS_TEST_BUILD")
    if kind is not None and f"tree-{kind}" not in str(tfs.__file__):
        raise pytest.UsageError(f"TFS_TEST_BUILD={kind}, but tfs was imported from {tfs.__file__}")
