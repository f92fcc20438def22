"""Versions that come, go and break under a real server with real clients; nobody's call may suffer."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import requests
from support import Server, wait_until

from tfs import messages

PREDICT = "/tensorflow.serving.PredictionService/Predict"
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
# Adds its version's number: 1, 2, 3, 5 and 10 exist.
PLUS = Path(__file__).parents[1] / "conformance" / "models" / "plus"
NO_RETRIES = ("--max_num_load_retries=0", "--load_retry_interval_micros=0")


def publish(base: Path, version: int) -> None:
    hidden = base / f".{version}"
    shutil.copytree(PLUS / str(version), hidden)
    hidden.rename(base / str(version))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base path of our own with version 1."""
    made = tmp_path / "m"
    made.mkdir()
    publish(made, 1)
    return made


def states(server: Server, model: str) -> dict[int, str]:
    answer = requests.get(f"{server.url}/v1/models/{model}", timeout=10)
    statuses = answer.json().get("model_version_status", [])
    return {int(status["version"]): status["state"] for status in statuses}


def wait_states(server: Server, model: str, wanted: dict[int, str]) -> None:
    wait_until(lambda: wanted.items() <= states(server, model).items(), 30, f"{model} to be {wanted}")


def config(*models: tuple[str, Path]) -> str:
    lines = [f'config {{ name: "{n}" base_path: "{p}" model_platform: "tensorflow" }}' for n, p in models]
    return "model_config_list {\n" + "\n".join(lines) + "\n}\n"


class Caller:
    """Asks m for 1.0 over and over on its own thread; every answer must fit the version that it names."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.seen: list[int] = []
        self.faults: list[str] = []
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        request = messages.PredictRequest()
        request.model_spec.name = "m"
        request.inputs["x"].dtype = 1
        request.inputs["x"].tensor_shape.dim.add(size=1)
        request.inputs["x"].float_val.append(1.0)
        with grpc.insecure_channel(self.server.target) as channel:
            predict = channel.unary_unary(PREDICT)
            while not self.done.is_set():
                try:
                    answer = messages.PredictResponse.FromString(
                        predict(request.SerializeToString(), timeout=10)
                    )
                except grpc.RpcError as e:
                    self.faults.append(f"{e.code()}: {e.details()}")
                    continue
                version = answer.model_spec.version.value
                if list(answer.outputs["y"].float_val) != [1.0 + version]:
                    self.faults.append(f"version {version} answered {answer.outputs['y']}")
                self.seen.append(version)


@contextmanager
def calling(server: Server) -> Iterator[Caller]:
    caller = Caller(server)
    caller.thread.start()
    try:
        yield caller
    finally:
        caller.done.set()
        caller.thread.join(30)


def test_no_call_notices_a_swap(start_server: Callable[..., Server], base: Path, transport: str) -> None:
    server = start_server(
        "--model_name=m",
        f"--model_base_path={base}",
        "--file_system_poll_wait_seconds=1",
        transport=transport,
    ).wait_ready()
    with calling(server) as caller:
        old = 1
        for new in (2, 3, 5):
            publish(base, new)
            wait_states(server, "m", {old: "END", new: "AVAILABLE"})
            shutil.rmtree(base / str(old))
            old = new
        calls = len(caller.seen)
        wait_until(lambda: len(caller.seen) > calls, 10, "a call to the last version")
    assert caller.faults == []
    assert caller.seen == sorted(caller.seen)
    assert set(caller.seen) == {1, 2, 3, 5}
    server.stop()


def test_a_broken_version_is_reported_and_the_old_one_serves(
    start_server: Callable[..., Server], base: Path
) -> None:
    server = start_server(
        "--model_name=m", f"--model_base_path={base}", "--file_system_poll_wait_seconds=1", *NO_RETRIES
    ).wait_ready()
    (base / "2").symlink_to("nowhere")
    wait_states(server, "m", {2: "END", 1: "AVAILABLE"})
    status = requests.get(f"{server.url}/v1/models/m/versions/2", timeout=10).json()["model_version_status"]
    assert status[0]["status"] == {
        "error_code": "NOT_FOUND",
        "error_message": "Error while attempting to reserve resources to load servable {name: m version: 2}: "
        f"{base}/2; No such file or directory",
    }
    answer = requests.post(f"{server.url}/v1/models/m:predict", json={"instances": [1.0]}, timeout=10)
    assert answer.json() == {"predictions": [2.0]}
    server.stop()


def test_the_config_file_is_polled_and_a_bad_one_ignored(
    start_server: Callable[..., Server], base: Path, tmp_path: Path
) -> None:
    file = tmp_path / "models.conf"
    file.write_text(config(("a", base)))
    server = start_server(
        f"--model_config_file={file}", "--model_config_file_poll_wait_seconds=1"
    ).wait_ready()
    file.write_text("model_config_list { config { nome: 'a' } }")
    server.wait_log("Invalid protobuf file")
    file.write_text(config(("a", base), ("b", base)))
    wait_states(server, "b", {1: "AVAILABLE"})
    file.write_text(config(("b", base)))
    wait_states(server, "a", {1: "END"})
    assert states(server, "b") == {1: "AVAILABLE"}
    server.stop()


def test_a_reload_with_a_missing_path_answers_and_changes_no_other(
    start_server: Callable[..., Server], base: Path, tmp_path: Path
) -> None:
    server = start_server("--model_name=m", f"--model_base_path={base}").wait_ready()
    request = messages.ReloadConfigRequest()
    for name, path in (("m", base), ("n", tmp_path / "absent")):
        request.config.model_config_list.config.add(
            name=name, base_path=str(path), model_platform="tensorflow"
        )
    with grpc.insecure_channel(server.target) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(RELOAD)(request.SerializeToString(), timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNKNOWN
    assert "1 model(s) did not become available: " in caught.value.details()
    assert f"Could not find base path {tmp_path}/absent for servable n" in caught.value.details()
    assert states(server, "m") == {1: "AVAILABLE"}
    server.stop()


def test_a_start_without_all_models_by_flag_only(
    start_server: Callable[..., Server], base: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken" / "1").mkdir(parents=True)
    file = tmp_path / "models.conf"
    file.write_text(config(("a", base), ("broken", tmp_path / "broken"), ("none", tmp_path / "absent")))
    server = start_server(f"--model_config_file={file}", "--allow_partial_startup").wait_ready()
    assert states(server, "a") == {1: "AVAILABLE"}
    assert states(server, "broken") == {1: "LOADING"}  # to be tried again in a minute
    server.stop()
    file.write_text(config(("a", base), ("broken", tmp_path / "broken")))
    strict = start_server(f"--model_config_file={file}", *NO_RETRIES)
    assert strict.wait_exit() == 255
    assert (
        "Failed to start server. Error: UNKNOWN: 1 servable(s) did not become available: "
        "{{{name: broken version: 1} due to error: NOT_FOUND: Specified file path does not appear to contain a SavedModel"
    ) in strict.log()
