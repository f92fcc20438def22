"""The REST client against an HTTP server on loopback that answers what a test says."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from tfs.client import Code, RestClient, State, VersionStatus, encode_example
from tfs.errors import DeadlineExceeded, InvalidArgument, NotFound, TfsError, Unavailable, Unimplemented


def info(dtype: str, *sizes: int, name: str = "t:0") -> dict[str, Any]:
    dims = [{"size": str(size), "name": ""} for size in sizes]
    return {"dtype": dtype, "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": name}


def metadata(outputs: dict[str, Any]) -> dict[str, Any]:
    signature = {
        "inputs": {"x": info("DT_FLOAT", -1)},
        "outputs": outputs,
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }
    return {
        "model_spec": {"name": "m", "signature_name": "", "version": "3"},
        "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
    }


class Server(ThreadingHTTPServer):
    """Says nothing of clients that have gone, as one does whose deadline is over."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Web:
    """Answers GET and POST with `replies[path]`: (status, body as bytes or JSON)."""

    def __init__(self) -> None:
        self.replies: dict[str, tuple[int, Any]] = {}
        self.asked: list[tuple[str, str, Any, dict[str, str]]] = []
        self.hold: threading.Event | None = None
        self.drop_next = False
        self.connections = 0
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                web.connections += 1
                super().setup()

            def do_GET(self) -> None:
                size = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(size)
                web.asked.append(
                    (self.command, self.path, json.loads(body) if body else None, dict(self.headers))
                )
                if web.hold is not None:
                    web.hold.wait(20)
                if web.drop_next and len(web.asked) > 1:
                    web.drop_next = False
                    self.close_connection = True
                    return
                status, reply = web.replies[self.path]
                raw = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_POST = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def web() -> Iterator[Web]:
    one = Web()
    one.replies["/v1/models/m/metadata"] = (200, metadata({"y": info("DT_FLOAT", -1)}))
    yield one
    one.close()


@pytest.fixture
def client(web: Web) -> Iterator[RestClient]:
    with RestClient(web.url) as one:
        yield one


def test_predict(web: Web, client: RestClient) -> None:
    web.replies["/v1/models/m:predict"] = (200, b'{"outputs": [1.5, NaN, Infinity]}')
    found = client.predict("m", {"x": np.array([1, 2, 3], np.float32)})
    assert found["y"].dtype == np.float32
    np.testing.assert_array_equal(found["y"], [1.5, np.nan, np.inf])
    assert web.asked[-1][2] == {"inputs": {"x": [1.0, 2.0, 3.0]}}


def test_metadata_is_asked_for_once(web: Web, client: RestClient) -> None:
    web.replies["/v1/models/m:predict"] = (200, {"outputs": 1.0})
    for _ in range(3):
        assert client.predict("m", {"x": 1.0})["y"].shape == ()
    assert [path for _, path, _, _ in web.asked].count("/v1/models/m/metadata") == 1
    assert web.connections == 1


def test_several_outputs_strings_and_filter(web: Web, client: RestClient) -> None:
    outputs = {"s": info("DT_STRING", -1), "b_bytes": info("DT_STRING", -1), "n": info("DT_INT64")}
    web.replies["/v1/models/m/labels/beta/metadata"] = (200, metadata(outputs))
    web.replies["/v1/models/m/labels/beta:predict"] = (
        200,
        {"outputs": {"s": ["ä", "b"], "b_bytes": [{"b64": "/w=="}], "n": 1 << 60}},
    )
    found = client.predict("m", {"x": [b"\xff", "t"]}, label="beta", output_filter=["n", "s", "b_bytes"])
    assert list(found) == ["n", "s", "b_bytes"]
    assert found["n"] == 1 << 60
    assert found["s"].tolist() == ["ä".encode(), b"b"]
    assert found["b_bytes"].tolist() == [b"\xff"]
    assert web.asked[-1][2]["inputs"] == {"x": [{"b64": "/w=="}, {"b64": "dA=="}]}
    with pytest.raises(InvalidArgument, match="output tensor alias not found in signature: z"):
        client.predict("m", {"x": [b""]}, label="beta", output_filter=["z"])


def test_an_unknown_signature(web: Web, client: RestClient) -> None:
    with pytest.raises(InvalidArgument, match='"none" not found'):
        client.predict("m", {"x": 1.0}, signature="none")


def test_classify_and_regress(web: Web, client: RestClient) -> None:
    web.replies["/v1/models/m/versions/2:classify"] = (200, {"results": [[["ham", 0.5], ["", 0.25]]]})
    web.replies["/v1/models/m:regress"] = (200, {"results": [1.5, 2.0]})
    example = encode_example({"t": b"\xff", "n": [1, -2], "f": np.array([1.5])})
    assert client.classify("m", [example], version=2, signature="c") == [[("ham", 0.5), ("", 0.25)]]
    assert web.asked[-1][2] == {
        "signature_name": "c",
        "examples": [{"t": [{"b64": "/w=="}], "n": [1, -2], "f": [1.5]}],
    }
    found = client.regress("m", [{"x": 1.0}, {"x": np.float32(2)}], context={"c": "t"})
    assert found.tolist() == [1.5, 2.0]
    assert web.asked[-1][2] == {"context": {"c": "t"}, "examples": [{"x": 1.0}, {"x": 2.0}]}


def test_status(web: Web, client: RestClient) -> None:
    state = {"version": "4", "state": "END", "status": {"error_code": "NOT_FOUND", "error_message": "gone"}}
    web.replies["/v1/models/a%2Fb/versions/4"] = (200, {"model_version_status": [state]})
    assert client.status("a/b", version=4) == [(4, State.END, Code.NOT_FOUND, "gone")]


def test_metadata(web: Web, client: RestClient) -> None:
    found = client.metadata("m")
    assert (found.name, found.version) == ("m", 3)
    assert found.signatures["serving_default"].inputs == {"x": ("t:0", 1, (None,))}


def test_headers(web: Web) -> None:
    web.replies["/v1/models/m"] = (200, {"model_version_status": []})
    with RestClient(web.url, metadata=[("Authorization", "Bearer a")]) as one:
        one.status("m", metadata=[("X-More", "b")])
    assert web.asked[-1][3]["Authorization"] == "Bearer a"
    assert web.asked[-1][3]["X-More"] == "b"


def test_there_is_no_reload(client: RestClient) -> None:
    with pytest.raises(Unimplemented, match="gRPC port"):
        client.reload([])


@pytest.mark.parametrize(
    ("status", "body", "code", "text"),
    [
        (404, b'{"error": "Could not find any versions of model m"}', Code.NOT_FOUND, "Could not find any"),
        (400, b'{"error": "bad"}', Code.INVALID_ARGUMENT, "bad"),
        (503, b"", Code.UNAVAILABLE, "HTTP status 503"),
        (418, b"<html>", Code.UNKNOWN, "<html>"),
        (200, b"[1]", Code.INTERNAL, r"\[1\]"),
    ],
)
def test_errors(web: Web, status: int, body: bytes, code: Code, text: str) -> None:
    web.replies["/v1/models/m"] = (status, body)
    with RestClient(web.url) as client, pytest.raises(TfsError, match=text) as caught:
        client.status("m")
    assert caught.value.code is code
    if status == 404:
        assert isinstance(caught.value, NotFound)


def test_a_kept_connection_that_died_is_replaced(web: Web, client: RestClient) -> None:
    web.replies["/v1/models/m"] = (200, {"model_version_status": []})
    client.status("m")
    web.drop_next = True
    assert client.status("m") == []
    assert web.connections == 2


def test_a_deadline(web: Web, client: RestClient) -> None:
    web.hold = threading.Event()
    with pytest.raises(DeadlineExceeded):
        client.status("m", timeout=0.05)
    web.hold.set()


def test_nobody_there(web: Web) -> None:
    from support import free_port

    with RestClient(f"http://127.0.0.1:{free_port()}") as one, pytest.raises(Unavailable, match="127"):
        one.status("m")


def test_the_gRPC_port() -> None:
    """A server of HTTP/2 begins with a SETTINGS frame, whose bytes are nothing to print."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with (
            RestClient(f"http://127.0.0.1:{listener.getsockname()[1]}") as one,
            pytest.raises(Unavailable, match="is it the gRPC port"),
        ):
            one.status("m")
        thread.join()


def test_all_models(web: Web, client: RestClient) -> None:
    status = {"version": "2", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    web.replies["/v1/models"] = (200, {"models": [{"name": "m", "model_version_status": [status]}]})
    assert client.models() == {"m": [VersionStatus(2, State.AVAILABLE)]}


@pytest.mark.parametrize("url", ["127.0.0.1:8501", "ftp://a", "http://", "a b", "http://a:b", "http://[a"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(InvalidArgument, match="a REST address is http"):
        RestClient(url)
