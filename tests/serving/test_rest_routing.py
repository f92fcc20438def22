"""REST over a scripted engine: routes, methods, headers and bodies. Connections are in test_rest_connections.py."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rest_support import RestRunning, body_of, error_of, read_answer, rest_servers

from tfs._fastpath import METHOD_OTHER
from tfs.errors import Code, InvalidArgument, TfsError
from tfs.transport.rest import GZIP_MIN_BYTES, RestSettings

PREDICT = "/v1/models/m:predict"
REPLY = {"predictions": [1.0]}


@pytest.fixture
def serve() -> Iterator[Callable[..., RestRunning]]:
    with rest_servers() as start:
        yield start


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
