"""A CHECK failure inside a kernel ends the process; the log must say whose call it was.

The recorded CNN aborts in oneDNN when an image comes flat (the reference server dies of it, too).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from support import Server

from tfs import messages

CNN = Path(__file__).parents[1] / "conformance" / "models" / "cnn"


def flat_image() -> bytes:
    request = messages.PredictRequest()
    request.model_spec.name = "cnn"
    image = request.inputs["image"]
    image.dtype = 1
    for size in (1, 784):
        image.tensor_shape.dim.add().size = size
    image.float_val.append(0.0)
    return bytes(request.SerializeToString())


def test_the_log_names_what_was_running(
    start_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "TF_ENABLE_ONEDNN_OPTS", "1"
    )  # the check that fails is oneDNN's; training scripts turn it off
    server = start_server("--model_name=cnn", f"--model_base_path={CNN}").wait_ready()
    with grpc.insecure_channel(server.target) as channel:
        predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        with pytest.raises(grpc.RpcError) as caught:
            predict(flat_image(), timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE, caught.value.details()
    assert server.wait_exit() == -6
    assert "tfs: fatal signal 6 while running model cnn version 1 signature serving_default" in server.log()
