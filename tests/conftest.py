"""What every test may ask for: SavedModels to serve, a live server process, and proof that no C handle was left behind.

Owns: the fixtures, and when servers are stopped.  Must not know: what a server answers.  Never imports TensorFlow.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from models.made import made_models
from support import Server, has_native_transport

import tfs

# How long an example takes is the machine's business.
hypothesis_settings.register_profile("tfs", deadline=None)
hypothesis_settings.load_profile("tfs")

# --- models -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def models() -> Path:
    """The directory that make_models.py filled: NAME/1 per model, expected/NAME.npz.  Read only: copy what a test changes."""
    return made_models()


@pytest.fixture
def copied(models: Path, tmp_path: Path) -> Callable[..., Path]:
    """copied(NAME, version=1, to=None): a base path of its own with that version of a model, for tests that change files."""

    def copy(name: str, version: int = 1, to: Path | None = None) -> Path:
        base = to or tmp_path / name
        shutil.copytree(models / name / "1", base / str(version))
        return base

    return copy


# --- the server process ---------------------------------------------------------------------------------------------------------


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
    if os.environ.get("TFS_TEST_BUILD") != "debug":
        yield
        return
    before = live_handles()
    yield
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
