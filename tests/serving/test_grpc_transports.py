"""One suite, both gRPC transports: a real server, real models, grpcio clients (sync and aio).

What only one transport has is tested beside it: test_grpc_native.py, test_grpc_aio.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from support import Server, has_native_transport
from wiretools import entry, field, floats, request, spec, tensor

from tfs import messages

SERVICE = "/tensorflow.serving.PredictionService/"
PREDICT = f"{SERVICE}Predict"
MODELS = ("half_plus_two", "echo", "slow_loop", "stuck")
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
FLOAT = 1
PATIENCE_S = 60


def configuration(models: Path) -> str:
    one = 'config {{ name: "{0}" base_path: "{1}" model_platform: "tensorflow" }}'
    return f"model_config_list {{ {' '.join(one.format(name, models / name) for name in MODELS)} }}"


@pytest.fixture(scope="module", params=["native", "grpcio"])
def server(
    request: pytest.FixtureRequest, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    if request.param == "native" and not has_native_transport():
        pytest.skip("this build has no native transport: libnghttp2 was not found when it was compiled")
    directory = tmp_path_factory.mktemp(str(request.param))
    (directory / "models").write_text(configuration(models))
    flags = [
        f"--model_config_file={directory / 'models'}",
        "--enable_grpc_healthcheck_service",
        f"--grpc_socket_path={directory / 'socket'}",
    ]
    started = Server(directory, flags, str(request.param))
    try:
        yield started.wait_ready()
    finally:
        started.kill()  # not stopped: the model `stuck` keeps its runs until their deadline


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.target, options=UNLIMITED) as channel:
        yield channel


def predict(model: str, *values: float, alias: str = "x") -> bytes:
    return request(entry(alias, tensor(FLOAT, [len(values)], field(5, floats(*values)))), head=spec(model))


def answer(reply: bytes) -> list[float]:
    return list(messages.PredictResponse.FromString(reply).outputs["y"].float_val)


def refusal(call: Any, *arguments: Any, **keywords: Any) -> tuple[int, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **keywords)
    return caught.value.code().value[0], caught.value.details()


def test_the_transport_is_the_one_that_was_asked_for(server: Server) -> None:
    assert "gRPC is served by grpcio" not in server.log()


def test_predict(channel: grpc.Channel) -> None:
    assert answer(channel.unary_unary(PREDICT)(predict("half_plus_two", 1, 2, 5))) == [2.5, 3.0, 4.5]


def test_the_unix_socket(server: Server) -> None:
    with grpc.insecure_channel(f"unix:{server.log_path.parent / 'socket'}") as channel:
        assert answer(channel.unary_unary(PREDICT)(predict("half_plus_two", 1))) == [2.5]


def test_many_calls_at_once(server: Server) -> None:
    async def run() -> list[bytes]:
        async with grpc.aio.insecure_channel(server.target) as channel:
            call = channel.unary_unary(PREDICT)
            return await asyncio.gather(*(call(predict("half_plus_two", i)) for i in range(500)))

    assert [answer(reply) for reply in asyncio.run(run())] == [[i / 2 + 2] for i in range(500)]


def test_64_mib_both_ways(channel: grpc.Channel) -> None:
    size = 16 << 20
    content = field(4, bytes(range(256)) * (size // 64))
    reply = channel.unary_unary(PREDICT)(
        request(entry("x", tensor(FLOAT, [size], content)), head=spec("echo")), timeout=PATIENCE_S
    )
    assert len(reply) > 4 * size
    assert bytes(range(256)) * 100 in reply[:100_000]


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests(channel: grpc.Channel, compression: grpc.Compression) -> None:
    sent = predict("echo", *[1.0] * 10_000)
    assert answer(channel.unary_unary(PREDICT)(sent, compression=compression)) == [1.0] * 10_000


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (predict("nobody", 1), 5, "Servable not found for request: Latest(nobody)"),
        (predict("half_plus_two", 1, alias="z"), 3, None),
        (predict("half_plus_two"), 0, None),
        (b"\xff\xff\xff", 3, None),
        (b"", 3, None),
    ],
)
def test_errors(channel: grpc.Channel, body: bytes, code: int, text: str | None) -> None:
    if code == 0:
        assert answer(channel.unary_unary(PREDICT)(body)) == []
        return
    got = refusal(channel.unary_unary(PREDICT), body)
    assert got[0] == code
    assert got[1] == text or text is None


def test_unknown_methods(channel: grpc.Channel) -> None:
    assert refusal(channel.unary_unary(f"{SERVICE}Nope"), b"")[0] == 12
    assert refusal(channel.unary_unary("/tensorflow.serving.SessionService/SessionRun"), b"")[0] == 12


def test_the_other_methods(channel: grpc.Channel) -> None:
    asked = messages.GetModelStatusRequest(model_spec={"name": "half_plus_two"}).SerializeToString()
    reply = channel.unary_unary("/tensorflow.serving.ModelService/GetModelStatus")(asked)
    (state,) = messages.GetModelStatusResponse.FromString(reply).model_version_status
    assert (state.version, state.state) == (1, 30)
    assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"") == b"\x08\x01"
    assert refusal(channel.unary_unary(f"{SERVICE}GetModelMetadata"), b"")[0] == 3


@pytest.mark.parametrize("model", ["slow_loop", "stuck"])
def test_deadlines(channel: grpc.Channel, model: str) -> None:
    began = time.monotonic()
    assert refusal(channel.unary_unary(PREDICT), predict(model, 1), timeout=0.2)[0] == 4
    assert time.monotonic() - began < 5
    assert answer(channel.unary_unary(PREDICT)(predict("half_plus_two", 1))) == [2.5]


def test_cancellation(channel: grpc.Channel) -> None:
    future = channel.unary_unary(PREDICT).future(predict("slow_loop", 1))
    assert future.cancel()
    assert answer(channel.unary_unary(PREDICT)(predict("half_plus_two", 1))) == [2.5]


def test_a_stuck_model_stops_nobody_else(channel: grpc.Channel) -> None:
    stuck = [channel.unary_unary(PREDICT).future(predict("stuck", 1), timeout=PATIENCE_S) for _ in range(4)]
    began = time.monotonic()
    assert answer(channel.unary_unary(PREDICT)(predict("half_plus_two", 1))) == [2.5]
    assert time.monotonic() - began < 2
    for future in stuck:
        future.cancel()


def test_sigterm_finishes_what_is_under_way(
    start_server: Callable[..., Server], models: Path, transport: str
) -> None:
    one = start_server(
        "--model_name=slow_loop", f"--model_base_path={models / 'slow_loop'}", transport=transport
    )
    one.wait_ready()
    with grpc.insecure_channel(one.target) as channel:
        grpc.channel_ready_future(channel).result(PATIENCE_S)
        future = channel.unary_unary(PREDICT).future(predict("slow_loop", 1), timeout=PATIENCE_S)
        # A second call on the same connection, answered at once: the first one has reached the server.
        assert refusal(channel.unary_unary(PREDICT), predict("nobody", 1))[0] == 5
        one.process.terminate()
        assert len(answer(future.result())) == 1
    assert one.wait_exit() == 0
