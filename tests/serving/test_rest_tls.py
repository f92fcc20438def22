"""TLS on the REST port: real handshakes, wrong and missing client certificates, settings that cannot work."""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from fake_core import FakeCore, FakeEngine
from rest_support import RestRunning

from tfs.errors import Code, TfsError
from tfs.transport.rest import RestSettings
from tfs.transport.tls import TlsFiles, server_context

SSL = Path(__file__).parents[1] / "conformance" / "ssl"
PREDICT = "/v1/models/m:predict"


def pem(name: str) -> bytes:
    return (SSL / name).read_bytes()


def files(*, verify: bool = False) -> TlsFiles:
    return TlsFiles(pem("server.key"), pem("server.pem"), pem("ca.pem") if verify else None, verify)


@pytest.fixture
def serve() -> Iterator[Callable[[TlsFiles], RestRunning]]:
    started: list[RestRunning] = []

    def start(tls: TlsFiles) -> RestRunning:
        running = RestRunning(FakeEngine(), FakeCore({}), RestSettings(), tls=server_context(tls))
        started.append(running)
        return running

    yield start
    for running in started:
        running.close()


def client(ca: str, certificate: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(SSL / ca))
    context.check_hostname = False
    if certificate is not None:
        context.load_cert_chain(SSL / f"{certificate}.pem", SSL / f"{certificate}.key")
    return context


def ask(running: RestRunning, context: ssl.SSLContext) -> bytes:
    """The beginning of the answer; raises ssl.SSLError or OSError when there is no connection."""
    with running.connect() as plain, context.wrap_socket(plain, server_hostname="localhost") as connection:
        connection.sendall(b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}")
        got = connection.recv(100)
        if not got:
            raise ConnectionResetError("closed without an answer")
        return got


def test_tls(serve: Callable[[TlsFiles], RestRunning]) -> None:
    running = serve(files())
    assert ask(running, client("ca.pem")).startswith(b"HTTP/1.1 200")
    with pytest.raises(ssl.SSLError):
        ask(running, client("other.pem"))
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://127.0.0.1:{running.server.port}/v1/models", timeout=20)
    assert ask(running, client("ca.pem")).startswith(b"HTTP/1.1 200")


def test_client_certificates(serve: Callable[[TlsFiles], RestRunning]) -> None:
    running = serve(files(verify=True))
    assert ask(running, client("ca.pem", "client")).startswith(b"HTTP/1.1 200")
    for certificate in (None, "other"):
        with pytest.raises(OSError):  # ssl.SSLError is one
            ask(running, client("ca.pem", certificate))


def test_old_protocols_and_http2_are_not_offered(serve: Callable[[TlsFiles], RestRunning]) -> None:
    running = serve(files())
    context = client("ca.pem")
    context.set_alpn_protocols(["h2", "http/1.1"])
    with running.connect() as plain, context.wrap_socket(plain, server_hostname="localhost") as connection:
        assert connection.selected_alpn_protocol() == "http/1.1"
        assert connection.version() in ("TLSv1.2", "TLSv1.3")


def test_a_silent_handshake_does_not_hold_others_up(serve: Callable[[TlsFiles], RestRunning]) -> None:
    running = serve(files())
    with running.connect():
        assert ask(running, client("ca.pem")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("tls", "text"),
    [
        (TlsFiles(b"abc", b"def"), "no usable PEM pair"),
        (TlsFiles(pem("client.key"), pem("server.pem")), "no usable PEM pair"),
        (TlsFiles(b"", b""), "no usable PEM pair"),
        (TlsFiles(pem("server.key"), pem("server.pem"), b"junk"), "custom_ca is no usable PEM certificate"),
        (TlsFiles(pem("server.key"), pem("server.pem"), None, True), "client_verify needs custom_ca"),
    ],
)
def test_settings_that_cannot_work(tls: TlsFiles, text: str) -> None:
    with pytest.raises(TfsError, match=text) as raised:
        server_context(tls)
    assert raised.value.code is Code.INVALID_ARGUMENT


def test_keys_leave_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    threads = [threading.Thread(target=server_context, args=(files(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.listdir(tmp_path) == []
