"""Every example runs as its README says and prints what it promises.

The MNIST model is trained once and shared. Examples need what they teach with (TensorFlow, tensorflow-serving-api, matplotlib, Pillow,
openssl, node); where a tool is missing the test says so and is skipped.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import plain_environment

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 240

pytestmark = [pytest.mark.example, pytest.mark.timeout(TIMEOUT_S)]


def run(*command: str, cwd: Path = ROOT) -> str:
    """What the command prints; the test fails with all of it when the command does."""
    environment = plain_environment() | {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment["PYTHONPATH"]])
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env=environment, timeout=TIMEOUT_S - 20, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def example(name: str, *arguments: str) -> str:
    return run(sys.executable, "-m", f"examples.{name}", *arguments)


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base path of the model that examples/mnist/train.py trains; two epochs are enough to tell digits apart."""
    base = tmp_path_factory.mktemp("models") / "mnist"
    run(sys.executable, "examples/mnist/train.py", f"--output={base}/1", "--epochs=2")
    return base


def lists_in(output: str) -> list[list[object]]:
    """The lists that the lines of an output hold."""
    return [
        ast.literal_eval(line[line.index("[") : line.rindex("]") + 1])
        for line in output.splitlines()
        if "[" in line
    ]


def test_mnist(mnist: Path, tmp_path: Path) -> None:
    picture = tmp_path / "predictions.png"
    out = example("mnist.clients", f"--model={mnist}", f"--picture={picture}")
    rest, true, grpc, again = lists_in(out)
    assert rest == grpc
    assert true == again
    assert sum(a == b for a, b in zip(rest, true, strict=True)) >= 8
    with Image.open(picture) as image:
        colours = {pixel for _, pixel in image.convert("RGB").getcolors(1 << 24) or []}
    assert (0, 128, 0) in colours  # matplotlib's green


def test_subclassed(tmp_path: Path) -> None:
    out = example("subclassed.run", f"--work={tmp_path}")
    assert "healed 4 variables" in out
    assert 'Serving signature key "serving_default" not found' in out
    assert "gRPC equals Keras: True\nREST equals Keras: True\n" in out


def test_tf1(tmp_path: Path) -> None:
    assert "y = [2.5, 3.0, 4.5]" in example("tf1.run", f"--work={tmp_path}")


def test_spam(tmp_path: Path) -> None:
    out = example("spam.run", f"--work={tmp_path}")
    for line in (
        "No versions of servable spam found under base path",
        "[(3, 'AVAILABLE')] ['spam', 'ham', 'spam']",
        "version 1: NOT_FOUND: Servable not found for request: Specific(spam, 1)",
        "Request to assign label to version 7 of model spam, which is not currently available for inference",
        "production: ['spam', 'ham', 'ham']",
        "beta:       ['spam', 'ham', 'spam']",
        "words:      [4, 5, 5]",
        "/v1/models/spam/versions/1:predict ['ham', 'ham', 'ham']",
        "/v1/models/spam/versions/3:predict ['spam', 'ham', 'spam']",
    ):
        assert line in out


def test_rollout(tmp_path: Path) -> None:
    out = example("rollout.run", f"--work={tmp_path}")
    first, second = out.split("== With --aspired_version_policy")
    assert "answers: [10.0, 20.0]   failed: 0" in first
    assert "failed, all of them NOT_FOUND: True" in second
    *_, unloaded, loaded = second.strip().splitlines()
    assert "Successfully unloaded servable version {name: scale version: 1}" in unloaded
    assert "Successfully loaded servable version {name: scale version: 2}" in loaded


def test_jpeg(tmp_path: Path) -> None:
    rest, grpc, true = lists_in(example("jpeg.run", f"--work={tmp_path}"))
    assert rest == grpc == true


@pytest.mark.skipif(
    shutil.which("openssl") is None, reason="the certificates are made with the command openssl"
)
def test_tls(mnist: Path, tmp_path: Path) -> None:
    out = example("tls.run", f"--model={mnist}", f"--work={tmp_path}")
    tls, mutual = out.split("== mutual TLS")
    assert tls.count("AVAILABLE") == 4
    assert mutual.count(": AVAILABLE") == 2
    assert mutual.count(": refused (UNAVAILABLE)") == 2


@pytest.mark.skipif(shutil.which("npm") is None, reason="the client is JavaScript: it needs node and npm")
def test_nodejs(mnist: Path, tmp_path: Path) -> None:
    """A digit drawn large, dark on light, as somebody with a mouse would; the model must see what numpy's client sees."""
    from examples.mnist.train import digits
    from examples.serving import serving

    for name in ("package.json", "client.js"):
        shutil.copy(ROOT / "examples" / "nodejs" / name, tmp_path)
    run("npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error", cwd=tmp_path)
    images, labels = digits()
    digit = Image.fromarray(255 - (images[0, :, :, 0] * 255).astype(np.uint8))
    digit.resize((140, 140), Image.Resampling.NEAREST).convert("RGBA").save(tmp_path / "digit.png")
    with serving("--model_name=mnist", f"--model_base_path={mnist}") as server:
        out = run(
            "node", "client.js", "digit.png", server.rest, server.grpc, str(ROOT / "protos"), cwd=tmp_path
        )
    assert out == f"REST: {labels[0]}\ngRPC: {labels[0]}\n"


def test_every_example_is_in_the_list() -> None:
    listed = (ROOT / "examples" / "README.md").read_text()
    for directory in sorted(
        one for one in (ROOT / "examples").iterdir() if one.is_dir() and one.name[0] not in "._"
    ):
        assert (directory / "README.md").is_file(), f"{directory} has no README"
        assert f"]({directory.name}/)" in listed, f"examples/README.md does not list {directory.name}"
