"""REST on the native transport's I/O threads over an engine that echoes: sockets, connections that Python takes over, limits, leaving.

Real sockets, no TensorFlow. What is read of the bytes is tests/fastpath/test_http1*.py; that it is what uvicorn answers,
test_rest_transports.py.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import resource
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

_fastpath = pytest.importorskip("tfs._fastpath")
if not _fastpath.HAVE_NATIVE:
    pytest.skip("this build has no native transport (libnghttp2 was not found)", allow_module_level=True)

from http1_support import post  # noqa: E402
from native_support import (  # noqa: E402
    PATIENCE_S,
    RestPeer,
    echoes,
    native_rest,
    readable,
    refused,
    wait_for,
)

ONE = post(b"{}")
HOLD = post(b"hold")
FOREIGN = b"GET /v1/models/m HTTP/1.1\r\nHost: h\r\n\r\n"
STALLED = b"POST /v1/models/m:predict HTTP/1.1\r\nContent-"
MS = 1_000_000
HTTP1_AHEAD = 73728
PARTIAL_S = 1.0  # HTTP1_PARTIAL_NS


@pytest.fixture
def serving() -> Iterator[tuple[Any, int]]:
    with native_rest() as pair:
        yield pair


class Taken:
    """A connection that Python was given."""

    def __init__(self, server: Any, fd: int, read: bytes, full: bool) -> None:
        self.server, self.read, self.full = server, read, full
        self.socket = socket.socket(fileno=fd)

    def __enter__(self) -> Taken:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self.server.rest_closed()


def taken(server: Any, count: int = 1) -> list[Taken]:
    """So many connections, as soon as they are there; waits as Python's loop does, on the descriptor alone."""
    found: list[Taken] = []
    until = time.monotonic() + PATIENCE_S
    while len(found) < count:
        assert readable(server, until - time.monotonic()), f"{len(found)} of {count} connections"
        assert server.take() == []
        found += [Taken(server, *connection) for connection in server.take_rest()]
    assert len(found) == count
    return found


def held(server: Any, count: int = 1) -> None:
    wait_for(lambda: server.engine.held == count)


def served(port: int) -> bool:
    """Whether a well-behaved client on a connection of its own is served."""
    with RestPeer(port) as peer:
        return peer.answer(post(b"still here")).body == b"m:still here"


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def many_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[0] < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


# -- answers


def test_one_connection_serves_many(serving: tuple[Any, int]) -> None:
    server, port = serving
    with RestPeer(port) as peer:
        for number in range(50):
            answer = peer.answer(post(b"%d" % number))
            assert (answer.status, answer.body, answer.last) == (200, b"m:%d" % number, False)
        assert peer.answer(post(b"fail:3:no")).status == 203
        assert peer.answer(ONE).status == 200
        stats = server.stats()
        assert (stats["answered"], stats["errors"]) == (51, 1)
        assert (stats["connections"], stats["rest_connections"]) == (1, 1)
    wait_for(lambda: server.stats()["rest_connections"] == 0)
    assert server.stats()["moved"] == 0


def test_a_pipeline_comes_back_in_order(serving: tuple[Any, int]) -> None:
    _, port = serving
    last = post(b"last", b"Connection: close")
    with RestPeer(port, b"".join(post(b"%d" % number) for number in range(300)) + last) as peer:
        assert [answer.body for answer in peer.rest()] == [
            *(b"m:%d" % number for number in range(300)),
            b"m:last",
        ]


@pytest.mark.parametrize("size", [0, 4096, 524_288, 3_000_000])
def test_answers_of_any_length(serving: tuple[Any, int], size: int) -> None:
    """Twice in one write, plain and packed, to a client whose socket is soon full."""
    _, port = serving
    body = b"big:%d" % size
    expected = b"m:" + body[:size] + b"x" * (size - len(body))
    with RestPeer(port, post(body) + post(body, b"Accept-Encoding: gzip") + ONE, receive_buffer=4096) as peer:
        assert peer.answer().body == expected
        packed = peer.answer()
        assert (gzip.decompress(packed.body) if size >= 4096 else packed.body) == expected
        assert peer.answer().body == b"m:{}"


def test_answers_from_elsewhere_find_their_connections(serving: tuple[Any, int]) -> None:
    server, port = serving
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(RestPeer(port, post(b"hold%d" % number))) for number in range(40)]
        held(server, 40)
        assert server.engine.answer_held() == 40
        for number, peer in enumerate(peers):
            assert peer.answer().body == b"m:hold%d" % number


def test_grpc_and_rest_beside_each_other() -> None:
    with native_rest(max_connections=5) as (server, port), RestPeer(port) as peer:
        for _ in range(3):
            assert peer.answer(ONE).status == 200
            assert echoes(server.ports[0])


def test_a_client_that_leaves_cancels_its_call(serving: tuple[Any, int]) -> None:
    server, port = serving
    for leave in (RestPeer.abort, lambda peer: peer.socket.close()):
        leave(RestPeer(port, HOLD + ONE))
        held(server)
        wait_for(lambda: server.stats()["connections"] == 0)
        assert server.engine.answer_held() == 1  # answers a connection that is gone
        wait_for(lambda: server.engine.live == 0)
        assert server.stats()["request_bytes"] == 0
    assert served(port)


def test_a_client_that_leaves_while_its_answer_is_packed(serving: tuple[Any, int]) -> None:
    server, port = serving
    for _ in range(20):
        RestPeer(port, post(b"big:2000000", b"Accept-Encoding: gzip")).abort()
    wait_for(lambda: server.stats()["rest_connections"] == 0)
    wait_for(lambda: server.engine.live == 0)
    assert served(port)


# -- connections for Python


def test_a_foreign_request_is_handed_over_with_its_connection(serving: tuple[Any, int]) -> None:
    server, port = serving
    with RestPeer(port) as peer:
        assert peer.answer(ONE).status == 200
        peer.send(FOREIGN + ONE)
        [given] = taken(server)
        with given:
            assert (given.read, given.full) == (FOREIGN + ONE, False)
            assert given.socket.getpeername() == peer.socket.getsockname()
            stats = server.stats()
            assert (stats["connections"], stats["rest_connections"], stats["moved"]) == (0, 1, 1)
            given.socket.sendall(b"hello")
            assert peer.socket.recv(10) == b"hello"
            peer.send(ONE)  # and no I/O thread reads it any more
            assert readable(given.socket)
            assert given.socket.recv(1000) == ONE
        assert server.stats()["rest_connections"] == 0
        assert peer.socket.recv(10) == b""


def test_connections_are_handed_over_oldest_first(serving: tuple[Any, int]) -> None:
    server, port = serving
    with contextlib.ExitStack() as stack:
        for number in range(20):
            stack.enter_context(RestPeer(port, b"GET /%d HTTP/1.1\r\n\r\n" % number))
            wait_for(lambda number=number: server.stats()["moved"] == number + 1)
        given = [stack.enter_context(one) for one in taken(server, 20)]
        assert [one.read for one in given] == [b"GET /%d HTTP/1.1\r\n\r\n" % number for number in range(20)]
        assert server.take_rest() == []


def test_the_descriptor_tells_of_each_connection(serving: tuple[Any, int]) -> None:
    """Also of one that comes right after the others were taken."""
    server, port = serving
    assert not readable(server, 0)
    for number in range(1, 30):
        with contextlib.ExitStack() as stack:
            for _ in range(number % 4 + 1):
                stack.enter_context(RestPeer(port, FOREIGN))
            for given in taken(server, number % 4 + 1):
                stack.enter_context(given)
        assert not readable(server, 0)
    assert server.stats()["rest_connections"] == 0


@pytest.mark.parametrize(
    ("before", "part"),
    [
        (b"", b""),
        (b"", b"P"),
        (b"", STALLED),
        (b"", ONE[:-1]),
        (ONE, b"P"),
        (ONE, STALLED),
        (ONE * 3, post(b"x" * 60_000)[:-1]),
    ],
    ids=["silent", "byte", "head", "body", "second-byte", "second-head", "long-body"],
)
def test_what_is_not_whole_in_a_second_is_pythons(
    serving: tuple[Any, int], before: bytes, part: bytes
) -> None:
    server, port = serving
    began = time.monotonic()
    with RestPeer(port, before + part) as peer:
        for _ in range(before.count(b"POST")):
            assert peer.answer().status == 200
        [given] = taken(server)
        with given:
            assert given.read == part
            assert time.monotonic() - began >= PARTIAL_S


def test_a_slow_request_that_is_whole_in_time_is_answered(serving: tuple[Any, int]) -> None:
    """And the second counts from its own beginning, not from the connection's."""
    server, port = serving
    with RestPeer(port) as slow, RestPeer(port) as silent:
        assert slow.answer(ONE).status == 200
        slow.send(ONE[:20])
        assert served(port)
        assert slow.answer(ONE[20:]).status == 200
        with taken(server)[0] as given:  # `silent`, which is a second old now
            assert given.socket.getpeername() == silent.socket.getsockname()
        assert slow.answer(ONE).status == 200


def test_half_requests_disturb_nobody(serving: tuple[Any, int], many_files: None) -> None:
    server, port = serving
    with contextlib.ExitStack() as stack:
        for number in range(200):
            stack.enter_context(RestPeer(port, STALLED if number % 2 else ONE[:-1]))
        with RestPeer(port) as peer:
            for _ in range(100):
                assert peer.answer(ONE).status == 200
            given = [stack.enter_context(one) for one in taken(server, 200)]
            assert {one.read for one in given} == {STALLED, ONE[:-1]}
            assert peer.answer(ONE).status == 200
    wait_for(lambda: server.stats()["rest_connections"] == 0)


def test_a_client_that_sends_far_ahead(serving: tuple[Any, int]) -> None:
    """During a call it is not read from without end; afterwards the connection is Python's, every byte that was not answered in its place."""
    server, port = serving
    bodies = [b"%d" % number * 1000 for number in range(300)]
    ahead = b"".join(map(post, bodies))
    assert len(ahead) > 4 * HTTP1_AHEAD
    with RestPeer(port, HOLD) as peer:
        held(server)
        peer.send(ahead)
        server.engine.answer_held()
        assert peer.answer().body == b"m:hold"
        with taken(server)[0] as given:
            assert HTTP1_AHEAD < len(given.read) <= 2 * HTTP1_AHEAD
            peer.socket.shutdown(socket.SHUT_WR)
            received = given.read
            given.socket.settimeout(PATIENCE_S)
            while more := given.socket.recv(1 << 20):
                received += more
        assert ahead.endswith(received)
        # What had come when the first was answered was a request like any other until too much had come.
        done = len(ahead) - len(received)
        while done > 0:
            assert peer.answer().body == b"m:" + bodies[0]
            done -= len(post(bodies.pop(0)))
        assert done == 0


def test_far_ahead_and_away(serving: tuple[Any, int]) -> None:
    server, port = serving
    peer = RestPeer(port, HOLD)
    held(server)
    peer.send(ONE * 5000)
    peer.abort()
    wait_for(lambda: server.stats()["rest_connections"] == 0)
    server.engine.answer_held()
    assert server.take_rest() == []


def test_a_foreign_request_waits_for_the_answer_before_it(serving: tuple[Any, int]) -> None:
    server, port = serving
    with RestPeer(port, HOLD + FOREIGN) as peer:
        held(server)
        assert served(port)
        assert server.take_rest() == []
        server.engine.answer_held()
        assert peer.answer().body == b"m:hold"
        with taken(server)[0] as given:
            assert given.read == FOREIGN


def test_nobody_takes_what_was_handed_over() -> None:
    """The end closes it."""
    with native_rest() as (server, port):
        peer = RestPeer(port, FOREIGN)
        wait_for(lambda: server.stats()["moved"] == 1)
    with peer:
        assert peer.socket.recv(10) == b""


# -- the limit of connections


def test_connections_beyond_the_limit_are_pythons_to_refuse() -> None:
    with native_rest(max_connections=2) as (server, port), contextlib.ExitStack() as stack:
        peers = [stack.enter_context(RestPeer(port)) for _ in range(2)]
        for peer in peers:
            assert peer.answer(ONE).status == 200
        stack.enter_context(RestPeer(port, ONE))
        with taken(server)[0] as given:
            assert given.full
            assert given.read == b""
            assert server.stats()["refused_connections"] == 1
            assert server.stats()["rest_connections"] == 3
            assert echoes(server.ports[0])
        peers[0].send(FOREIGN)  # with Python it counts all the same
        with taken(server)[0] as moved:
            assert not moved.full
            stack.enter_context(RestPeer(port))
            with taken(server)[0] as given:
                assert given.full
        wait_for(lambda: server.stats()["rest_connections"] == 1)
        assert served(port)
    assert server.stats()["rest_connections"] == 0


def test_a_full_grpc_port_leaves_rest_alone() -> None:
    with native_rest(max_message_bytes=1 << 20) as (server, port):
        assert server.stats()["connections"] == 0
        assert echoes(server.ports[0])
        assert served(port)


# -- clients that take their time


def test_an_answer_that_nobody_fetches_ends_its_connection() -> None:
    with native_rest(write_stall_ns=200 * MS) as (server, port):
        with RestPeer(port, post(b"big:4000000"), receive_buffer=4096) as peer:
            wait_for(lambda: server.stats()["rest_connections"] == 1)
            assert served(port)
            wait_for(lambda: server.stats()["rest_connections"] == 0)
            size = 0
            with contextlib.suppress(ConnectionError):
                while got := peer.socket.recv(1 << 20):
                    size += len(got)
            assert size < 4_000_000
        assert served(port)


def test_an_answer_is_not_cut_by_the_keep_alive_limit() -> None:
    """Once its last piece was made the connection counted as idle, however much of it the client had still to fetch."""
    with native_rest(keep_alive_ns=100 * MS) as (server, port), RestPeer(port, receive_buffer=4096) as peer:
        size = 500_000
        peer.socket.sendall(post(b"big:%d" % size))
        wait_for(lambda: server.stats()["answered"] == 1)
        for _ in range(2):  # whose limit runs out later
            with RestPeer(port) as other:
                assert other.answer(ONE).status == 200
                assert other.rest() == []
        assert len(peer.answer().body) == len(b"m:") + size
        assert peer.rest() == []


def test_idle_connections_are_closed() -> None:
    with native_rest(keep_alive_ns=100 * MS) as (server, port), RestPeer(port, HOLD) as busy:
        held(server)
        for _ in range(2):
            with RestPeer(port) as idle:
                began = time.monotonic()
                assert idle.answer(ONE).status == 200
                assert idle.rest() == []
                assert time.monotonic() - began >= 0.1
        server.engine.answer_held()  # a call is no idleness
        assert busy.answer().body == b"m:hold"
        assert busy.rest() == []
        wait_for(lambda: server.stats()["rest_connections"] == 0)
        assert server.stats()["moved"] == 0


def test_short_connections_leave_nothing_behind(many_files: None) -> None:
    with native_rest() as (server, port):
        assert served(port)
        wait_for(lambda: server.stats()["rest_connections"] == 0)
        before = descriptors()
        for number in range(500):
            with RestPeer(port) as peer:  # well-behaved
                assert peer.answer(ONE).status == 200
            with RestPeer(port) as peer:  # closed by the server
                assert peer.answer(post(b"{}", b"Connection: close")).last
                assert peer.rest() == []
            RestPeer(port).abort()
            RestPeer(port, ONE[:40]).abort()
            RestPeer(port, ONE * 5).abort()
            RestPeer(port, FOREIGN).abort()
            if number % 100 == 99:
                wait_for(lambda: not given_back(server))
        wait_for(lambda: not given_back(server) and server.stats()["rest_connections"] == 0)
        assert server.stats()["connections"] == 0
        assert descriptors() == before
        assert served(port)


def given_back(server: Any) -> int:
    """Takes what there is and closes it; how many there were."""
    server.take()
    connections = server.take_rest()
    for connection in connections:
        with Taken(server, *connection):
            pass
    return len(connections)


# -- leaving


def test_a_drain_closes_what_is_idle_and_finishes_what_is_not() -> None:
    with native_rest(io_threads=1) as (server, port), contextlib.ExitStack() as stack:
        idle, busy, ahead = (stack.enter_context(RestPeer(port)) for _ in range(3))
        assert idle.answer(ONE).status == 200
        busy.send(HOLD)
        ahead.send(HOLD + ONE)
        held(server, 2)
        server.drain(PATIENCE_S)
        assert idle.rest() == []
        assert refused(port)
        assert not server.wait_drained(0)
        server.engine.answer_held()
        for peer in (busy, ahead):
            answer = peer.answer()
            assert (answer.status, answer.body, answer.last) == (200, b"m:hold", True)
            assert peer.rest() == []
        assert server.wait_drained(PATIENCE_S)


def test_requests_that_have_come_before_a_drain_are_answered() -> None:
    """Also those that no thread has read yet: closing their connections would reset them, and their clients could not know whether they were
    served. Each connection is in the middle of its requests; the drain comes at any moment."""
    for _ in range(20):
        with native_rest(io_threads=1) as (server, port), contextlib.ExitStack() as stack:
            peers = [stack.enter_context(RestPeer(port)) for _ in range(30)]
            for peer in peers:
                assert peer.answer(ONE).status == 200
            for peer in peers:
                peer.send(ONE)
            server.drain(PATIENCE_S)
            for peer in peers:
                first, *more = peer.rest()
                assert first.body == b"m:{}"
                assert more == []
            assert server.wait_drained(PATIENCE_S)


def test_after_the_grace_calls_are_answered_503() -> None:
    with (
        native_rest(io_threads=1) as (server, port),
        RestPeer(port, HOLD) as peer,
        RestPeer(port, STALLED) as stalled,
    ):
        held(server)
        assert served(port)
        server.drain(0.2)
        answer = peer.answer()
        assert (answer.status, answer.last) == (200 + 14, True)
        assert json.loads(answer.body) == {"error": "The server is shutting down"}
        assert peer.rest() == []
        assert stalled.rest() == []
        assert server.wait_drained(PATIENCE_S)
        assert server.engine.answer_held() == 1
        wait_for(lambda: server.engine.live == 0)


def test_a_drain_does_not_cut_an_answer_that_is_being_fetched() -> None:
    """Once it did when the socket was full and the last piece of the answer stood in the queue: nothing seemed to be under way."""
    sizes = (500_000, 3_000_000)
    with native_rest(io_threads=1) as (server, port), contextlib.ExitStack() as stack:
        peers = [
            stack.enter_context(RestPeer(port, post(b"big:%d" % size), receive_buffer=4096)) for size in sizes
        ]
        idle = stack.enter_context(RestPeer(port))
        wait_for(lambda: server.stats()["answered"] == 2)
        assert idle.answer(ONE).status == 200
        server.drain(PATIENCE_S)
        assert idle.rest() == []  # by now the drain has been at work
        for peer, size in zip(peers, sizes, strict=True):
            assert len(peer.answer().body) == len(b"m:") + size
            assert peer.rest() == []
        assert server.wait_drained(PATIENCE_S)


def test_a_request_that_was_coming_in_is_answered_while_leaving() -> None:
    with native_rest(io_threads=1) as (server, port), RestPeer(port) as idle, RestPeer(port) as peer:
        for one in (idle, peer):
            assert one.answer(ONE).status == 200
        peer.send(ONE[:-1])
        assert served(port)
        server.drain(PATIENCE_S)
        assert idle.rest() == []
        answer = peer.answer(ONE[-1:])
        assert (answer.body, answer.last) == (b"m:{}", True)
        assert peer.rest() == []
        assert server.wait_drained(PATIENCE_S)


@pytest.mark.parametrize("rest", [b": 2\r\nExpect: 100-continue\r\n\r\n", b"\0\r\n"])
def test_a_foreign_request_is_refused_while_leaving(rest: bytes) -> None:
    """Python would not take it any more."""
    with native_rest(io_threads=1) as (server, port), RestPeer(port, STALLED) as peer, RestPeer(port) as idle:
        assert idle.answer(ONE).status == 200
        server.drain(PATIENCE_S)
        assert idle.rest() == []
        answer = peer.answer(rest)
        assert (answer.status, answer.last) == (200 + 14, True)
        assert peer.rest() == []
        assert server.take_rest() == []
        assert server.wait_drained(PATIENCE_S)


def test_half_a_request_does_not_hold_the_end_for_the_whole_grace() -> None:
    """It has the second that it always has."""
    with native_rest(io_threads=1) as (server, port), RestPeer(port, STALLED) as peer, RestPeer(port) as idle:
        assert idle.answer(ONE).status == 200
        server.drain(10 * PATIENCE_S)
        answer = peer.answer()
        assert (answer.status, answer.last) == (200 + 14, True)
        assert peer.rest() == []
        assert server.wait_drained(PATIENCE_S)


def test_far_ahead_while_leaving() -> None:
    """The answer is the connection's last; what was sent ahead is nobody's."""
    with native_rest(io_threads=1) as (server, port), RestPeer(port, HOLD) as peer, RestPeer(port) as idle:
        held(server)
        peer.send(ONE * 2000)
        assert idle.answer(ONE).status == 200
        server.drain(PATIENCE_S)
        assert idle.rest() == []
        server.engine.answer_held()
        answer = peer.answer()
        assert (answer.body, answer.last) == (b"m:hold", True)
        assert server.wait_drained(PATIENCE_S)
        assert server.take_rest() == []


def test_a_close_cuts_everything() -> None:
    with (
        native_rest(io_threads=1) as (server, port),
        RestPeer(port, HOLD) as peer,
        RestPeer(port, STALLED) as stalled,
    ):
        held(server)
        assert served(port)
        server.close()
        for one in (peer, stalled):
            with contextlib.suppress(ConnectionError):
                assert one.socket.recv(10) == b""
        server.engine.answer_held()
