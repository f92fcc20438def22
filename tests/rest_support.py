"""The REST port over a scripted engine, on a loop of its own in a thread; and raw HTTP to it.

Owns: `RestRunning`, `rest_servers`, reading raw answers.  Must not know: what a test expects.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import requests
from fake_core import FakeCore, FakeEngine, FakeMailbox, FakeServable, FakeStatus

from tfs import messages
from tfs.errors import InvalidArgument
from tfs.service.examples import ExampleService
from tfs.service.metadata import MetadataService
from tfs.service.model import ModelService
from tfs.transport.pages import pages
from tfs.transport.rest import RestApp, RestSettings
from tfs.transport.rest_protocol import RestServer


class RestRunning:
    """A REST server; `engine` and `core` are scripted by the test."""

    def __init__(  # noqa: PLR0917
        self,
        engine: FakeEngine,
        core: FakeCore,
        settings: RestSettings,
        header_timeout_s: float = 10,
        body_timeout_s: float = 10,
        tls: ssl.SSLContext | None = None,
        reference_path: str | None = None,
        max_connections: int = 0,
    ) -> None:
        self.engine, self.core = engine, core
        self.timeouts, self.max_connections = (header_timeout_s, body_timeout_s), max_connections
        self.settings, self.tls, self.reference_path = settings, tls, reference_path
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.on_loop(self._start())

    def on_loop(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    async def _start(self) -> None:
        engine: Any = self.engine
        mailbox: Any = FakeMailbox()
        self.app = app = RestApp(
            self.settings,
            engine,
            mailbox,
            examples=ExampleService(engine, mailbox),
            metadata=MetadataService(engine),
            model=ModelService(self.core),
            pages=pages(
                reference_path=self.reference_path,
                reference_metrics=lambda: b"reference metrics",
                metrics=lambda: b"standard metrics",
                openapi=lambda: b"{}",
            ),
        )
        header_timeout_s, body_timeout_s = self.timeouts
        self.server = RestServer(
            app,
            address="127.0.0.1",
            port=0,
            header_timeout_s=header_timeout_s,
            body_timeout_s=body_timeout_s,
            at_once=app.at_once,
            max_connections=self.max_connections,
            budget=app.budget,
            tls=self.tls,
        )
        await self.server.start()

    def close(self) -> None:
        self.on_loop(self.server.stop(0))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(30)
        self.loop.close()

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.server.port}"

    def post(self, path: str, body: bytes | str = b"{}", **more: Any) -> requests.Response:
        return requests.post(self.url + path, data=body, timeout=20, **more)

    def get(self, path: str, **more: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=20, **more)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=20)

    def raw(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one answer to raw bytes; the connection is closed afterwards."""
        with self.connect() as connection:
            connection.sendall(request)
            return read_answer(connection)


def signatures() -> dict[str, bytes]:
    """Of the scripted models: one float input without a known length."""
    made = messages.SignatureDef(method_name="tensorflow/serving/predict")
    made.inputs["x"].name = "x:0"
    made.inputs["x"].dtype = 1
    made.inputs["x"].tensor_shape.dim.add().size = -1
    return {"serving_default": bytes(made.SerializeToString())}


@contextlib.contextmanager
def rest_servers() -> Iterator[Callable[..., RestRunning]]:
    """start(settings, **more): a server of the models m (version 2 serves, 1 failed) and "a/b:c é"; closed with the context."""
    started: list[RestRunning] = []

    def start(settings: RestSettings | None = None, **more: Any) -> RestRunning:
        engine = FakeEngine(
            [FakeServable("m", 2, signatures()), FakeServable("a/b:c \u00e9", 1, signatures())]
        )
        core = FakeCore(
            {"m": [FakeStatus(2, 30), FakeStatus(1, 50, InvalidArgument('a "bad" one'))], "empty": []}
        )
        started.append(RestRunning(engine, core, settings or RestSettings(), **more))
        return started[-1]

    yield start
    for running in started:
        running.close()


def body_of(running: RestRunning) -> bytes:
    """The body of the last request that reached the engine."""
    return bytes(running.engine.asked[-1][1])


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One answer with a Content-Length."""
    data = b""
    while b"\r\n\r\n" not in data:
        got = connection.recv(65536)
        assert got, f"closed after {data!r}"
        data += got
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    while len(body) < int(headers.get("content-length", "0")):
        got = connection.recv(65536)
        assert got, "closed inside the body"
        body += got
    return int(lines[0].split()[1]), headers, body


def error_of(body: bytes) -> str:
    return str(json.loads(body)["error"])
