"""What the tests of the native transport share: a server over the echo engine, clients that speak raw HTTP/2 and raw HTTP/1.1.

Owns: start and stop of an in-process NativeServer, `Peer` (hyper-h2 on a socket, or bytes of one's own), `RestPeer`.  No TensorFlow.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
from http1_support import Answer, answers

from tfs import _fastpath

PREDICT = "/tensorflow.serving.PredictionService/Predict"
COLD = "/tensorflow.serving.ModelService/GetModelStatus"
PATIENCE_S = 20.0
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@contextlib.contextmanager
def native_server(*addresses: str, **changed: Any) -> Iterator[_fastpath.NativeServer]:
    """A NativeServer over an EchoEngine; everything lent must have come back at the end."""
    settings: dict[str, Any] = {
        "addresses": list(addresses or ["127.0.0.1:0"]),
        "io_threads": 2,
        "cold": [COLD],
        "max_message_bytes": 1 << 30,
        "byte_budget": 1 << 28,
        "max_connections": 5000,
        "arguments": {},
    }
    echo = _fastpath.EchoEngine()
    server = _fastpath.NativeServer(echo, **{**settings, **changed})
    try:
        yield server
    finally:
        server.close()
        echo.answer_held()
    assert server.stats()["connections"] == 0
    assert server.stats()["request_bytes"] == 0
    assert echo.live == 0


REST: dict[str, Any] = {
    "status_lines": [b"HTTP/1.1 %d \r\n" % (200 + code) for code in range(17)],
    "headers": b"content-type: application/json\r\n",
    "gzip_headers": b"content-encoding: gzip\r\n",
    "gzip_min_bytes": 4096,
    "max_body_bytes": 0,
    "timeout_ns": 0,
    "max_connections": 5000,
    "write_stall_ns": 0,
    "keep_alive_ns": 50_000_000_000,
    "silent_ns": 1_000_000_000,
}


@contextlib.contextmanager
def native_rest(*addresses: str, **changed: Any) -> Iterator[tuple[_fastpath.NativeServer, int]]:
    """The same with REST, and its port; the keywords may be settings of listen_rest, too. It looks at its connections every 10 ms.

    A socket takes little of an answer that is not fetched."""
    rest = REST | {name: changed.pop(name) for name in REST.keys() & changed.keys()}
    arguments = {
        "grpc.keepalive_timeout_ms": 40
    }  # no gRPC peer pauses here; a quarter of the shortest limit is a tick
    with native_server(**{"arguments": arguments, "start": False, **changed}) as server:
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        listener.setblocking(False)
        server.listen_rest(listener, **rest)
        server.start()
        yield server, listener.getsockname()[1]


def wait_for(condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """The first true value of `condition`; fails when there is none in time."""
    until = time.monotonic() + patience_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.002)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def message(body: bytes, compressed: int = 0) -> bytes:
    """A gRPC message: prefix and body."""
    return struct.pack(">BI", compressed, len(body)) + body


def request_headers(path: str = PREDICT, **more: str) -> list[tuple[str, str]]:
    """What a gRPC client sends; keywords replace or add (underscores become dashes, a leading one a colon; "" leaves out)."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    for name, value in more.items():
        key = (":" + name[1:] if name.startswith("_") else name).replace("_", "-")
        if value:
            fields[key] = value
        else:
            fields.pop(key, None)
    return list(fields.items())


class Peer:
    """A hyper-h2 client on a socket: events by stream, nothing automatic but what `h2` itself does."""

    def __init__(
        self, port: int, *, greet: bool = True, window: int = 65535, receive_buffer: int | None = None
    ) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            self.socket.connect(("127.0.0.1", port))
        except BaseException:
            self.socket.close()
            raise
        self.socket.settimeout(PATIENCE_S)
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=True, header_encoding="utf-8", validate_outbound_headers=False
            )
        )
        self.headers: dict[int, dict[str, str]] = {}
        self.data: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.goaway: h2.events.ConnectionTerminated | None = None
        self.acks = 0
        self.closed = False
        self.auto_window = True
        if greet:
            self.h2.initiate_connection()
            if window != 65535:
                self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
            self.flush()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def flush(self) -> None:
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(self.h2.data_to_send())

    def raw(self, data: bytes) -> bool:
        """Sends bytes as they are; False when the server has closed."""
        try:
            self.socket.sendall(data)
        except ConnectionError:
            return False
        return True

    def open(
        self, body: bytes | None, headers: list[tuple[str, str]] | None = None, *, end: bool = True
    ) -> int:
        """Starts a stream with request headers and, unless None, `body` as it is."""
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, headers or request_headers(), end_stream=end and body is None)
        if body is not None:
            for at in range(0, len(body), 16384):
                self.h2.send_data(stream, body[at : at + 16384])
            if end:
                self.h2.end_stream(stream)
        self.flush()
        return stream

    def read(self, timeout_s: float = PATIENCE_S) -> bool:
        """Takes in what has come within the time; False at the end of the connection or when nothing came."""
        self.socket.settimeout(timeout_s)
        try:
            data = self.socket.recv(1 << 18)
        except TimeoutError:
            return False
        except ConnectionError:
            data = b""
        if not data:
            self.closed = True
            return False
        for event in self.h2.receive_data(data):
            self.on_event(event)
        self.flush()
        return True

    def on_event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            self.headers.setdefault(event.stream_id, {}).update(dict(event.headers))
        elif isinstance(event, h2.events.DataReceived):
            self.data[event.stream_id] = self.data.get(event.stream_id, b"") + event.data
            if self.auto_window and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.ended.add(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.resets[event.stream_id] = event.error_code
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = event
        elif isinstance(event, h2.events.PingAckReceived):
            self.acks += 1

    def until(self, condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
        """Reads until the condition holds; fails when it does not in time."""
        until = time.monotonic() + patience_s
        while not condition():
            assert time.monotonic() < until, "waited in vain"
            if not self.read(min(0.5, patience_s)) and self.closed:
                assert condition(), "the server closed the connection"
                break
        return condition()

    def until_closed(self, patience_s: float = PATIENCE_S) -> None:
        """Reads raw bytes until the server closes."""
        until = time.monotonic() + patience_s
        self.socket.settimeout(patience_s)
        try:
            while self.socket.recv(1 << 16):
                assert time.monotonic() < until, "the server keeps the connection"
        except ConnectionError:
            pass
        self.closed = True

    def call(self, body: bytes, headers: list[tuple[str, str]] | None = None) -> tuple[dict[str, str], bytes]:
        """One whole call: (headers and trailers, data)."""
        stream = self.open(message(body), headers)
        self.until(lambda: stream in self.ended or stream in self.resets)
        return self.headers.get(stream, {}), self.data.get(stream, b"")


class RestPeer:
    """An HTTP/1.1 client on a socket that sends bytes as they are and reads whole answers."""

    def __init__(self, port: int, data: bytes = b"", receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE_S)
        try:
            self.socket.connect(("127.0.0.1", port))
        except BaseException:
            self.socket.close()
            raise
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = b""
        if data:
            self.send(data)

    def __enter__(self) -> RestPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self, data: bytes = b"") -> Answer:
        """The next answer, once `data` is sent; fails when the connection ends instead."""
        if data:
            self.send(data)
        while (size := self.whole()) is None:
            got = self.socket.recv(1 << 18)
            assert got, f"closed after {self.data[:200]!r}"
            self.data += got
        one, self.data = self.data[:size], self.data[size:]
        [answer] = answers(one, dated=False)  # what uvicorn refuses has none
        return answer

    def whole(self) -> int | None:
        """The length of the first whole answer in what was read."""
        head, separator, body = self.data.partition(b"\r\n\r\n")
        if not separator:
            return None
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return len(head) + 4 + length if len(body) >= length else None

    def rest(self) -> list[Answer]:
        """Whole answers until the connection ends."""
        pieces = [self.data]
        while got := self.socket.recv(1 << 18):
            pieces.append(got)
        return answers(b"".join(pieces), dated=False)

    def abort(self) -> None:
        """Closes by a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Whole frames as (type, flags, stream, payload): for what hyper-h2 refuses to read, like frames after a GOAWAY."""
    found = []
    while len(data) >= 9:
        size = int.from_bytes(data[:3], "big")
        found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
        data = data[9 + size :]
    return found


def echoes(port: int, text: bytes = b"still here") -> bool:
    """Whether a well-behaved client on a connection of its own is served."""
    with Peer(port) as peer:
        headers, data = peer.call(text)
        return headers["grpc-status"] == "0" and data == message(text)


def refused(port: int) -> bool:
    """Whether nobody listens there any more."""
    with socket.socket() as late:
        return late.connect_ex(("127.0.0.1", port)) != 0


def readable(file: Any, timeout_s: float = PATIENCE_S) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(file, selectors.EVENT_READ)
        return bool(selector.select(timeout_s))
