"""REST against many clients at once: the budget of body bytes, the limit of connections, over real sockets."""

from __future__ import annotations

import contextlib
import gzip
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_core import FakeCore, FakeEngine, FakeServable
from rest_support import RestRunning, error_of, read_answer
from support import wait_until

from tfs.transport.byte_budget import FREE_BYTES, ByteBudget
from tfs.transport.rest import RestSettings

PREDICT = "/v1/models/m:predict"
MIB = 1 << 20
CLIENTS = 1000


@pytest.fixture
def serve() -> Iterator[Callable[..., RestRunning]]:
    started: list[RestRunning] = []

    def start(settings: RestSettings, **more: Any) -> RestRunning:
        running = RestRunning(FakeEngine([FakeServable("m", 1, {})]), FakeCore({}), settings, **more)
        started.append(running)
        return running

    yield start
    for running in started:
        running.close()


@pytest.fixture
def many_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * CLIENTS + 500
    if before[0] < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def head(length: int, more: bytes = b"") -> bytes:
    return b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\n%sContent-Length: %d\r\n\r\n" % (more, length)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


# --- the budget itself ---------------------------------------------------------------------------------------------------------


class Someone:
    held = 0


def test_the_budget_counts_and_gives_back() -> None:
    budget, one, other = ByteBudget(10 * FREE_BYTES), Someone(), Someone()
    assert budget.take(one, FREE_BYTES)
    assert (one.held, budget.used) == (0, 0)
    assert budget.take(one, 4 * FREE_BYTES)
    assert budget.take(one, 3 * FREE_BYTES)  # never lowered
    assert budget.take(other, 6 * FREE_BYTES)
    assert (one.held, other.held, budget.used) == (4 * FREE_BYTES, 6 * FREE_BYTES, 10 * FREE_BYTES)
    budget.give_back(one)
    budget.give_back(one)
    assert (one.held, budget.used) == (0, 6 * FREE_BYTES)
    assert not budget.was_full()


def test_one_goes_beyond_the_budget_and_only_one() -> None:
    budget, one, other, third = ByteBudget(FREE_BYTES), Someone(), Someone(), Someone()
    assert budget.take(one, 5 * FREE_BYTES)
    assert budget.take(one, 50 * FREE_BYTES)
    assert not budget.take(other, 2 * FREE_BYTES)
    assert other.held == 0
    assert budget.take(other, FREE_BYTES)
    assert (budget.was_full(), budget.was_full()) == (True, False)
    budget.give_back(one)
    assert budget.take(other, 2 * FREE_BYTES)
    assert not budget.take(third, 2 * FREE_BYTES)


def test_no_limit() -> None:
    budget = ByteBudget(0)
    assert all(budget.take(Someone(), 1 << 40) for _ in range(3))


# --- over sockets --------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("many_files")
def test_a_thousand_stalled_uploads_hold_no_more_than_the_budget(serve: Callable[..., RestRunning]) -> None:
    running = serve(RestSettings(byte_budget=32 * MIB), body_timeout_s=60)
    before = resident()
    refused = 0
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(CLIENTS):
            connection = stack.enter_context(running.connect())
            connection.sendall(head(MIB))
            connections.append(connection)
        for connection in connections:
            connection.sendall(bytes(MIB - 1))  # the last byte never comes
        for connection in connections:
            connection.settimeout(0.002)
            with contextlib.suppress(TimeoutError):
                refused += read_answer(connection)[0] == 429
        assert refused > CLIENTS / 2
        assert running.app.budget.used <= 33 * MIB + MIB
        # Beside the budget: what sockets, protocols and the allocator keep.
        assert resident() - before < 256 * MIB
        assert running.post(PREDICT, b"x" * 60_000).status_code == 200
        # Those that stall make room within seconds, for bodies of their own size too.
        wait_until(lambda: running.post(PREDICT, bytes(MIB)).status_code == 200, 15, "room for a large body")
    wait_until(lambda: running.app.budget.used == 0, 10, "the end of all uploads")


def test_a_refused_connection_goes_on(serve: Callable[..., RestRunning]) -> None:
    """The rest of the body is read and dropped, then the next request of the connection is answered."""
    running = serve(RestSettings(byte_budget=MIB))
    running.engine.json_answer, running.engine.late = None, None  # never answers
    with running.connect() as holder, running.connect() as connection:
        holder.sendall(head(2 * MIB) + bytes(2 * MIB))
        wait_until(lambda: running.app.budget.used >= 2 * MIB, 10, "the first body")
        connection.sendall(head(MIB) + bytes(MIB))
        status, headers, body = read_answer(connection)
        assert (status, headers["content-type"], "connection" in headers) == (429, "application/json", False)
        assert "1048576 bytes" in error_of(body)
        assert "\n" not in error_of(body)
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n")
        assert read_answer(connection)[0] == 200
    assert len(running.engine.asked) == 1


def test_a_body_larger_than_the_budget_comes_in(serve: Callable[..., RestRunning]) -> None:
    running = serve(RestSettings(byte_budget=MIB))
    for _ in range(3):
        assert running.post(PREDICT, bytes(8 * MIB)).status_code == 200
    wait_until(lambda: running.app.budget.used == 0, 10, "the budget to be given back")


@pytest.mark.parametrize("known", [False, True], ids=["new route", "known route"])
def test_a_body_that_comes_whole_counts(serve: Callable[..., RestRunning], known: bool) -> None:
    running = serve(RestSettings(byte_budget=MIB))
    if known:
        assert running.post(PREDICT).status_code == 200
    running.engine.json_answer, running.engine.late = None, None
    size = 2 * FREE_BYTES
    sent = threading.Event()
    running.server._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MIB)  # for all of it
    with running.connect() as connection:
        running.loop.call_soon_threadsafe(sent.wait, 10)  # so that the server reads all of it at once
        connection.sendall(head(size) + bytes(size))
        sent.set()
        wait_until(lambda: bool(running.engine.tickets), 10, "the call")
        assert running.app.budget.used >= size


def test_unpacked_bodies_count(serve: Callable[..., RestRunning]) -> None:
    running = serve(RestSettings(byte_budget=MIB))
    running.engine.json_answer, running.engine.late = None, None
    packed = gzip.compress(bytes(8 * MIB))  # some 8 kB: free on its own
    request = head(len(packed), b"Content-Encoding: gzip\r\n") + packed
    with running.connect() as holder:
        holder.sendall(request)
        wait_until(lambda: len(running.engine.asked) == 1, 10, "the first call")
        assert running.app.budget.used >= 8 * MIB
        assert running.raw(request)[0] == 429


def test_bodies_of_examples_count_what_they_become(serve: Callable[..., RestRunning]) -> None:
    """Three bytes of JSON may stand for an object of hundreds: a body within all limits must not take all memory."""
    running = serve(RestSettings())
    before = resident()
    answer = running.post("/v1/models/m:classify", b'{"examples":[' + b"{}," * 3_000_000 + b"{}]}")
    assert answer.status_code == 429
    assert "2147483648 bytes to read as JSON" in answer.json()["error"]
    assert resident() - before < 256 * MIB
    wait_until(lambda: running.app.budget.used == 0, 10, "the budget to be given back")
    assert (
        running.post("/v1/models/m:classify", b'{"examples":[' + b"{}," * 30_000 + b"{}]}").status_code == 400
    )


def test_tiny_pieces_count_what_they_cost(serve: Callable[..., RestRunning]) -> None:
    """A list of a million pieces of one byte is not one megabyte."""
    running = serve(RestSettings(byte_budget=64 * MIB))
    with running.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(
            b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        sent = FREE_BYTES + 1
        connection.sendall(b"1\r\nx\r\n" * sent)
        connection.sendall(b"0\r\n\r\n")
        assert read_answer(connection)[0] == 200
    assert len(running.engine.asked[-1][1]) == sent
    wait_until(lambda: running.app.budget.used == 0, 10, "the budget to be given back")


def test_connections_beyond_the_limit_are_closed(serve: Callable[..., RestRunning]) -> None:
    running = serve(RestSettings(), max_connections=3)
    request = head(2) + b"{}"
    with contextlib.ExitStack() as stack:
        inside = [stack.enter_context(running.connect()) for _ in range(3)]
        for connection in inside:
            connection.sendall(request)
            assert read_answer(connection)[0] == 200
        for _ in range(50):
            with running.connect() as beyond:
                status, headers, body = read_answer(beyond)
                assert (status, headers["connection"]) == (503, "close")
                assert "--max_connections" in error_of(body)
                assert beyond.recv(10) == b""
        inside[0].sendall(request)
        assert read_answer(inside[0])[0] == 200
    wait_until(lambda: not running.server.server_state.connections, 10, "the end of the connections")
    assert running.post(PREDICT).status_code == 200
