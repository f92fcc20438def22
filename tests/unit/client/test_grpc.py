"""The blocking and the asyncio client against a gRPC server on loopback: one test body for both faces."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from client_server import Answering

from tfs import client as api
from tfs.client import AsyncClient, Client, State
from tfs.errors import Code, DeadlineExceeded, InvalidArgument, NotFound, TfsError, Unavailable
from tfs.messages import (
    ClassificationRequest,
    ClassificationResponse,
    Example,
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    PredictRequest,
    PredictResponse,
    RegressionRequest,
    RegressionResponse,
    ReloadConfigRequest,
    ReloadConfigResponse,
    SignatureDefMap,
)

SSL = Path(__file__).parents[2] / "conformance" / "ssl"


class Blocking:
    """`call("predict", ...)` on a Client."""

    def __init__(self, target: Any, **settings: Any) -> None:
        self.client = Client(target, **settings)

    def __call__(self, method: str, *arguments: Any, **named: Any) -> Any:
        return getattr(self.client, method)(*arguments, **named)

    def close(self) -> None:
        self.client.close()


class Awaited:
    """The same on an AsyncClient, with a loop of its own."""

    def __init__(self, target: Any, **settings: Any) -> None:
        self.loop = asyncio.new_event_loop()

        async def made() -> AsyncClient:
            return AsyncClient(target, **settings)

        self.client = self.loop.run_until_complete(made())

    def __call__(self, method: str, *arguments: Any, **named: Any) -> Any:
        return self.loop.run_until_complete(getattr(self.client, method)(*arguments, **named))

    def close(self) -> None:
        self.loop.run_until_complete(self.client.close())
        self.loop.close()


@pytest.fixture(params=[Blocking, Awaited], ids=["blocking", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """connect(target, **settings): `call(method, ...)`."""
    made: list[Any] = []

    def make(target: Any, **settings: Any) -> Any:
        made.append(request.param(target, **settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def call(connect: Callable[..., Any], answering: Answering) -> Any:
    return connect(answering.target)


def doubled(method: str, request: bytes, context: Any) -> bytes:
    """y = 2 x, of version 7."""
    asked = PredictRequest.FromString(request)
    reply = PredictResponse()
    reply.model_spec.name = asked.model_spec.name
    reply.model_spec.version.value = 7
    reply.outputs["y"].dtype = 1
    reply.outputs["y"].tensor_shape.CopyFrom(asked.inputs["x"].tensor_shape)
    reply.outputs["y"].float_val.extend((2 * np.frombuffer(asked.inputs["x"].tensor_content, "<f4")).tolist())
    return bytes(reply.SerializeToString())


def test_predict(call: Any, answering: Answering) -> None:
    answering.answer = doubled
    found = call("predict", "m", {"x": [[1.0, 2.0]]}, label="stable", signature="s", output_filter=["y"])
    np.testing.assert_array_equal(found["y"], np.array([[2, 4]], np.float32))
    assert (list(found), found.version, found["y"].dtype) == (["y"], 7, np.float32)
    method, body, _ = answering.asked[0]
    request = PredictRequest.FromString(body)
    assert method == "/tensorflow.serving.PredictionService/Predict"
    assert (request.model_spec.version_label, request.model_spec.signature_name) == ("stable", "s")
    assert list(request.output_filter) == ["y"]


def test_version_zero_is_a_version(call: Any, answering: Answering) -> None:
    answering.answer = doubled
    call("predict", "m", {"x": [1.0]}, version=0)
    assert PredictRequest.FromString(answering.asked[0][1]).model_spec.HasField("version")


def test_version_and_label_exclude_each_other(call: Any) -> None:
    with pytest.raises(InvalidArgument, match="version 1 and label 'a' at once"):
        call("predict", "m", {}, version=1, label="a")


def test_messages_of_any_size(call: Any, answering: Answering) -> None:
    answering.answer = doubled
    x = np.arange(2 << 20, dtype=np.float32)  # 8 MiB: twice gRPC's default
    np.testing.assert_array_equal(call("predict", "m", {"x": x})["y"], 2 * x)


def test_classify(call: Any, answering: Answering) -> None:
    reply = ClassificationResponse()
    row = reply.result.classifications.add()
    row.classes.add(label="ham", score=0.25)
    row.classes.add(score=0.75)
    answering.answer = lambda *_: reply.SerializeToString()
    examples = [{"t": "a", "n": [1, 2]}, Example().SerializeToString()]
    assert call("classify", "m", examples, context={"c": 1.5}) == [[("ham", 0.25), ("", 0.75)]]
    request = ClassificationRequest.FromString(answering.asked[0][1])
    given = request.input.example_list_with_context
    assert given.examples[0].features.feature["t"].bytes_list.value == [b"a"]
    assert given.examples[0].features.feature["n"].int64_list.value == [1, 2]
    assert given.context.features.feature["c"].float_list.value == [1.5]
    assert len(given.examples) == 2


def test_regress(call: Any, answering: Answering) -> None:
    reply = RegressionResponse()
    reply.result.regressions.add(value=2.5)
    reply.result.regressions.add()
    answering.answer = lambda *_: reply.SerializeToString()
    found = call("regress", "m", [{"x": 1.0}, {"x": 2.0}], signature="r", version=2)
    assert found.dtype == np.float32
    assert found.tolist() == [2.5, 0]
    request = RegressionRequest.FromString(answering.asked[0][1])
    assert len(request.input.example_list.examples) == 2
    assert request.model_spec.version.value == 2


def test_status(call: Any, answering: Answering) -> None:
    reply = GetModelStatusResponse()
    reply.model_version_status.add(version=3, state=30)
    bad = reply.model_version_status.add(version=2, state=50)
    bad.status.error_code, bad.status.error_message = 5, "no such directory"
    answering.answer = lambda *_: reply.SerializeToString()
    assert call("status", "m") == [
        (3, State.AVAILABLE, Code.OK, ""),
        (2, State.END, Code.NOT_FOUND, "no such directory"),
    ]
    assert GetModelStatusRequest.FromString(answering.asked[0][1]).model_spec.name == "m"


def test_metadata(call: Any, answering: Answering) -> None:
    signatures = SignatureDefMap()
    signature = signatures.signature_def["serving_default"]
    signature.method_name = "tensorflow/serving/predict"
    x = signature.inputs["x"]
    x.name, x.dtype = "x:0", 1
    x.tensor_shape.dim.add(size=-1)
    x.tensor_shape.dim.add(size=4)
    signature.outputs["y"].name = "y:0"
    signature.outputs["y"].dtype = 7
    signature.outputs["y"].tensor_shape.unknown_rank = True
    signature.outputs["s"].coo_sparse.values_tensor_name = "v:0"
    signature.defaults["x"].dtype = 1
    reply = GetModelMetadataResponse()
    reply.model_spec.name = "m"
    reply.model_spec.version.value = 5
    reply.metadata["signature_def"].Pack(signatures)
    answering.answer = lambda *_: reply.SerializeToString()

    found = call("metadata", "m", label="beta")
    assert (found.name, found.version, list(found.signatures)) == ("m", 5, ["serving_default"])
    one = found.signatures["serving_default"]
    assert one.method_name == "tensorflow/serving/predict"
    assert one.inputs == {"x": ("x:0", 1, (None, 4))}
    assert one.outputs["y"].shape is None
    assert one.outputs["y"].dtype_name == "DT_STRING"
    assert one.outputs["s"].name == "sparse(v:0)"
    assert one.defaults == ("x",)
    assert list(GetModelMetadataRequest.FromString(answering.asked[0][1]).metadata_field) == ["signature_def"]


def test_reload(call: Any, answering: Answering) -> None:
    reply = ReloadConfigResponse()
    reply.metric.add(name="/m", int64_value_increase=2)
    answering.answer = lambda *_: reply.SerializeToString()
    models = [
        api.ModelConfig("a", "/a", api.All(), {"production": 3, "beta": 0}),
        api.ModelConfig("b", "/b", api.Specific([1, 300])),
        api.ModelConfig("c", "/c", api.Latest(2)),
    ]
    assert call("reload", models, metrics=["/m"]) == {"/m": 2}
    request = ReloadConfigRequest.FromString(answering.asked[0][1])
    a, b, c = request.config.model_config_list.config
    assert dict(a.version_labels) == {"production": 3, "beta": 0}
    assert a.model_version_policy.WhichOneof("policy_choice") == "all"
    assert list(b.model_version_policy.specific.versions) == [1, 300]
    assert c.model_version_policy.latest.num_versions == 2
    assert (b.base_path, b.model_platform) == ("/b", "tensorflow")


def test_a_reload_that_failed_inside_an_ok(call: Any, answering: Answering) -> None:
    reply = ReloadConfigResponse()
    reply.status.error_code, reply.status.error_message = 3, "twice"
    answering.answer = lambda *_: reply.SerializeToString()
    with pytest.raises(InvalidArgument, match="twice"):
        call("reload", [])


# -- errors, deadlines, retries


def test_an_error_carries_its_code(call: Any, answering: Answering) -> None:
    def refuse(method: str, request: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(m)")
        raise AssertionError

    answering.answer = refuse
    with pytest.raises(NotFound) as caught:
        call("predict", "m", {"x": [1.0]})
    assert caught.value.code is Code.NOT_FOUND
    assert str(caught.value) == "Servable not found for request: Latest(m)"


def test_a_code_without_a_class_of_its_own(call: Any, answering: Answering) -> None:
    answering.answer = lambda method, request, context: context.abort(grpc.StatusCode.ABORTED, "no")
    with pytest.raises(TfsError) as caught:
        call("status", "m")
    assert caught.value.code is Code.ABORTED


def test_a_deadline(call: Any, answering: Answering) -> None:
    over = threading.Event()
    answering.answer = lambda *_: bytes(not over.wait(20))
    with pytest.raises(DeadlineExceeded):
        call("predict", "m", {"x": [1.0]}, timeout=0.05)
    over.set()


def test_the_clients_own_timeout(connect: Callable[..., Any], answering: Answering) -> None:
    over = threading.Event()
    answering.answer = lambda *_: bytes(not over.wait(20))
    with pytest.raises(DeadlineExceeded):
        connect(answering.target, timeout=0.05)("status", "m")
    over.set()


def fails_first(times: int, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> Callable[..., bytes]:
    """Answers `code` so many times, then is well."""
    left = [times]

    def answer(method: str, request: bytes, context: Any) -> bytes:
        left[0] -= 1
        if left[0] >= 0:
            context.abort(code, "loading")
        return b""

    return answer


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
def test_retries(connect: Callable[..., Any], answering: Answering, code: grpc.StatusCode) -> None:
    answering.answer = fails_first(2, code)
    assert connect(answering.target, retries=2)("status", "m", timeout=20) == []
    assert len(answering.asked) == 3


def test_large_requests_are_repeated_too(connect: Callable[..., Any], answering: Answering) -> None:
    answering.answer = fails_first(1)
    connect(answering.target, retries=1)("predict", "m", {"x": np.zeros(1 << 20, np.float32)}, timeout=20)
    assert len(answering.asked) == 2


def test_what_the_caller_cancels_is_not_repeated(answering: Answering) -> None:
    came, over = threading.Event(), threading.Event()

    def answer(method: str, request: bytes, context: Any) -> bytes:
        came.set()
        return bytes(not over.wait(20))

    answering.answer = answer

    async def ask() -> None:
        async with AsyncClient(answering.target, retries=3) as client:
            call = asyncio.create_task(client.status("m"))
            assert await asyncio.to_thread(came.wait, 20)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            over.set()
            await client.status("n")  # by now a repeated call would have come

    asyncio.run(ask())
    assert len(answering.asked) == 2


def test_without_retries(connect: Callable[..., Any], answering: Answering) -> None:
    answering.answer = fails_first(1)
    with pytest.raises(Unavailable, match="loading"):
        connect(answering.target, retries=0)("status", "m")
    assert len(answering.asked) == 1


def test_all_servers_in_turn(connect: Callable[..., Any], answering: Answering) -> None:
    other = Answering()
    try:
        call = connect([answering.target, other.target], keepalive_s=30)
        for _ in range(60):
            call("status", "m", timeout=20)
            if answering.asked and other.asked:
                break
        assert answering.asked
        assert other.asked
    finally:
        other.server.stop(None).wait()


def test_metadata_of_client_and_call(connect: Callable[..., Any], answering: Answering) -> None:
    connect(answering.target, metadata=[("key", "a")])("status", "m", metadata=[("more", "b")])
    sent = answering.asked[0][2]
    assert (sent["key"], sent["more"]) == ("a", "b")


# -- TLS (the certificates of the conformance tests: server.pem is for localhost, client.pem signed by the same ca.pem)


def test_mutual_tls(connect: Callable[..., Any]) -> None:
    key, certificate, ca = ((SSL / name).read_bytes() for name in ("server.key", "server.pem", "ca.pem"))
    server = Answering(grpc.ssl_server_credentials([(key, certificate)], ca, True))
    try:
        tls = api.TLS(SSL / "ca.pem", SSL / "client.pem", str(SSL / "client.key"), "localhost")
        assert connect(server.target, tls=tls)("status", "m", timeout=20) == []
        nobody = connect(server.target, tls=api.TLS(ca, server_name="localhost"), retries=0)
        with pytest.raises(Unavailable):
            nobody("status", "m", timeout=20)
    finally:
        server.server.stop(None).wait()


@pytest.mark.parametrize(
    ("tls", "text"),
    [
        (api.TLS(certificate=SSL / "client.pem"), "belong together"),
        (api.TLS(root=Path(__file__)), f"{Path(__file__).name} holds no certificate"),
    ],
)
def test_certificates_that_are_none(tls: api.TLS, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        Client("127.0.0.1:1", tls=tls)


def test_context_managers(answering: Answering) -> None:
    with Client(answering.target) as one:
        assert one.status("m") == []

    async def awaited() -> None:
        async with AsyncClient(answering.target) as other:
            assert await asyncio.gather(*(other.status("m") for _ in range(10))) == [[]] * 10

    asyncio.run(awaited())
