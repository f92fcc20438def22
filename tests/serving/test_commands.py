"""The sub-commands and the client's three faces against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import Server, plain_environment

from tfs import cli
from tfs.client import AsyncClient, Client, RestClient, State
from tfs.errors import NotFound
from tfs.lifecycle import tfrecord
from tfs.messages import PredictionLog

RECORDED = Path(__file__).parents[1] / "conformance" / "models"


@pytest.fixture
def dense(start_server: Callable[..., Server]) -> Server:
    return start_server("--model_name=dense", f"--model_base_path={RECORDED}/keras_dense").wait_ready()


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = cli.main(list(arguments))
    return status, capsys.readouterr().out


def test_the_commands(dense: Server, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for server in (dense.target, dense.url):
        assert run(capsys, "status", server, "dense")[1].split()[3:] == ["1", "AVAILABLE"]
        status, out = run(capsys, "predict", server, "dense", "[[1, 2, 3]]", "--json")
        assert status == 0
        assert json.loads(out) == {"version": 1, "outputs": {"output_0": [[22.5, 27.5]]}}
        assert "DT_FLOAT  [?, 3]" in run(capsys, "inspect", server, "dense", "--version", "1")[1]
        status, out = run(capsys, "load", server, "dense", "--rate", "50", "--seconds", "0.5", "--json")
        found = json.loads(out)
        assert status == 0
        assert set(found["codes"]) == {"OK"}
        assert found["latency_ms"]["p50"] > 0
    status, out = run(capsys, "predict", dense.target, "dense", "[[1, 2, 3]]")
    assert out == "output_0: float32 [1, 2]\n[[22.5, 27.5]]\n"
    assert cli.main(["status", dense.target, "none"]) == 1

    config = tmp_path / "two.config"
    config.write_text(
        "model_config_list {"
        + "".join(
            f'config {{ name: "{name}" base_path: "{RECORDED}/{base}" model_platform: "tensorflow" }}'
            for name, base in (("dense", "keras_dense"), ("affine", "affine"))
        )
        + "}"
    )
    assert run(capsys, "reload", dense.target, str(config))[0] == 0
    status, out = run(capsys, "models", str(config), "--server", dense.target, "--json")
    states = {(row["model"], row["version"]): row["state"] for row in json.loads(out)}
    assert states[("affine", 3)] == states[("dense", 1)] == "AVAILABLE"
    status, out = run(capsys, "models", dense.url, "--json")
    assert {(row["model"], row["version"], row["state"]) for row in json.loads(out)} >= {
        ("affine", 3, "AVAILABLE"),
        ("dense", 1, "AVAILABLE"),
    }
    dense.stop()


def test_warmup_record(dense: Server, tmp_path: Path) -> None:
    version = tmp_path / "1"
    version.mkdir()
    (version / "saved_model.pb").write_bytes(b"\x08\x01")
    command = [sys.executable, "-m", "tfs", "warmup", "record", str(version), dense.target, "--count", "2"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=plain_environment()) as recorder,
        contextlib.ExitStack() as ended,
    ):
        ended.callback(recorder.kill)
        assert recorder.stdout is not None
        address = recorder.stdout.readline().split()[4]
        with Client(address) as client:
            assert client.status("dense")[0].state is State.AVAILABLE  # passes, and is no warm-up
            for row in ([1, 2, 3], [4, 5, 6]):
                client.predict("dense", {"features": np.array([row], np.float32)})
        assert recorder.wait(20) == 0
    with (version / "assets.extra" / "tf_serving_warmup_requests").open("rb") as file:
        logs = [PredictionLog.FromString(body).predict_log.request for body in tfrecord.read(file)]
    sent = [np.frombuffer(log.inputs["features"].tensor_content, np.float32).tolist() for log in logs]
    assert sorted(sent) == [[1, 2, 3], [4, 5, 6]]
    dense.stop()


def test_three_faces_of_the_client(start_server: Callable[..., Server]) -> None:
    server = start_server("--model_name=affine", f"--model_base_path={RECORDED}/affine").wait_ready()
    x = np.array([1, 2], np.float32)
    with Client(server.target) as client, RestClient(server.url) as rest:
        signature = client.metadata("affine").signatures["serving_default"]
        assert rest.metadata("affine").signatures["serving_default"] == signature
        (alias,) = signature.inputs
        (output,) = signature.outputs
        ours = client.predict("affine", {alias: x})
        assert ours.version == 3
        np.testing.assert_allclose(rest.predict("affine", {alias: x})[output], ours[output])
        examples = [{"x": 1.0}, {"x": 2.0}]
        ours_regressed = client.regress("affine", examples, signature="regress_y")
        np.testing.assert_allclose(rest.regress("affine", examples, signature="regress_y"), ours_regressed)
        classes = client.classify("affine", examples, signature="classify_y")
        assert rest.classify("affine", examples, signature="classify_y") == classes
        assert rest.status("affine") == client.status("affine")
        for one in (client, rest):
            with pytest.raises(NotFound, match="none"):
                one.predict("none", {alias: x})

    async def awaited() -> None:
        async with AsyncClient(server.target) as other:
            found = await asyncio.gather(*(other.predict("affine", {alias: x}) for _ in range(20)))
            for one in found:
                np.testing.assert_allclose(one[output], ours[output])

    asyncio.run(awaited())
    server.stop()
