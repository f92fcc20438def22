"""SIGTERM while a model is stuck: the grace is kept, then the runs are cancelled and the process ends in order."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import requests
from support import Server, wait_until

from tfs import messages

GRACE_S = 0.5
PATIENCE_S = 15.0  # how long a stuck run may hold the process beyond the grace, on a slow machine


def stuck_request() -> bytes:
    request = messages.PredictRequest()
    request.model_spec.name = "stuck"
    x = request.inputs["x"]
    x.dtype = 1
    x.tensor_shape.dim.add().size = 1
    x.float_val.append(1.0)
    return bytes(request.SerializeToString())


def test_stuck_runs_do_not_hold_the_process(
    start_server: Callable[..., Server], models: Path, transport: str
) -> None:
    server = start_server(
        "--model_name=stuck",
        f"--model_base_path={models / 'stuck'}",
        f"--shutdown_grace_seconds={GRACE_S}",
        "--enable_model_warmup=false",
        transport=transport,
    ).wait_ready()
    with grpc.insecure_channel(server.target) as channel, ThreadPoolExecutor(2) as pool:
        predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        calls = [pool.submit(predict, stuck_request(), timeout=60) for _ in range(2)]
        page = f"{server.url}/metrics"

        def running() -> bool:
            return "tfs_running_calls 2" in requests.get(page, timeout=5).text

        wait_until(running, 20, "both calls inside the model")
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < GRACE_S + PATIENCE_S
        for call in calls:
            with pytest.raises(grpc.RpcError):
                call.result(timeout=5)
