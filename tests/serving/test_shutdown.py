"""SIGTERM while a model or a reload is stuck: the grace is kept, then what is under way is cancelled and the process ends in order."""

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


def test_a_reload_that_waits_does_not_hold_the_process(
    start_server: Callable[..., Server], models: Path, tmp_path: Path, transport: str
) -> None:
    """Its new model is broken and tried again once a minute."""
    server = start_server(
        "--model_name=stuck",
        f"--model_base_path={models / 'stuck'}",
        f"--shutdown_grace_seconds={GRACE_S}",
        "--enable_model_warmup=false",
        transport=transport,
    ).wait_ready()
    (tmp_path / "broken" / "1").mkdir(parents=True)
    request = messages.ReloadConfigRequest()
    for name, path in (("stuck", models / "stuck"), ("broken", tmp_path / "broken")):
        request.config.model_config_list.config.add(
            name=name, base_path=str(path), model_platform="tensorflow"
        )
    with grpc.insecure_channel(server.target) as channel:
        reload = channel.unary_unary("/tensorflow.serving.ModelService/HandleReloadConfigRequest")
        call = reload.future(request.SerializeToString(), timeout=60)
        server.wait_log("trying again in 60 s")
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < GRACE_S + PATIENCE_S
        assert isinstance(call.exception(timeout=5), grpc.RpcError)
