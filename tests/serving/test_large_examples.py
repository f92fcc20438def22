"""Classify with 64 MiB of Examples: the server answers others meanwhile, by both transports."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from support import Server

from tfs import messages

MODEL = Path(__file__).resolve().parents[1] / "conformance" / "models" / "examples"
SERVICE = "/tensorflow.serving."
UNLIMITED = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
]


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_others_are_answered_meanwhile(server: Callable[..., Server], transport: str) -> None:
    one = server(
        "--model_name=m",
        f"--model_base_path={MODEL}",
        "--enable_grpc_healthcheck_service",
        transport=transport,
    )
    example = messages.Example()
    example.features.feature["x"].float_list.value.append(1.0)
    example.features.feature["unused"].bytes_list.value.append(bytes(64))
    request = messages.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", "classes_only"
    request.input.example_list.examples.extend([example] * ((64 << 20) // example.ByteSize()))
    body = request.SerializeToString()
    assert len(body) > 60 << 20
    with (
        grpc.insecure_channel(one.target, UNLIMITED) as sending,
        grpc.insecure_channel(one.target, UNLIMITED) as asking,
    ):
        check = asking.unary_unary("/grpc.health.v1.Health/Check")
        check(b"", timeout=20)
        began = time.monotonic()
        call = sending.unary_unary(SERVICE + "PredictionService/Classify").future(body, timeout=120)
        longest = 0.0
        while not call.done():
            asked = time.monotonic()
            assert check(b"", timeout=20) == b"\x08\x01"
            longest = max(longest, time.monotonic() - asked)
        assert call.code() is grpc.StatusCode.OK, call.details()
        whole = time.monotonic() - began
    # Milliseconds as a rule; nearly all of the time when the loop waits for the work.
    assert longest < whole / 3, (longest, whole)
