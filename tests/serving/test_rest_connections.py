"""REST over a scripted engine: keep-alive and pipelines, slow and broken clients, limits, the end, and what is not HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rest_support import RestRunning, body_of, error_of, read_answer, rest_servers
from support import wait_until

from tfs.errors import TfsError
from tfs.transport.rest_protocol import MAX_HEADER_BYTES

PREDICT = "/v1/models/m:predict"
REPLY = {"predictions": [1.0]}


@pytest.fixture
def serve() -> Iterator[Callable[..., RestRunning]]:
    with rest_servers() as start:
        yield start


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
