"""What is handed out works: the source archive holds all that a wheel is built from, the wheel carries its library, installs and
serves in an environment of its own, and the pure client needs nothing but numpy and grpcio.

Nothing heavy is installed again: the fresh environments borrow the packages they may use from the one that runs the tests.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from support import accepts, free_port, has_native_transport, wait_until

from tfs.client import Client

ROOT = Path(__file__).parents[2]
OUTER = Path(sysconfig.get_path("purelib"))
# grpcio itself imports typing_extensions.
CLIENT_NEEDS = ("numpy", "numpy.libs", "grpc", "typing_extensions.py")

pytestmark = [
    pytest.mark.timeout(600),  # the whole core is compiled once
    pytest.mark.skipif(
        "TFS_TEST_BUILD" in os.environ, reason="what is handed out is the release build alone"
    ),
]


def run(*command: str | Path, cwd: Path, timeout_s: float = 500, **variables: str) -> str:
    """Runs a command away from this tree's `tfs`; its output.  Fails the test with everything it printed."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LD_PRELOAD")
    }
    environment |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INDEX": "1"} | variables
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=timeout_s,
    )  # fmt: skip
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def environment(place: Path, *borrowed: str) -> Path:
    """A fresh virtual environment that also sees the named packages (none: all) of the tests' own; its site-packages."""
    venv.create(place, with_pip=False, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = place / "lib" / version / "site-packages"
    if not borrowed:  # at the end of the path: what is installed here comes first
        (site / "borrowed.pth").write_text(f"{OUTER}\n")
    for name in borrowed:
        if (OUTER / name).exists():
            (site / name).symlink_to(OUTER / name)
    return site


def install(wheel: Path, place: Path) -> None:
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        place / "bin" / "python",
        "install",
        "--quiet",
        "--no-deps",
        wheel,
        cwd=place,
    )


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source archive, as made from the files under version control (build products stay out)."""
    place = tmp_path_factory.mktemp("sdist")
    listed = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
    for name in (
        name for name in listed if name and not name.startswith("tests/") and (ROOT / name).exists()
    ):
        (place / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "clone" / name).write_bytes((ROOT / name).read_bytes())
    run(
        sys.executable,
        "-m",
        "build",
        "--sdist",
        "--no-isolation",
        "--outdir",
        place,
        cwd=place / "clone",
        TFS_NO_EXTENSION="1",
    )
    (archive,) = place.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(place, filter="data")
    return place / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(sources: Path) -> Path:
    """The wheel that the source archive gives, with its libraries."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", sources / "built"]
    run(*build, cwd=sources, TFS_NATIVE="1" if has_native_transport() else "0")
    (made,) = (sources / "built").glob("*.whl")
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run(
        sys.executable,
        "-m",
        "auditwheel",
        "repair",
        "--wheel-dir",
        sources / "dist",
        made,
        cwd=sources,
        PATH=tools,
    )
    (repaired,) = (sources / "dist").glob("*.whl")
    return repaired


def test_wheel_carries_what_it_needs(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "manylinux" in wheel.name
    assert any(name.startswith("tfs/_fastpath.") and name.endswith(".so") for name in names)
    assert {"tfs/_descriptors.bin", "tfs/py.typed", "tfs/_fastpath.pyi"} <= set(names)
    assert not [name for name in names if name.endswith((".pyx", ".pxi", ".pxd", ".cpp"))]
    assert any("libnghttp2" in name for name in names) == has_native_transport()


def test_wheel_serves_in_a_fresh_environment(wheel: Path, tmp_path: Path, models: Path) -> None:
    site = environment(tmp_path)
    install(wheel, tmp_path)
    programs = tmp_path / "bin"
    assert "usage: tfs COMMAND" in run(programs / "tfs", "--help", cwd=tmp_path)
    loaded = "from tfs import _fastpath; print(_fastpath.__file__, hasattr(_fastpath, 'NativeServer'), open('/proc/self/maps').read())"
    where, native, maps = run(programs / "python", "-c", loaded, cwd=tmp_path).split(maxsplit=2)
    assert where.startswith(str(site))
    assert native == str(has_native_transport())
    assert ("tfs.libs/libnghttp2" in maps) == has_native_transport(), "its own copy of the library"

    ports = free_port(), free_port()
    flags = [f"--port={ports[0]}", f"--rest_api_port={ports[1]}", "--bind_address=127.0.0.1"]
    flags += ["--model_name=m", f"--model_base_path={models}/half_plus_two"]
    environment_of_server = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [programs / "tensorflow_model_server", *flags],
            cwd=tmp_path,
            env=environment_of_server,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: server.poll() is not None or all(map(accepts, ports)), 60, "the ports")
        with Client(f"127.0.0.1:{ports[0]}") as client:
            assert client.predict("m", {"x": [2.0]}, timeout=20)["y"] == [3.0]
        server.send_signal(signal.SIGTERM)
        assert server.wait(40) == 0, (tmp_path / "log").read_text()
    finally:
        server.kill()
        server.wait()


def test_pure_client_needs_numpy_and_grpcio_alone(sources: Path, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "pure"]
    run(*build, cwd=sources, TFS_NO_EXTENSION="1")
    (wheel,) = (tmp_path / "pure").glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]
    place = tmp_path / "environment"
    environment(place, *CLIENT_NEEDS)
    install(wheel, place)
    program = (
        "import sys, tfs.client as c; client = c.Client('127.0.0.1:1', retries=0, timeout=5)\n"
        "try: client.predict('m', {'x': [1.0]})\n"
        "except c.TfsError as error: print(error.code.name, *sorted(set(sys.modules) & {'tensorflow', 'google.protobuf', 'tfs._fastpath'}))"
    )
    assert run(place / "bin" / "python", "-c", program, cwd=tmp_path).split() == ["UNAVAILABLE"]
    tfs = place / "bin" / "tfs"
    assert "usage: tfs COMMAND" in run(tfs, "--help", cwd=tmp_path)
    model = shutil.copytree(ROOT / "tests" / "conformance" / "models" / "keras_dense", tmp_path / "model")
    assert "serving_default" in run(tfs, "inspect", model, cwd=tmp_path)
    assert "2 record(s)" in run(tfs, "warmup", "make", model, cwd=tmp_path)
    serve = [str(tfs), "serve", f"--model_base_path={model}"]
    done = subprocess.run(serve, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.count("\n"), done.stderr) == (255, 1, "")
    assert "not all of the server is installed" in done.stdout
