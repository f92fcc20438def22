"""REST over a scripted engine: routes, methods, headers, bodies, and what is not HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_core import FakeCore, FakeEngine, FakeServable, FakeStatus
from rest_support import RestRunning, error_of, read_answer
from support import wait_until

from tfs import messages
from tfs._fastpath import METHOD_OTHER
from tfs.errors import Code, InvalidArgument, TfsError
from tfs.transport.rest import GZIP_MIN_BYTES, RestSettings
from tfs.transport.rest_protocol import MAX_HEADER_BYTES

PREDICT = "/v1/models/m:predict"
REPLY = {"predictions": [1.0]}


def signatures() -> dict[str, bytes]:
    made = messages.SignatureDef(method_name="tensorflow/serving/predict")
    made.inputs["x"].name = "x:0"
    made.inputs["x"].dtype = 1
    made.inputs["x"].tensor_shape.dim.add().size = -1
    return {"serving_default": bytes(made.SerializeToString())}


@pytest.fixture
def serve() -> Iterator[Callable[..., RestRunning]]:
    started: list[RestRunning] = []

    def start(settings: RestSettings | None = None, **more: Any) -> RestRunning:
        engine = FakeEngine(
            [FakeServable("m", 2, signatures()), FakeServable("a/b:c \u00e9", 1, signatures())]
        )
        core = FakeCore(
            {"m": [FakeStatus(2, 30), FakeStatus(1, 50, InvalidArgument('a "bad" one'))], "empty": []}
        )
        running = RestRunning(engine, core, settings or RestSettings(), **more)
        started.append(running)
        return running

    yield start
    for running in started:
        running.close()


@pytest.mark.parametrize(
    ("path", "model", "version", "label"),
    [
        ("/v1/models/m:predict", "m", None, None),
        ("/V1/MODELS/m:predict", "m", None, None),
        ("/v1/models/M:predict", "M", None, None),
        ("/v1/models/m/versions/7:predict", "m", 7, None),
        ("/v1/models/m/versions/007:predict", "m", 7, None),
        ("/v1/models/m/VERSIONS/9223372036854775807:predict", "m", 9223372036854775807, None),
        ("/v1/models/m/labels/stable:predict", "m", None, "stable"),
        ("/v1/models/m/labels/w%C3%A9ird%201%2Fx:predict", "m", None, "w\u00e9ird 1/x"),
        ("/v1/models/a%2Fb%3Ac%20%C3%A9:predict", "a/b:c \u00e9", None, None),
        ("/v1/models/a+b:predict", "a+b", None, None),
        ("/v1/models/%25:predict", "%", None, None),
        ("/v1/models/m?x=1:predict", "m?x=1", None, None),
    ],
)
def test_predict_routes(
    serve: Callable[..., RestRunning], path: str, model: str, version: Any, label: Any
) -> None:
    running = serve()
    for _ in range(2):  # the second time from the cache
        status, _, body = running.raw(
            f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{{}}".encode()
        )
        assert (status, json.loads(body)) == (200, REPLY)
    assert running.engine.asked == [("json", b"{}", model, version, label, 30_000_000_000)] * 2
    assert running.engine.counted == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/models/m:PREDICT"),
        ("POST", "/v1/models/m:predict?x=1"),
        ("POST", "/v1/models/m:predict#f"),
        ("POST", "/v1/models/m:predict/"),
        ("POST", "/v1/models/m:foo"),
        ("POST", "/v1/models/m"),
        ("POST", "/v1/models/:predict"),
        ("POST", "/v1/models/m/versions/:predict"),
        ("POST", "/v1/models/m/versions/-1:predict"),
        ("POST", "/v1/models/m/versions/1/labels/a:predict"),
        ("POST", "/v1/models/m:predict%20"),
        ("GET", "/v1/models/m/"),
        ("GET", "/v1/models/m:predict"),
        ("GET", "/v1/models/m/metadata/"),
        ("GET", "/v1/models/m/versions/1?x=1"),
        ("GET", "/v1/models/m/labels"),
        ("GET", "/v1/"),
        ("GET", "/v1/foo"),
        ("PUT", "/v1/models/m:predict"),
        ("DELETE", "/v1/models/m"),
        ("PATCH", "/v1/models/m:predict"),
    ],
)
def test_malformed_requests(serve: Callable[..., RestRunning], method: str, path: str) -> None:
    running = serve()
    status, headers, body = running.raw(
        f"{method} {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n".encode()
    )
    assert status == 400
    assert headers["content-type"] == "application/json"
    assert error_of(body) == f"Malformed request: {method} {path}"
    model = "m" if path.endswith(":PREDICT") else ""
    assert running.engine.counted == [(model, METHOD_OTHER, 1, int(Code.INVALID_ARGUMENT))]


def test_head_has_no_body(serve: Callable[..., RestRunning]) -> None:
    running = serve()
    with running.connect() as connection:
        connection.sendall(b"HEAD /v1/models/m HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        data = b""
        while got := connection.recv(65536):
            data += got
    assert data.startswith(b"HTTP/1.1 400 ")
    assert data.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "path", ["/v1/models/m/versions/9223372036854775808", "/v1/models/m/versions/" + "9" * 5000]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_version_beyond_int64_has_no_body(
    serve: Callable[..., RestRunning], method: str, path: str
) -> None:
    path += ":predict" if method == "POST" else ""
    status, headers, body = serve().raw(
        f"{method} {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n".encode()
    )
    assert (status, headers["content-type"], body) == (400, "application/json", b"")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/m%2",
        "/v1/models/m%zz",
        "/v1/models/m\xe9",
        '/v1/models/m"',
        "/v1/models/[m]",
        "/v1/models/m|x",
    ],
)
def test_what_is_no_uri_is_400(serve: Callable[..., RestRunning], path: str) -> None:
    status, headers, _ = serve().raw(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode("latin-1"))
    assert (status, headers["content-type"]) == (400, "application/json")


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v2/models/m", "/favicon.ico", "/monitoring/prometheus/metrics", "/metrics/"]
)
def test_404_is_json(serve: Callable[..., RestRunning], path: str) -> None:
    running = serve()
    answer = running.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/json")
    assert path in answer.json()["error"]
    assert running.engine.counted == []


@pytest.mark.parametrize("method", ["TRACE", "PROPFIND", "BREW"])
def test_other_methods_are_501(serve: Callable[..., RestRunning], method: str) -> None:
    status, headers, body = serve().raw(f"{method} /v1/models/m HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    assert (status, headers["content-type"]) == (501, "application/json")
    assert error_of(body)


# --- GET -----------------------------------------------------------------------------------------------------------------------


def test_status(serve: Callable[..., RestRunning]) -> None:
    running = serve()
    ok = {"error_code": "OK", "error_message": ""}
    latest = {"version": "2", "state": "AVAILABLE", "status": ok}
    failed = {
        "version": "1",
        "state": "END",
        "status": {"error_code": "INVALID_ARGUMENT", "error_message": 'a "bad" one'},
    }
    for path in ("/v1/models/m", "/v1/models/m/labels/whatever", "/v1/models/m/METADATA"):
        assert running.get(path).json() == {"model_version_status": [latest, failed]}
    assert running.get("/v1/models/m/versions/2").json() == {"model_version_status": [latest]}
    missing = running.get("/v1/models/m/versions/3")
    assert (missing.status_code, missing.json()) == (404, {"error": "Could not find version 3 of model m"})
    assert running.get("/v1/models/m?x=1").json() == {"error": "Could not find any versions of model m?x=1"}
    assert running.get("/v1/models/metadata").json() == {
        "error": "Could not find any versions of model metadata"
    }
    assert running.get("/v1/models/versions/1").json() == {"error": "Missing model name in request."}
    assert ("m", METHOD_OTHER, 1, 0) in running.engine.counted
    assert ("m", METHOD_OTHER, 1, int(Code.NOT_FOUND)) in running.engine.counted


def test_the_list_of_models(serve: Callable[..., RestRunning]) -> None:
    listed = serve().get("/v1/models").json()["models"]
    assert [(one["name"], [v["version"] for v in one["model_version_status"]]) for one in listed] == [
        ("empty", []),
        ("m", ["2", "1"]),
    ]


def test_metadata(serve: Callable[..., RestRunning]) -> None:
    running = serve()
    tensor = {
        "name": "x:0",
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
    }
    signature = {
        "inputs": {"x": tensor},
        "outputs": {},
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }
    assert running.get("/v1/models/m/metadata").json() == {
        "model_spec": {"name": "m", "version": "2", "signature_name": ""},
        "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
    }
    missing = running.get("/v1/models/m/versions/9/metadata")
    assert (missing.status_code, missing.json()) == (
        404,
        {"error": "Servable not found for request: Specific(m, 9)"},
    )


def test_pages_of_our_own(serve: Callable[..., RestRunning]) -> None:
    running = serve(reference_path="/v1/metrics")
    assert running.get("/metrics").text == "standard metrics"
    assert running.get("/metrics?name=x").text == "standard metrics"
    assert running.get("/openapi.json").json() == {}
    for answer in (running.get("/v1/metrics"), running.post("/v1/metrics")):
        assert (answer.status_code, answer.text, answer.headers["content-type"]) == (
            200,
            "reference metrics",
            "text/plain",
        )
    refused = running.get("/v1/metrics?x=1")
    assert (refused.status_code, refused.headers["content-type"]) == (400, "text/plain")
    assert refused.text == "Unexpected path: /v1/metrics?x=1. Should be /v1/metrics"
    assert running.raw(b"GET /v1/%6Detrics HTTP/1.1\r\nHost: h\r\n\r\n")[0] == 400
    assert running.engine.counted[-1][0] == ""


# --- errors and CORS -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (1, 499), (2, 500), (3, 400), (4, 504), (5, 404), (6, 409), (7, 403), (8, 429),
        (9, 400), (10, 409), (11, 400), (12, 501), (13, 500), (14, 503), (15, 500), (16, 401),
    ],
)  # fmt: skip
@pytest.mark.parametrize("late", [False, True], ids=["at_once", "late"])
def test_codes_become_statuses(serve: Callable[..., RestRunning], code: int, status: int, late: bool) -> None:
    running = serve()
    text = 'a "quoted" \\ text\nwith \x01 and \u00e9' + "x" * 2000
    error = TfsError(text, code)
    running.engine.json_answer, running.engine.late = (0.001, error) if late else (error, None)
    answer = running.post(PREDICT)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert answer.json() == {"error": text}
    assert answer.text.startswith('{\n    "error": "a')


def test_bytes_that_are_no_text_pass_through_errors(serve: Callable[..., RestRunning]) -> None:
    running = serve()
    running.engine.json_answer = InvalidArgument(b"\xff\xfe".decode("utf-8", "surrogateescape"))
    assert running.post(PREDICT).content == b'{\n    "error": "\xff\xfe"\n}'


def test_names_that_are_no_text_come_back_as_they_came(serve: Callable[..., RestRunning]) -> None:
    running = serve()
    for path in (b"/v1/models/%FF", b"/v1/models/%FF/metadata"):
        status, _, body = running.raw(b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n" % path)
        assert (status, b"\xff" in body) == (404, True)
    assert running.post("/v1/models/%FF:classify", '{"examples": [{}]}').status_code == 404


def test_the_target_of_the_whole_server_is_not_found(serve: Callable[..., RestRunning]) -> None:
    assert serve().raw(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n")[0] == 404


def test_a_fault_of_ours_does_not_leak(
    serve: Callable[..., RestRunning], caplog: pytest.LogCaptureFixture
) -> None:
    running = serve()
    running.engine.json_answer = ZeroDivisionError("a secret")
    answer = running.post(PREDICT)
    assert (answer.status_code, "secret" in answer.text) == (500, False)
    assert "a secret" in caplog.text
    running.engine.json_answer = b"[]"
    assert running.post(PREDICT).status_code == 200


@pytest.mark.parametrize("cors", [False, True])
def test_options_and_cors(serve: Callable[..., RestRunning], cors: bool) -> None:
    import requests

    running = serve(RestSettings(cors=cors))
    wanted = {
        "access-control-allow-origin": "*",
        "access-control-allow-methods": "POST, GET",
        "access-control-allow-headers": "Content-Type",
    }
    for origin, status in (("http://a.b", 200), ("https://a.b", 200), ("null", 400), (None, 400)):
        headers = {} if origin is None else {"Origin": origin}
        answer = requests.options(running.url + "/v1/anything", headers=headers, timeout=20)
        assert (answer.status_code, answer.content) == (status, b"")
        assert answer.headers["content-type"] == "text/html; charset=ISO-8859-1"
        assert all(answer.headers.get(name) == (value if cors else None) for name, value in wanted.items())
    assert running.engine.counted[-2:] == [("", METHOD_OTHER, 1, int(Code.FAILED_PRECONDITION))] * 2
    for answer in (running.post(PREDICT), running.get("/v1/models/nope"), running.post("/v1/x")):
        assert answer.headers.get("access-control-allow-origin") == ("*" if cors else None)
    assert "access-control-allow-origin" not in running.get("/metrics").headers
    assert requests.options(running.url + "/other", timeout=20).status_code == 404


# --- request bodies ------------------------------------------------------------------------------------------------------------


def body_of(running: RestRunning) -> bytes:
    return bytes(running.engine.asked[-1][1])


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "identity, gzip"])
def test_gzip_request_bodies(serve: Callable[..., RestRunning], encoding: str) -> None:
    running = serve()
    for content in (b'{"instances": [1.0]}', bytes(300_000), b""):
        assert (
            running.post(PREDICT, gzip.compress(content), headers={"Content-Encoding": encoding}).status_code
            == 200
        )
        assert body_of(running) == content


@pytest.mark.parametrize(
    "damaged",
    [
        b"", b"x", b'{"instances": [1.0]}', gzip.compress(b"abc")[:-1], gzip.compress(b"abc")[:-8] + b"\0\0\0\0\3\0\0\0",
        gzip.compress(b"abc") + b"x", gzip.compress(b"abc") * 2, zlib.compress(b"abc"),
        gzip.compress(b"abc")[:-4] + (200 << 20).to_bytes(4, "little"), gzip.compress(bytes(1000))[:-4] + b"\1\0\0\0",
    ],
)  # fmt: skip
def test_damaged_gzip_is_an_empty_body(serve: Callable[..., RestRunning], damaged: bytes) -> None:
    running = serve()
    assert running.post(PREDICT, damaged, headers={"Content-Encoding": "gzip"}).status_code == 200
    assert body_of(running) == b""


def test_upper_case_gzip_is_not_gzip(serve: Callable[..., RestRunning]) -> None:
    running = serve()
    body = gzip.compress(b"abc")
    running.post(PREDICT, body, headers={"Content-Encoding": "GZIP"})
    assert body_of(running) == body


def test_gzip_answers_when_asked_for(serve: Callable[..., RestRunning]) -> None:
    running = serve()
    for size, packed in ((GZIP_MIN_BYTES - 1, False), (GZIP_MIN_BYTES, True), (1 << 20, True)):
        running.engine.json_answer = b"[" + b"1" * (size - 2) + b"]"
        answer = running.post(PREDICT, headers={"Accept-Encoding": "deflate, gzip;q=0.5"})
        assert answer.content == running.engine.json_answer
        assert answer.headers.get("content-encoding") == ("gzip" if packed else None)
        for refused in ("identity", "gzip;q=0", ""):
            answer = running.post(PREDICT, headers={"Accept-Encoding": refused})
            assert "content-encoding" not in answer.headers


def test_chunked_bodies(serve: Callable[..., RestRunning]) -> None:
    running = serve()
    parts = [b'{"instances"', b": [", b"1.0" * 100_000, b"]}"]
    assert running.post(PREDICT, iter(parts)).status_code == 200  # type: ignore[arg-type]
    assert body_of(running) == b"".join(parts)


def test_large_bodies(serve: Callable[..., RestRunning]) -> None:
    running = serve()
    body = b"x" * (20 << 20)
    assert running.post(PREDICT, body).status_code == 200
    assert body_of(running) == body


def test_no_body_is_an_empty_body(serve: Callable[..., RestRunning]) -> None:
    running = serve()
    assert running.raw(b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\n\r\n")[0] == 200
    assert body_of(running) == b""


@pytest.mark.parametrize("framing", ["length", "chunked", "gzip"])
def test_the_body_limit_is_413(serve: Callable[..., RestRunning], framing: str) -> None:
    running = serve(RestSettings(max_body_bytes=1000))
    assert running.post(PREDICT, b"x" * 1000).status_code == 200
    if framing == "length":
        request = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n"  # and nothing more
    elif framing == "chunked":
        request = (
            b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n"
            + b"x" * 1001
        )
    else:
        packed = gzip.compress(bytes(1001))
        request = (
            b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
            % len(packed)
        )
        request += packed
    status, headers, body = running.raw(request)
    assert (status, headers["content-type"]) == (413, "application/json")
    assert "1000 bytes" in error_of(body)
    assert len(running.engine.asked) == 1
    answer = running.post(PREDICT, b"x" * (40 << 20))  # sent to its end, and answered
    assert answer.status_code == 413


def test_expect(serve: Callable[..., RestRunning]) -> None:
    running = serve()
    head = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: "
    with running.connect() as connection:
        connection.sendall(head + b"100-continue\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"{}")
        assert read_answer(connection)[0] == 200
    status, headers, _ = running.raw(head + b"a-miracle\r\n\r\n")
    assert (status, headers["connection"]) == (417, "close")


# --- connections ---------------------------------------------------------------------------------------------------------------


def test_keep_alive_and_pipelining(serve: Callable[..., RestRunning]) -> None:
    running = serve()
    running.engine.json_answer, running.engine.late = 0.005, b"[1]"
    with running.connect() as connection:
        one = b"POST /v1/models/m%d:predict HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"
        connection.sendall(b"".join(one % i for i in range(20)))
        data = b""
        while data.count(b"HTTP/1.1 200") < 20 or not data.endswith(b"[1]"):
            data += connection.recv(65536)
    assert [asked[2] for asked in running.engine.asked] == [f"m{i}" for i in range(20)]


def test_http_1_0_and_connection_close(serve: Callable[..., RestRunning]) -> None:
    running = serve()
    for head in (
        b"GET /v1/models/m HTTP/1.0\r\n\r\n",
        b"GET /v1/models/m HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    ):
        with running.connect() as connection:
            connection.sendall(head)
            assert read_answer(connection)[0] == 200
            assert connection.recv(10) == b""


def test_an_upgrade_is_not_taken(serve: Callable[..., RestRunning]) -> None:
    """Java's client offers h2c with every request; it must be served as HTTP/1.1."""
    running = serve()
    head = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\nContent-Length: 2\r\n\r\n{}"
    with running.connect() as connection:
        for split in (len(head), 40, len(head) - 1):
            connection.sendall(head[:split])
            time.sleep(0.01)
            connection.sendall(head[split:])
            assert read_answer(connection)[0] == 200
            assert body_of(running) == b"{}"
    assert running.raw(b"CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n")[0] in (400, 501)


def test_a_pipeline_of_upgrades_is_answered(serve: Callable[..., RestRunning]) -> None:
    """More of them in one read than Python may nest calls."""
    running, count = serve(), 2000
    with running.connect() as connection:
        connection.sendall(
            b"GET /v1/models/m HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" * count
        )
        data = b""
        while (answers := data.count(b"HTTP/1.1 200")) < count:
            got = connection.recv(1 << 20)
            assert got, f"closed after {answers} answers"
            data += got


@pytest.mark.parametrize(
    "garbage",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"],
)
def test_what_is_not_http_is_refused(serve: Callable[..., RestRunning], garbage: bytes) -> None:
    running = serve()
    status, headers, body = running.raw(garbage)
    assert status in (400, 501)
    assert headers["connection"] == "close"
    assert error_of(body)
    assert running.post(PREDICT).status_code == 200


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /v1/models/m HTTP/1.1\nHost: h\n\n", 400),
        (b"GET /v1/models/m HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n", 400),
        (b"POST %s HTTP/1.1\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\n{}", 400),
        (
            b"POST %s HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            400,
        ),
        (b"POST %s HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400),
        (b"GET /v1/models/m HTTP/2.0\r\nHost: h\r\n\r\n", 200),
        (b"GET /v1/models/m\r\n\r\n", 200),
        (b"GET ftp://h/v1/models/m HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 400),
    ],
)
def test_odd_http_is_answered_once_and_the_connection_ends(
    serve: Callable[..., RestRunning], head: bytes, status: int
) -> None:
    """What another server may read differently is never the beginning of a second request."""
    running = serve()
    with running.connect() as connection:
        connection.sendall(
            head.replace(b"%s", PREDICT.encode()) + b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n"
        )
        assert read_answer(connection)[0] == status
        with contextlib.suppress(ConnectionError):
            assert connection.recv(10) == b""


def test_what_follows_a_whole_request_does_not_take_its_answer(serve: Callable[..., RestRunning]) -> None:
    """A body longer than its Content-Length: the request is answered, and then the connection ends."""
    running = serve()
    running.engine.late = 0.005
    with running.connect() as connection:
        connection.sendall(
            b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}, and more"
        )
        status, headers, _ = read_answer(connection)
        assert (status, headers["connection"]) == (200, "close")
        assert connection.recv(10) == b""
    assert body_of(running) == b"{}"


def test_long_headers(serve: Callable[..., RestRunning]) -> None:
    running = serve()
    head = b"GET /v1/models/m HTTP/1.1\r\nHost: h\r\nX-Long: %s\r\n\r\n"
    assert running.raw(head % (b"y" * 60_000))[0] == 200
    with contextlib.suppress(ConnectionError):  # closed while we were still sending
        assert running.raw(head % (b"y" * (MAX_HEADER_BYTES + 400_000)))[0] == 431
    assert running.post(PREDICT).status_code == 200


def test_a_client_that_leaves_cancels_its_call(serve: Callable[..., RestRunning]) -> None:
    running = serve()
    running.engine.json_answer = None
    with running.connect() as connection:
        connection.sendall(b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}")
        deadline = time.monotonic() + 10
        while not running.engine.tickets:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    while not running.engine.tickets[0].cancelled:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_slow_clients_are_dropped(serve: Callable[..., RestRunning]) -> None:
    running = serve(header_timeout_s=0.5, body_timeout_s=0.5)
    starts = [
        b"",
        b"POST /v1/models/m:predict HTT",
        b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\nContent-Length: 20\r\n\r\nabc",
        b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc",
    ]
    connections = [running.connect() for _ in starts]
    for connection, start in zip(connections, starts, strict=True):
        connection.sendall(start)
    assert running.post(PREDICT).status_code == 200
    for connection in connections:
        with connection:
            status, headers, body = read_answer(connection)
            assert (status, headers["connection"], error_of(body)) == (
                408,
                "close",
                "The request took too long to arrive",
            )
            assert connection.recv(10) == b""


def test_a_dripping_client_is_dropped(serve: Callable[..., RestRunning]) -> None:
    """Bytes keep coming, but below any useful rate."""
    running = serve(header_timeout_s=0.5, body_timeout_s=0.5)
    stop = threading.Event()
    with running.connect() as connection:
        connection.sendall(b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n")

        def drip() -> None:
            try:
                while not stop.wait(0.1):
                    connection.sendall(b"x")
            except OSError:
                pass

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            assert read_answer(connection)[0] == 408
        finally:
            stop.set()
            thread.join()


def test_an_idle_kept_alive_connection_is_not_slow(serve: Callable[..., RestRunning]) -> None:
    running = serve(header_timeout_s=0.2, body_timeout_s=0.2)
    running.engine.json_answer, running.engine.late = 1.5, b"[1]"  # slow to answer: not the client's fault
    with running.connect() as connection:
        one = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"
        connection.sendall(one)
        assert read_answer(connection)[0] == 200
        time.sleep(1.5)  # idle for longer than a sweep: that is what is tested
        connection.sendall(one)
        assert read_answer(connection)[0] == 200


def test_a_client_that_does_not_read_is_dropped(serve: Callable[..., RestRunning]) -> None:
    running = serve(body_timeout_s=0.2)
    running.engine.json_answer = b"x" * (32 << 20)  # beyond what the kernel holds for the client
    with running.connect() as connection:
        connection.sendall(b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}")
        wait_until(lambda: len(running.server.server_state.connections) == 1, 10, "the connection")
        wait_until(lambda: not running.server.server_state.connections, 10, "the end of the connection")


def test_blank_lines_do_not_keep_a_connection(serve: Callable[..., RestRunning]) -> None:
    """They end the time of an idle connection, so the time of a request's headers has to begin."""
    running = serve(header_timeout_s=0.2)
    with running.connect() as connection:
        connection.sendall(b"GET /v1/models/m HTTP/1.1\r\nHost: h\r\n\r\n")
        assert read_answer(connection)[0] == 200
        connection.sendall(b"\r\n")
        assert read_answer(connection)[0] == 408
        assert connection.recv(10) == b""


def test_stop_finishes_what_is_under_way(serve: Callable[..., RestRunning]) -> None:
    running = serve()
    running.engine.json_answer, running.engine.late = 0.3, b"[1]"
    with running.connect() as connection, running.connect() as idle:
        connection.sendall(b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}")
        while not running.engine.tickets:
            time.sleep(0.001)
        running.on_loop(running.server.stop(5))
        assert read_answer(connection)[2] == b"[1]"
        assert idle.recv(10) == b""
    with pytest.raises(OSError):
        running.connect()


@pytest.mark.parametrize("part", [b"{}", b"{"], ids=["running", "uploading"])
def test_stop_tells_those_whose_time_is_over(
    serve: Callable[..., RestRunning], caplog: pytest.LogCaptureFixture, part: bytes
) -> None:
    running = serve()
    running.engine.json_answer, running.engine.late = None, None  # never answers
    with running.connect() as connection:
        connection.sendall(
            b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n" + part
        )
        wait_until(lambda: bool(running.server.server_state.tasks), 10, "the request")
        running.on_loop(running.server.stop(0))
        status, headers, body = read_answer(connection)
        assert (status, headers["connection"]) == (503, "close")
        assert error_of(body) == "The server is shutting down"
        assert connection.recv(10) == b""
    assert all(ticket.cancelled for ticket in running.engine.tickets)
    assert "Traceback" not in caplog.text


def test_stop_does_not_wait_for_clients_that_do_not_read(serve: Callable[..., RestRunning]) -> None:
    running = serve()
    running.engine.json_answer = b"x" * (16 << 20)
    with running.connect() as connection:
        connection.sendall(
            b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}" * 3
        )
        wait_until(
            lambda: len(running.engine.asked) == 2, 10, "the second request, which waits for the first answer"
        )
        running.on_loop(asyncio.wait_for(running.server.stop(0), 10))
        assert not running.on_loop(tasks_of(running))


async def tasks_of(running: RestRunning) -> list[Any]:
    await asyncio.sleep(0)
    return [task for task in running.server.server_state.tasks if not task.done()]


def test_a_taken_port_is_an_error_that_names_it(serve: Callable[..., RestRunning]) -> None:
    from tfs.transport.rest_protocol import RestServer

    port = serve().server.port
    with pytest.raises(TfsError, match=f"127.0.0.1:{port}"):
        RestServer(None, address="127.0.0.1", port=port, header_timeout_s=1, body_timeout_s=1)


def test_curl(serve: Callable[..., RestRunning]) -> None:
    running = serve()
    done = subprocess.run(
        ["curl", "-sS", "-d", "@-", "-H", "Expect: 100-continue", "--compressed", running.url + PREDICT],
        input=b"x" * 2_000_000, capture_output=True, check=True, timeout=30,
    )  # fmt: skip
    assert json.loads(done.stdout) == REPLY
    assert len(body_of(running)) == 2_000_000


def test_all_interfaces_are_both_families() -> None:
    from tfs.transport.rest_protocol import _bind

    with _bind("0.0.0.0", 0) as listener:
        listener.listen()
        port = listener.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        if listener.family == socket.AF_INET6:
            socket.create_connection(("::1", port), timeout=5).close()
