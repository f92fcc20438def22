"""The whole way with real parts: a server process, real clients, answers that equal Python TensorFlow's.

Models come in every way that people export them; clients are tensorflow-serving-api, a plain grpcio stub on our own descriptors,
`requests` and curl.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests
from support import Server, accepts, has_native_transport, plain_environment

from tfs import messages

# model -> its signature; the ways of exporting: simple_save, model.export, tf.saved_model.save of a Sequential and of a subclass.
SIGNATURES = {
    "half_plus_two": "serving_default",
    "mnist": "serving_default",
    "keras_sequential": "serving_default",
    "keras_subclassed": "call",
    "mnist_tf1": "serving_default",
}
PREDICT = "/tensorflow.serving.PredictionService/Predict"
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}
Recorded = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


@pytest.fixture(scope="module", params=["native", "grpcio"])
def served(
    request: pytest.FixtureRequest, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """One server of all the models, per transport."""
    if request.param == "native" and not has_native_transport():
        pytest.skip("this build has no native transport: libnghttp2 was not found when it was compiled")
    directory = tmp_path_factory.mktemp("served")
    lines = [
        f'config {{ name: "{name}" base_path: "{models / name}" model_platform: "tensorflow" }}'
        for name in SIGNATURES
    ]
    config = directory / "models.config"
    config.write_text("model_config_list {\n" + "\n".join(lines) + "\n}\n")
    server = Server(directory, [f"--model_config_file={config}"], request.param).wait_ready()
    yield server
    server.stop()


def recorded(models: Path, name: str) -> Recorded:
    """(inputs, outputs) as Python TensorFlow answered when the model was made."""
    arrays = np.load(models / "expected" / f"{name}.npz")
    inputs, outputs = (
        {key.partition("_")[2]: arrays[key] for key in arrays.files if key.startswith(side)}
        for side in ("in_", "out_")
    )
    return inputs, outputs


def predict_request(name: str, inputs: dict[str, np.ndarray], signature: str = "") -> messages.PredictRequest:
    request = messages.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    for alias, value in inputs.items():
        proto = request.inputs[alias]
        proto.dtype = messages.DataType.DT_FLOAT
        for size in value.shape:
            proto.tensor_shape.dim.add().size = size
        proto.float_val.extend(value.ravel().tolist())
    return request


def call(target: str, request: bytes, timeout: float | None = 30) -> messages.PredictResponse:
    """Predict with a plain grpcio stub; the request may be any bytes."""
    with grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        return messages.PredictResponse.FromString(channel.unary_unary(PREDICT)(request, timeout=timeout))


def floats(proto: Any) -> np.ndarray:
    return np.array(proto.float_val, np.float32).reshape([dim.size for dim in proto.tensor_shape.dim])


# --- answers ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIGNATURES)
def test_grpc_equals_tensorflow(served: Server, models: Path, name: str) -> None:
    inputs, outputs = recorded(models, name)
    response = call(served.target, predict_request(name, inputs, SIGNATURES[name]).SerializeToString())
    assert set(response.outputs) == set(outputs)
    for alias, value in outputs.items():
        np.testing.assert_allclose(floats(response.outputs[alias]), value, **TOLERANCE)
    assert (response.model_spec.name, response.model_spec.version.value) == (name, 1)
    assert response.model_spec.signature_name == SIGNATURES[name]


@pytest.mark.parametrize("layout", ["row", "column"])
@pytest.mark.parametrize("name", SIGNATURES)
def test_rest_equals_tensorflow(served: Server, models: Path, name: str, layout: str) -> None:
    inputs, outputs = recorded(models, name)
    (value,), (wanted,) = inputs.values(), outputs.values()
    body = {"signature_name": SIGNATURES[name], "instances" if layout == "row" else "inputs": value.tolist()}
    answer = requests.post(f"{served.url}/v1/models/{name}:predict", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    np.testing.assert_allclose(
        answer.json()["predictions" if layout == "row" else "outputs"], wanted, **TOLERANCE
    )


def test_serving_api_equals_tensorflow(served: Server, models: Path) -> None:
    pairs = [f"{name}:{signature}" for name, signature in SIGNATURES.items()]
    script = Path(__file__).with_name("serving_api_client.py")
    done = subprocess.run(
        [sys.executable, str(script), served.target, str(models / "expected"), *pairs],
        capture_output=True, text=True, env=plain_environment(), check=False, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{name} agrees" for name in SIGNATURES]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(served: Server) -> None:
    url = f"{served.url}/v1/models/half_plus_two"
    body = json.dumps({"instances": [1.0, 2.0, 5.0]})
    answer = subprocess.run(
        ["curl", "-s", "-d", body, f"{url}:predict"], capture_output=True, check=True, timeout=30
    )
    assert json.loads(answer.stdout) == {"predictions": [2.5, 3.0, 4.5]}
    status = subprocess.run(["curl", "-s", url], capture_output=True, check=True, timeout=30)
    (version,) = json.loads(status.stdout)["model_version_status"]
    assert (version["version"], version["state"]) == ("1", "AVAILABLE")


# --- what a client can get wrong disturbs nobody ------------------------------------------------------------------------------------


def half(name: str = "half_plus_two", alias: str = "x") -> messages.PredictRequest:
    return predict_request(name, {alias: np.array([1, 2, 5], np.float32)})


def with_dtype(dtype: int) -> bytes:
    request = half()
    request.inputs["x"].dtype = dtype
    return request.SerializeToString()


BAD_REQUESTS = {
    "not protobuf": (b"\xff\xff\xff", grpc.StatusCode.INVALID_ARGUMENT),
    "empty": (b"", grpc.StatusCode.INVALID_ARGUMENT),
    "unknown model": (half("nobody").SerializeToString(), grpc.StatusCode.NOT_FOUND),
    "unknown alias": (half(alias="z").SerializeToString(), grpc.StatusCode.INVALID_ARGUMENT),
    "wrong dtype": (with_dtype(3), grpc.StatusCode.INVALID_ARGUMENT),
    "unknown signature": (
        predict_request("half_plus_two", {}, "nowhere").SerializeToString(),
        grpc.StatusCode.FAILED_PRECONDITION,
    ),
}


@pytest.mark.parametrize("what", BAD_REQUESTS)
def test_bad_grpc_request(served: Server, what: str) -> None:
    body, code = BAD_REQUESTS[what]
    with pytest.raises(grpc.RpcError) as caught:
        call(served.target, body)
    assert caught.value.code() == code
    assert caught.value.details()
    assert "Traceback" not in caught.value.details()
    assert list(call(served.target, half().SerializeToString()).outputs["y"].float_val) == [2.5, 3.0, 4.5]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"instances": "x"}', b'{"instances": [1, [2]]}', b'{"instances": [{"z": 1}]}'],
)
def test_bad_rest_request(served: Server, body: bytes) -> None:
    url = f"{served.url}/v1/models/half_plus_two:predict"
    answer = requests.post(url, data=body, timeout=30)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert "Traceback" not in answer.text
    assert requests.post(url, data=b'{"instances": [1.0]}', timeout=30).json() == {"predictions": [2.5]}


def test_unknown_method_is_unimplemented(served: Server) -> None:
    with grpc.insecure_channel(served.target) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/tensorflow.serving.PredictionService/Nothing")(b"", timeout=30)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_no_call_of_a_burst_is_lost(served: Server) -> None:
    """grpcio cancels calls of a burst that nobody has picked up yet, unless it is told not to."""

    async def burst() -> list[bytes]:
        async with grpc.aio.insecure_channel(served.target) as channel:
            method = channel.unary_unary(PREDICT)
            return await asyncio.gather(
                *(method(half().SerializeToString(), timeout=60) for _ in range(5000))
            )

    answers = asyncio.run(burst())
    assert len(answers) == 5000
    assert len(set(answers)) == 1


def test_python_tensorflow_is_not_in_the_process(served: Server) -> None:
    mapped = Path(f"/proc/{served.pid}/maps").read_text()
    assert "libtensorflow_cc" in mapped
    assert "_pywrap_tensorflow" not in mapped


# --- start and stop -------------------------------------------------------------------------------------------------------------------


def test_ready_lines(served: Server) -> None:
    log = served.log()
    assert f"Running gRPC ModelServer at 127.0.0.1:{served.grpc_port} ..." in log
    assert f"Exporting HTTP/REST API at:localhost:{served.rest_port} ..." in log


def test_unix_socket(server: Callable[..., Server], tmp_path: Path, transport: str) -> None:
    path = tmp_path / "grpc.sock"
    one = server("half_plus_two", f"--grpc_socket_path={path}", transport=transport)
    for target in (f"unix:{path}", one.target):
        assert list(call(target, half().SerializeToString()).outputs["y"].float_val) == [2.5, 3.0, 4.5]


def test_sigterm_finishes_what_is_in_flight(server: Callable[..., Server], transport: str) -> None:
    """A call under way when the signal comes is answered, and the process ends with status 0."""
    one = server("slow_loop", transport=transport)
    with grpc.insecure_channel(one.target) as channel:
        request = half("slow_loop").SerializeToString()
        under_way = channel.unary_unary(PREDICT).future(request, timeout=60)
        other = channel.unary_unary("/tensorflow.serving.ModelService/GetModelStatus")
        status = messages.GetModelStatusRequest()
        status.model_spec.name = "slow_loop"
        other(status.SerializeToString(), timeout=30)  # answered: the first call has arrived too
        one.process.terminate()
        assert messages.PredictResponse.FromString(under_way.result()).outputs["y"].float_val
    assert one.wait_exit() == 0


# flags -> a piece of the one line that says what is wrong; {models} and {tmp} are filled in.
BAD_STARTS = {
    "no model": ([], "model_base_path"),
    "config file missing": (["--model_config_file={tmp}/nowhere.config"], "{tmp}/nowhere.config"),
    "config file broken": (["--model_config_file={tmp}/broken.config"], "broken.config"),
    "batching file without batching": (
        ["--model_base_path={models}/mnist", "--batching_parameters_file={tmp}/b"],
        "batching_parameters_file",
    ),
    "not a number": (["--model_base_path={models}/mnist", "--port=high"], "port"),
    "unknown flag": (["--model_base_path={models}/mnist", "--nonsense=1"], "nonsense"),
    "no SavedModel": (["--model_base_path={tmp}/hollow", "--max_num_load_retries=0"], "{tmp}/hollow/1"),
    "broken SavedModel": (["--model_base_path={tmp}/garbled", "--max_num_load_retries=0"], "{tmp}/garbled/1"),
}


def test_missing_base_path_is_waited_for(
    start_server: Callable[..., Server], models: Path, tmp_path: Path
) -> None:
    """As the reference does: the directory is named at once, the ports stay closed, and it is served when it appears."""
    base = tmp_path / "late"
    one = start_server(f"--model_base_path={base}", "--model_name=late", "--file_system_poll_wait_seconds=1")
    one.wait_log(f"{base} not found")
    assert not accepts(one.grpc_port)
    shutil.copytree(models / "half_plus_two", base)
    one.wait_ready()
    assert list(call(one.target, half("late").SerializeToString()).outputs["y"].float_val) == [2.5, 3.0, 4.5]
    one.stop()


def test_sigterm_while_waiting_for_a_model(start_server: Callable[..., Server], tmp_path: Path) -> None:
    one = start_server(f"--model_base_path={tmp_path}/nowhere")
    one.wait_log("nowhere not found")
    one.stop()


@pytest.mark.parametrize("delay_s", [0.4, 0.7, 1.0])
def test_sigterm_during_the_start_leaves_no_traceback(
    start_server: Callable[..., Server], tmp_path: Path, delay_s: float
) -> None:
    """Whatever the start is at: the delays are what is tried."""
    one = start_server(f"--model_base_path={tmp_path}/nowhere")
    with contextlib.suppress(subprocess.TimeoutExpired):
        one.process.wait(delay_s)
    one.process.terminate()
    one.process.wait(20)
    assert "Traceback" not in one.log()


@pytest.mark.parametrize("what", BAD_STARTS)
def test_bad_start(start_server: Callable[..., Server], models: Path, tmp_path: Path, what: str) -> None:
    """One line that names the thing, no traceback, an exit status that is not 0."""
    (tmp_path / "hollow" / "1").mkdir(parents=True)
    (tmp_path / "garbled" / "1").mkdir(parents=True)
    (tmp_path / "garbled" / "1" / "saved_model.pb").write_bytes(b"\xff" * 64)
    (tmp_path / "broken.config").write_text("model_config_list { config {")
    flags, piece = BAD_STARTS[what]
    places = {"models": models, "tmp": tmp_path}
    one = start_server(*(flag.format(**places) for flag in flags))
    assert one.wait_exit(60) not in (0, -11, -6)
    log = one.log()
    assert "Traceback" not in log
    assert any(piece.format(**places) in line for line in log.splitlines()), log


def test_a_taken_grpc_port(start_server: Callable[..., Server], models: Path, transport: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        base = f"--model_base_path={models / 'half_plus_two'}"
        one = start_server(base, f"--port={port}", transport=transport)
        assert one.wait_exit(60) == 255
    assert "Traceback" not in one.log()
    assert "INVALID_ARGUMENT: Failed to BuildAndStart gRPC server" in one.log()
    assert f"cannot listen on 127.0.0.1:{port}" in one.log()


def test_a_taken_rest_port(start_server: Callable[..., Server], models: Path) -> None:
    """gRPC is served all the same, as by the reference."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        one = start_server(f"--model_base_path={models / 'half_plus_two'}", f"--rest_api_port={port}")
        one.wait_log("Running gRPC ModelServer")
        one.wait_log(f"Failed to start HTTP Server at localhost:{port}")
        one.stop()
    assert "Traceback" not in one.log()
