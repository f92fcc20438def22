"""Predicts that are answered without a task must be told apart from the others by nothing but their speed.

A route is known from its second request on, so the first of two equal requests goes by ASGI and the second is answered at once.
"""

from __future__ import annotations

import asyncio
import gzip
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_core import FakeCore, FakeEngine, FakeTicket
from rest_support import RestRunning, error_of, read_answer

from tfs.errors import InvalidArgument
from tfs.transport import rest_protocol
from tfs.transport.rest import RestApp, RestSettings
from tfs.transport.rest_protocol import MAX_AT_ONCE

HEAD = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\n"
ONE = HEAD + b"Content-Length: 2\r\n\r\n{}"


class Scripted(FakeEngine):
    """Gives the answers of a list, one per call; a tuple: `done` is called with its item before anything else happens on the loop."""

    def __init__(self, answers: list[Any]) -> None:
        super().__init__()
        self.answers = answers

    def predict_json(self, mailbox: Any, body: bytes, *others: Any) -> Any:
        self.asked.append(("json", body, *others[:-1]))
        answer = self.answers.pop(0)
        if isinstance(answer, tuple):
            asyncio.get_running_loop().call_soon(others[-1], answer[0])
            return FakeTicket()
        return self._give(answer, others[-1])


@pytest.fixture
def by_asgi(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The targets that went through the ASGI application."""
    seen: list[str] = []
    real = RestApp.__call__

    async def counting(self: RestApp, scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["target"].decode())
        await real(self, scope, receive, send)

    monkeypatch.setattr(RestApp, "__call__", counting)
    return seen


@pytest.fixture
def serve() -> Iterator[Callable[..., RestRunning]]:
    started: list[RestRunning] = []

    def start(answers: list[Any], **settings: Any) -> RestRunning:
        started.append(RestRunning(Scripted(answers), FakeCore({}), RestSettings(**settings)))
        return started[-1]

    yield start
    for running in started:
        running.close()


def everything(connection: socket.socket) -> bytes:
    data = b""
    while got := connection.recv(65536):
        data += got
    return data


@pytest.mark.parametrize(
    "more", [b"", b"Connection: close\r\n", b"Accept-Encoding: gzip\r\n", b"Accept: */*\r\nX: y\r\n"]
)
@pytest.mark.parametrize(
    "answer",
    [b"[1]", b"[" + b"1," * 4000 + b"1]", InvalidArgument('a "bad"\nbody')],
    ids=["ok", "large", "error"],
)
def test_both_ways_give_the_same_bytes(
    serve: Callable[..., RestRunning], by_asgi: list[str], more: bytes, answer: Any
) -> None:
    running = serve([answer] * 2, cors=True)
    found = []
    for _ in range(2):
        with running.connect() as connection:
            connection.sendall(HEAD + more + b"Content-Length: 2\r\n\r\n{}")
            connection.shutdown(socket.SHUT_WR)
            found.append(re.sub(rb"date: [^\r]*", b"date:", everything(connection)))
    assert found[0] == found[1]
    assert b"access-control-allow-origin" in found[0]
    packed = b"content-encoding: gzip" in found[0]
    assert len(by_asgi) == (2 if packed else 1)
    if packed:
        assert gzip.decompress(found[1].partition(b"\r\n\r\n")[2]) == answer


def test_http_1_0_is_closed_both_ways(serve: Callable[..., RestRunning], by_asgi: list[str]) -> None:
    running = serve([b"[1]"] * 2)
    for _ in range(2):
        with running.connect() as connection:
            connection.sendall(ONE.replace(b"HTTP/1.1", b"HTTP/1.0"))
            assert everything(connection).endswith(b"\r\n\r\n[1]")
    assert len(by_asgi) == 1


def test_nothing_is_run_after_an_http_1_0_request(serve: Callable[..., RestRunning]) -> None:
    """One that asks to be kept alive: the parser would read on, the answer is the last all the same."""
    running = serve([b"[1]"] * 9)
    last = ONE.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"Host: h\r\n", b"Connection: keep-alive\r\n")
    with running.connect() as connection:
        connection.sendall(ONE)
        read_answer(connection)
        connection.sendall(last * 3)
        assert everything(connection).count(b"HTTP/1.1 200") == 1
    with running.connect() as connection:  # whatever the other connection did is over
        connection.sendall(last)
        everything(connection)
    assert len(running.engine.asked) == 3


def test_an_answer_before_the_task_has_begun(serve: Callable[..., RestRunning], by_asgi: list[str]) -> None:
    running = serve([(b"[1]",), (b"[2]",), (InvalidArgument("late"),)])
    with running.connect() as connection:
        for expected in (b"[1]", b"[2]"):
            connection.sendall(ONE)
            assert read_answer(connection)[2] == expected
        connection.sendall(ONE)
        status, _, body = read_answer(connection)
    assert (status, error_of(body)) == (400, "late")
    assert len(by_asgi) == 3


@pytest.mark.parametrize("cut", [len(ONE) - 2, len(ONE) - 1, 5, len(HEAD)])
def test_a_body_that_comes_later(serve: Callable[..., RestRunning], by_asgi: list[str], cut: int) -> None:
    running = serve([b"[1]"] * 3)
    with running.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(ONE)
        read_answer(connection)
        connection.sendall(ONE[:cut])
        # Another connection is served in between: by then the first part has been read.
        with running.connect() as other:
            other.sendall(ONE)
            read_answer(other)
        connection.sendall(ONE[cut:])
        assert read_answer(connection)[2] == b"[1]"
    assert [asked[1] for asked in running.engine.asked] == [b"{}"] * 3
    assert len(by_asgi) == (2 if cut >= len(ONE) - 2 else 1)


@pytest.mark.parametrize("target", [b"http://h:99999999", b"http://[::1", b"http://a:b@c@d", b"http://h"])
def test_a_target_that_uvicorn_cannot_parse(serve: Callable[..., RestRunning], target: bytes) -> None:
    """Its authority is nobody's business here, whether the body is there with the headers or comes later."""
    running = serve([b"[1]"] * 3)
    request = ONE.replace(b" /v1", b" %s/v1" % target)
    with running.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(request)
        assert read_answer(connection)[2] == b"[1]"
        connection.sendall(request[:-2])
        with running.connect() as other:  # by the time of its answer the headers have been read
            other.sendall(ONE)
            read_answer(other)
        connection.sendall(request[-2:])
        assert read_answer(connection)[2] == b"[1]"
        connection.sendall(b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n" % target)
        assert read_answer(connection)[0] == 404


def test_chunked_bodies_that_are_there(serve: Callable[..., RestRunning], by_asgi: list[str]) -> None:
    running = serve([b"[1]"] * 2)
    with running.connect() as connection:
        for _ in range(2):
            connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n")
            assert read_answer(connection)[2] == b"[1]"
    assert [asked[1] for asked in running.engine.asked] == [b"{}"] * 2
    assert len(by_asgi) == 1


def test_a_damaged_body_after_a_good_request(serve: Callable[..., RestRunning]) -> None:
    running = serve([b"[1]"] * 2)
    with running.connect() as connection:
        for _ in range(2):
            connection.sendall(ONE)
            read_answer(connection)
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n")
        assert read_answer(connection)[0] == 400
        assert everything(connection) == b""


def test_a_pipeline_keeps_its_order(serve: Callable[..., RestRunning], by_asgi: list[str]) -> None:
    """What could be answered at once waits for what came before it."""
    answers: list[Any] = [b"0", 0.02, b"2", b"3", (b"4",), b"5"]
    running = serve(answers)
    running.engine.late = b"1"
    with running.connect() as connection:
        connection.sendall(ONE)
        assert read_answer(connection)[2] == b"0"
        connection.sendall(ONE * 4 + ONE.replace(b"Host: h\r\n", b"Host: h\r\nConnection: close\r\n"))
        bodies = re.findall(rb"\r\n\r\n(\d)", everything(connection))
    assert bodies == [b"1", b"2", b"3", b"4", b"5"]


def test_a_pipeline_is_answered_in_one_turn(serve: Callable[..., RestRunning], by_asgi: list[str]) -> None:
    running = serve([b"%d" % number for number in range(10)])
    with running.connect() as connection:
        connection.sendall(ONE)
        read_answer(connection)
        connection.sendall(ONE * 8 + ONE.replace(b"Host: h\r\n", b"Host: h\r\nConnection: close\r\n"))
        assert re.findall(rb"\r\n\r\n(\d)", everything(connection)) == [
            b"%d" % number for number in range(1, 10)
        ]
    assert len(by_asgi) == 1


def test_a_long_pipeline_lets_others_have_their_turn(
    serve: Callable[..., RestRunning], by_asgi: list[str]
) -> None:
    requests = 3 * MAX_AT_ONCE
    running = serve([b"[%d]" % number for number in range(requests + 1)])
    turns: list[int] = []
    real = running.engine.predict_json

    def predict(*arguments: Any) -> Any:
        if not turns:  # the first of the pipeline: what another callback of the loop sees
            asyncio.get_running_loop().call_soon(lambda: turns.append(len(running.engine.asked)))
        return real(*arguments)

    with running.connect() as connection:
        connection.sendall(ONE)
        read_answer(connection)
        running.engine.predict_json = predict
        last = ONE.replace(b"Host: h\r\n", b"Host: h\r\nConnection: close\r\n")
        connection.sendall(ONE * (requests - 1) + last)
        bodies = re.findall(rb"\r\n\r\n\[(\d+)\]", everything(connection))
    assert [int(body) for body in bodies] == list(range(1, requests + 1))
    assert turns[0] <= 1 + MAX_AT_ONCE
    assert len(by_asgi) > 1


def test_nothing_is_run_after_the_last_request(serve: Callable[..., RestRunning]) -> None:
    running = serve([b"[1]"] * 4)
    with running.connect() as connection:
        connection.sendall(ONE)
        read_answer(connection)
        last = ONE.replace(b"Host: h\r\n", b"Host: h\r\nConnection: close\r\n")
        connection.sendall(last + ONE)
        assert everything(connection).count(b"HTTP/1.1 200") == 1
    with running.connect() as connection:  # whatever the other connection did is over
        connection.sendall(last)
        everything(connection)
    assert len(running.engine.asked) == 3


@pytest.mark.parametrize("header", [b"Content-Encoding: gzip\r\n", b"Expect: 100-continue\r\n"])
def test_what_is_not_for_this_way(
    serve: Callable[..., RestRunning], by_asgi: list[str], header: bytes
) -> None:
    running = serve([b"[1]"] * 2)
    body = gzip.compress(b"{}") if b"gzip" in header else b"{}"
    with running.connect() as connection:
        connection.sendall(ONE)
        read_answer(connection)
        last = HEAD + header + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        connection.sendall(last + body)
        assert everything(connection).endswith(b"[1]")
    assert [asked[1] for asked in running.engine.asked] == [b"{}"] * 2
    assert len(by_asgi) == 2


def test_the_body_limit_holds(serve: Callable[..., RestRunning]) -> None:
    running = serve([b"[1]"] * 2, max_body_bytes=4)
    with running.connect() as connection:
        connection.sendall(ONE)
        read_answer(connection)
        connection.sendall(HEAD + b"Content-Length: 5\r\n\r\n{   }")
        assert read_answer(connection)[0] == 413


def test_an_idle_connection_is_closed(
    serve: Callable[..., RestRunning], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest_protocol, "KEEP_ALIVE_S", 0.1)
    running = serve([b"[1]"] * 2)
    with running.connect() as connection:
        for _ in range(2):
            connection.sendall(ONE)
            read_answer(connection)
        assert connection.recv(1) == b""  # within the socket's timeout
