"""Batching in a real server process: calls of many clients meet, and nobody spoils another's call."""

from __future__ import annotations

import json
import math
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from support import Server, wait_until
from wiretools import entry, field, floats, request, spec, tensor

from tfs import messages

PREDICT = "/tensorflow.serving.PredictionService/Predict"
FLOAT, INT32 = 1, 3
TRANSPORTS = ["native", "grpcio"]
MINUTE_US = 60_000_000

Start = Callable[..., Server]


def parameters(path: Path, **values: int) -> str:
    """Writes a batching file; returns its flag."""
    lines = []
    for name, value in values.items():
        lines.append(f"{name}: {value}" if name == "allowed_batch_sizes" else f"{name} {{ value: {value} }}")
    path.write_text("\n".join(lines))
    return f"--batching_parameters_file={path}"


class Client:
    def __init__(self, server: Server, model: str) -> None:
        self._channel = grpc.insecure_channel(server.target)
        self._predict = self._channel.unary_unary(
            PREDICT, response_deserializer=messages.PredictResponse.FromString
        )
        self._model = model
        self._url = server.url

    def call(
        self, *values: float, shape: tuple[int, ...] | None = None, timeout_s: float = 30
    ) -> list[float]:
        """The output `y` for the input `x`."""
        body = request(
            entry("x", tensor(FLOAT, (len(values),) if shape is None else shape, field(4, floats(*values)))),
            head=spec(self._model),
        )
        answer: list[float] = list(self._predict(body, timeout=timeout_s).outputs["y"].float_val)
        return answer

    def metric(self, name: str) -> float:
        """The sum of the samples that begin with `name`; 0 when there are none."""
        with urllib.request.urlopen(f"{self._url}/metrics") as page:
            lines = page.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def rest(self, *values: float) -> list[float]:
        body = json.dumps({"instances": values}).encode()
        with urllib.request.urlopen(f"{self._url}/v1/models/{self._model}:predict", body) as answer:
            predictions: list[float] = json.load(answer)["predictions"]
        return predictions


RUNS = ":tensorflow:serving:batching_session:wrapped_run_count"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_clients_meet(server: Start, tmp_path: Path, transport: str) -> None:
    """A batch of eight that would wait for a minute runs as soon as eight rows are there, from whatever transport."""
    flag = parameters(tmp_path / "b", max_batch_size=8, batch_timeout_micros=MINUTE_US)
    client = Client(server("half_plus_two", "--enable_batching", flag, transport=transport), "half_plus_two")
    with ThreadPoolExecutor(6) as pool:
        grpc_calls = [pool.submit(client.call, float(i)) for i in range(4)]
        wide = pool.submit(client.call, 10.0, 12.0)
        rest = pool.submit(client.rest, 20.0, 22.0)
        assert [call.result() for call in grpc_calls] == [[i / 2 + 2] for i in range(4)]
        assert wide.result() == [7.0, 8.0]
        assert rest.result() == [12.0, 13.0]
    assert client.metric(RUNS) == 1
    assert client.metric("tfs_batch_rows_total") == 8
    assert client.metric("tfs_batch_queued_calls") == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_good_calls_beside_bad_ones(server: Start, tmp_path: Path, transport: str) -> None:
    """Misshapen calls and bad values stream in beside good ones: not one good call fails."""
    flag = parameters(tmp_path / "b", max_batch_size=16, batch_timeout_micros=1000, max_enqueued_batches=100)
    client = Client(server("poison", "--enable_batching", flag, transport=transport), "poison")
    end = time.monotonic() + 2
    good = [0] * 4
    bad = {"value": 0, "shape": 0}

    def send_good(index: int) -> None:
        while time.monotonic() < end:
            value = float(good[index])
            assert client.call(value) == [value / 2 + 2]
            good[index] += 1

    def send_bad_values() -> None:
        while time.monotonic() < end:
            with pytest.raises(grpc.RpcError, match="poison"):
                client.call(math.nan)
            bad["value"] += 1

    def send_bad_shapes() -> None:
        while time.monotonic() < end:
            with pytest.raises(grpc.RpcError):
                client.call(1.0, shape=())
            assert client.call(1.0, 2.0, shape=(1, 2)) == [2.5, 3.0]
            bad["shape"] += 1

    with ThreadPoolExecutor(8) as pool:
        work = [pool.submit(send_good, i) for i in range(4)]
        work += [pool.submit(send_bad_values) for _ in range(2)] + [pool.submit(send_bad_shapes)]
        for one in work:
            one.result()
    assert min(good) > 0
    assert min(bad.values()) > 0
    assert client.metric("tfs_batch_spoiled_calls_total") == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_who_expires_in_the_queue_is_answered_and_not_run(
    server: Start, tmp_path: Path, transport: str
) -> None:
    flag = parameters(tmp_path / "b", max_batch_size=2, batch_timeout_micros=MINUTE_US)
    client = Client(server("half_plus_two", "--enable_batching", flag, transport=transport), "half_plus_two")
    with pytest.raises(grpc.RpcError) as caught:
        client.call(1.0, timeout_s=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert client.metric(RUNS) == 0
    assert client.call(5.0) == [
        4.5
    ]  # its batch is full with the row of the one that left, and runs without it
    assert client.metric("tfs_batch_rows_total") == 1
    assert client.metric("tfs_batch_skipped_calls_total") == 1


def test_a_changed_file_is_taken_over_while_calls_come(server: Start, tmp_path: Path) -> None:
    file = tmp_path / "b"
    flag = parameters(file, max_batch_size=4, allowed_batch_sizes=4)
    client = Client(
        server("half_plus_two", "--enable_batching", flag, "--model_config_file_poll_wait_seconds=1"),
        "half_plus_two",
    )
    size_8 = ':tensorflow:serving:batching_session:padding_size_count{execution_batch_size="8"}'
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            assert client.call(3.0) == [3.5]

    with ThreadPoolExecutor(1) as pool:
        calls = pool.submit(load)
        wait_until(lambda: client.metric(RUNS) > 0 or calls.done(), 30, "a first batch")
        assert client.metric(size_8) == 0
        parameters(file, max_batch_size=8, allowed_batch_sizes=8)
        try:
            wait_until(lambda: client.metric(size_8) > 0 or calls.done(), 30, "a batch of the new size")
        finally:
            stop.set()
        calls.result()
    with pytest.raises(grpc.RpcError, match="maximum input batch size 8"):
        client.call(*range(9))


def test_wrong_settings_keep_the_model_from_loading(
    start_server: Start, models: Path, tmp_path: Path
) -> None:
    flag = parameters(tmp_path / "b", max_batch_size=8, allowed_batch_sizes=4)
    failing = start_server(
        "--model_name=m",
        f"--model_base_path={models / 'half_plus_two'}",
        "--enable_batching",
        flag,
        "--max_num_load_retries=0",
    )
    assert failing.wait_exit() == 255
    assert (
        "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; expected 8"
        in failing.log()
    )
