"""What a scripted native server leaves to Python: each cold call is answered once, whatever its handler does; each REST connection is
adopted once, whenever it comes, and its end is told once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rest_support import RestRunning, error_of, read_answer, rest_servers
from support import wait_until

from tfs.errors import Code, NotFound
from tfs.transport.native_bridge import NativeBridge
from tfs.transport.rest_protocol import Adopted


class Call:
    def __init__(self, path: str, body: bytes = b"", timeout_ns: int | None = None) -> None:
        self.path, self.body, self.timeout_ns = path, body, timeout_ns
        self.answers: list[Any] = []

    def reply(self, body: bytes) -> None:
        self.answers.append(body)

    def fail(self, code: int, message: str) -> None:
        self.answers.append((code, message))


class Server:
    """Hands out what was put in; a byte in its pipe says that there is something."""

    def __init__(self) -> None:
        self.waiting: list[Call] = []
        self.reader, self.writer = os.pipe()

    def fileno(self) -> int:
        return self.reader

    def put(self, *calls: Call) -> None:
        self.waiting += calls
        os.write(self.writer, b"x")

    def take(self) -> list[Call]:
        if self.waiting:
            os.read(self.reader, 100)
        taken, self.waiting = self.waiting, []
        return taken

    def take_rest(self) -> list[tuple[int, bytes, bool]]:
        raise AssertionError("there is no REST here")

    def rest_closed(self) -> None:
        raise AssertionError("there is no REST here")

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


async def echo(body: bytes, timeout_ns: int | None) -> bytes:
    await asyncio.sleep(0)
    return body + b"%d" % (timeout_ns or 0)


async def missing(body: bytes, timeout_ns: int | None) -> bytes:
    raise NotFound("x" * 2000)


async def broken(body: bytes, timeout_ns: int | None) -> bytes:
    raise ZeroDivisionError("a secret")


METHODS = {"/echo": echo, "/missing": missing, "/broken": broken}


def serve(*calls: Call) -> None:
    """Puts the calls into a server, and stops the bridge once they are taken."""

    async def run() -> None:
        server = Server()
        bridge = NativeBridge(server, METHODS)
        bridge.start()
        server.put(*calls)
        while server.waiting:
            await asyncio.sleep(0)
        await bridge.stop(5.0)
        server.close()

    asyncio.run(run())


def test_answers_come_from_the_table(caplog: pytest.LogCaptureFixture) -> None:
    calls = [Call("/echo", b"a", 5), Call("/missing"), Call("/broken"), Call("/other"), Call("/echo", b"b")]
    serve(*calls)
    assert [call.answers for call in calls] == [
        [b"a5"],
        [(Code.NOT_FOUND, "x" * 1024 + "...TRUNCATED")],
        [(Code.INTERNAL, "Internal error; the server's log has the details")],
        [(Code.UNIMPLEMENTED, "Method not found!")],
        [b"b0"],
    ]
    assert "a secret" in caplog.text


@pytest.mark.parametrize("in_time", [True, False])
def test_stop_answers_what_is_under_way(in_time: bool) -> None:
    gate = asyncio.Event()

    async def held(body: bytes, timeout_ns: int | None) -> bytes:
        await gate.wait()
        return b"done"

    async def run() -> None:
        server, call = Server(), Call("/held")
        bridge = NativeBridge(server, {"/held": held})
        bridge.start()
        server.put(call)
        while server.waiting:
            await asyncio.sleep(0)
        stopping = asyncio.ensure_future(bridge.stop(60.0 if in_time else 0.0))
        if in_time:
            await asyncio.sleep(0)
            assert not stopping.done()
            gate.set()
        await stopping
        assert call.answers == [b"done" if in_time else (Code.CANCELLED, "the server is shutting down")]
        server.close()

    asyncio.run(run())


# -- REST connections


class RestSource:
    """A native server's REST side: as there, only the first connection on an empty list makes the descriptor readable.

    `between` is called once: after the list of connections was looked at and before the descriptor is emptied, where these happen in that
    order; else as soon as one of the two has happened."""

    def __init__(self, between: Callable[[RestSource], None] | None = None) -> None:
        self.event = os.eventfd(0, os.EFD_NONBLOCK)
        self.connections: list[tuple[int, bytes, bool]] = []
        self.closed = 0
        self.between = between

    def fileno(self) -> int:
        return self.event

    def put(self, fd: int, read: bytes, full: bool) -> None:
        if not self.connections:
            os.eventfd_write(self.event, 1)
        self.connections.append((fd, read, full))

    def interrupt(self) -> None:
        between, self.between = self.between, None
        if between is not None:
            between(self)

    def take(self) -> list[Call]:
        self.interrupt()
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.event)
        return []

    def take_rest(self) -> list[tuple[int, bytes, bool]]:
        taken, self.connections = self.connections, []
        self.interrupt()
        return taken

    def rest_closed(self) -> None:
        self.closed += 1


class Adopter:
    """Stands in for RestServer: notes what it is given."""

    def __init__(self) -> None:
        self.adopted: list[Adopted] = []

    def adopt(self, adopted: Adopted) -> None:
        self.adopted.append(adopted)


async def adopted_by(source: RestSource, count: int, *connections: tuple[int, bytes, bool]) -> list[Adopted]:
    """What a bridge gives on of the connections, once it is `count`; fails when that does not happen."""
    rest: Any = Adopter()
    bridge = NativeBridge(source, {}, rest)
    bridge.start()
    for connection in connections:
        source.put(*connection)

    async def all_adopted() -> None:
        while len(rest.adopted) < count:
            await asyncio.sleep(0)

    try:
        await asyncio.wait_for(all_adopted(), 5)
    finally:
        await bridge.stop(0)
        os.close(source.event)
    return list(rest.adopted)


def test_connections_are_adopted_in_their_order() -> None:
    source = RestSource()
    given = [(7, b"GET", False), (8, b"", False), (9, b"", True)]
    adopted = asyncio.run(adopted_by(source, 3, *given))
    assert [(one.fd, one.read, one.full) for one in adopted] == given
    for one in adopted:
        one.closed()
    assert source.closed == 3


@pytest.mark.parametrize("turn", ["emptied", "looked at"])
def test_no_connection_waits_for_the_next_one(turn: str) -> None:
    """One that comes while the others are taken. Once the list was looked at first and the descriptor emptied afterwards: what came in
    between waited for a management call over gRPC, and all later connections with it, because the list was never empty again."""

    def late(source: RestSource) -> None:
        source.put(8, b"late", False)

    def later(source: RestSource) -> None:
        source.between = late

    source = RestSource(late if turn == "emptied" else later)
    adopted = asyncio.run(adopted_by(source, 2, (7, b"", False)))
    assert [one.fd for one in adopted] == [7, 8]


def test_what_waits_at_the_end_is_given_on() -> None:
    async def run() -> list[Adopted]:
        source, rest = RestSource(), Adopter()
        whom: Any = rest
        bridge = NativeBridge(source, {}, whom)
        bridge.start()
        source.put(7, b"", False)
        await bridge.stop(0)
        os.close(source.event)
        return rest.adopted

    assert [one.fd for one in asyncio.run(run())] == [7]


# -- and what RestServer makes of them

GET = b"GET /v1/models/m HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n{ } "


@pytest.fixture
def running() -> Iterator[RestRunning]:
    with rest_servers() as start:
        yield start()


class Handed:
    """A connection that somebody else accepted, handed to a server; `client` is its other end."""

    def __init__(
        self, running: RestRunning, read: bytes = b"", full: bool = False, gone: bool = False
    ) -> None:
        self.client, ours = socket.socketpair()
        self.client.settimeout(20)
        self.ends = 0
        self.ended = threading.Event()
        if gone:
            self.client.close()
        running.loop.call_soon_threadsafe(running.server.adopt, Adopted(ours.detach(), read, full, self.end))

    def end(self) -> None:
        self.ends += 1
        self.ended.set()

    def until_closed(self) -> bytes:
        data = b""
        while got := self.client.recv(65536):
            data += got
        return data

    def told_once(self, running: RestRunning) -> bool:
        """Whether the end was told, and only once, also when the loop has done what it still had to do."""
        assert self.ended.wait(20)
        running.on_loop(asyncio.sleep(0.01))
        return self.ends == 1


@pytest.mark.parametrize("request_bytes", [GET, POST])
def test_bytes_that_were_read_come_first(running: RestRunning, request_bytes: bytes) -> None:
    for at in range(len(request_bytes) + 1):
        handed = Handed(running, request_bytes[:at])
        handed.client.sendall(request_bytes[at:])
        assert read_answer(handed.client)[0] == 200, at
        handed.client.sendall(GET)
        assert read_answer(handed.client)[0] == 200
        assert not handed.ended.is_set()
        handed.client.close()
        assert handed.told_once(running)
    if request_bytes is POST:
        assert {asked[1] for asked in running.engine.asked} == {b"{ } "}


def test_a_pipeline_that_was_read(running: RestRunning) -> None:
    last = GET.replace(b"Host", b"Connection: close\r\nHost")
    handed = Handed(running, POST + GET * 40 + POST + last)
    assert handed.until_closed().count(b"HTTP/1.1 200 OK") == 43
    assert handed.told_once(running)
    handed.client.close()


def test_one_too_many_is_refused(running: RestRunning) -> None:
    handed = Handed(running, full=True)
    status, headers, body = read_answer(handed.client)
    assert (status, headers["connection"]) == (503, "close")
    assert "connections are taken" in error_of(body)
    assert handed.until_closed() == b""
    assert handed.told_once(running)
    handed.client.close()


@pytest.mark.parametrize("read", [b"", POST, b"nonsense\r\n\r\n"])
def test_a_client_that_has_left_already(running: RestRunning, read: bytes) -> None:
    handed = Handed(running, read, gone=True)
    assert handed.told_once(running)


def test_what_comes_after_the_end_is_closed() -> None:
    with rest_servers() as start:
        running = start()
        running.on_loop(running.server.stop(0))
        handed = Handed(running, POST)
        assert handed.until_closed() == b""
        assert handed.told_once(running)
        assert running.engine.asked == []
        handed.client.close()


def test_what_comes_during_the_end_is_answered_or_closed() -> None:
    """Nothing is left open, whatever the order in which the two reach the loop."""
    with rest_servers() as start:
        running = start()
        handed = [Handed(running, POST[:size]) for size in (len(POST), 0, 10)]
        running.on_loop(running.server.stop(0))
        ends = [one.until_closed() for one in handed]
        assert ends[0] == b"" or ends[0].startswith(b"HTTP/1.1 200 OK")
        assert ends[1:] == [b"", b""]
        wait_until(lambda: all(one.ends == 1 for one in handed), 20, "the ends to be told")
        for one in handed:
            one.client.close()
