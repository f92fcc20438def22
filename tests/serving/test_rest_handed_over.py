"""Connections on their way from the I/O threads to Python, in a real server: none is lost, none is counted twice, none stays open.

The same is asked of a server where Python accepts for itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from http1_support import post
from native_support import RestPeer
from support import Server, has_native_transport, wait_until

if not has_native_transport():
    pytest.skip("this build has no native transport (libnghttp2 was not found)", allow_module_level=True)

TRANSPORTS = ("native", "uvicorn")
PATIENCE_S = 30
TARGET = b"/v1/models/half_plus_two"
PREDICT = post(b'{"instances": [1.0]}', target=TARGET + b":predict")
STATUS = b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n" % TARGET
LIMIT = 20


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(
    request: pytest.FixtureRequest, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp(request.param), models, request.param) as started:
        yield started


@contextlib.contextmanager
def running(directory: Path, models: Path, transport: str, *flags: str) -> Iterator[Server]:
    """A server on which half a request is given a second."""
    started = Server(
        directory,
        [
            "--model_name=half_plus_two",
            f"--model_base_path={models / 'half_plus_two'}",
            f"--rest_transport={transport}",
            "--rest_header_timeout_seconds=1",
            *flags,
        ],
        None,
    )
    try:
        yield started.wait_ready()
        started.stop()
    finally:
        if started.process.poll() is None:
            started.kill()


def descriptors(server: Server) -> int:
    return len(os.listdir(f"/proc/{server.pid}/fd"))


def together(count: int, work: Callable[[int], None]) -> None:
    """Runs `work` on so many threads; raises what the first of them raised."""
    failed: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE_S)
        assert not thread.is_alive()
    if failed:
        raise failed[0]


def test_no_connection_is_forgotten(server: Server) -> None:
    """Many come while Python takes others; each gets its answer soon, not when somebody else happens to wake the loop."""

    def work(number: int) -> None:
        for _ in range(60):
            began = time.monotonic()
            with RestPeer(server.rest_port, STATUS if number % 2 else PREDICT + STATUS) as peer:
                if number % 2 == 0:
                    assert peer.answer().status == 200
                assert peer.answer().status == 200
                assert peer.answer(PREDICT).status == 200
            assert time.monotonic() - began < PATIENCE_S / 2

    together(8, work)


def test_short_connections_leave_no_descriptor(server: Server) -> None:
    with RestPeer(server.rest_port) as peer:
        assert peer.answer(PREDICT).status == 200
    before = descriptors(server)

    def work(number: int) -> None:
        for turn in range(50):
            with RestPeer(server.rest_port) as peer:
                kind = (number + turn) % 5
                if kind == 0:
                    assert peer.answer(PREDICT).status == 200
                elif kind == 1:
                    assert peer.answer(STATUS).status == 200
                elif kind == 2:
                    peer.send(PREDICT[:30])
                elif kind == 3:
                    peer.send(PREDICT + STATUS)
                    peer.abort()
                else:
                    peer.send(b"nonsense\r\n\r\n")
                    assert peer.rest()[0].status in (400, 501)

    together(6, work)
    # The listener may have been between an accept and a close when it was first counted.
    wait_until(lambda: descriptors(server) <= before + 1, PATIENCE_S, "the descriptors to be closed")


def test_half_requests_time_out_and_disturb_nobody(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        halves = [PREDICT[:40], STATUS[:10], b"P", PREDICT[: PREDICT.index(b"\r\n\r\n") + 3]]
        stalled = [stack.enter_context(RestPeer(server.rest_port, halves[n % 4])) for n in range(200)]
        with RestPeer(server.rest_port) as peer:
            for _ in range(50):
                assert peer.answer(PREDICT).status == 200
        for peer in stalled:
            [answer] = peer.rest()
            assert (answer.status, answer.last) == (408, True)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_limit_counts_each_connection_once(transport: str, models: Path, tmp_path: Path) -> None:
    """Wherever it is: connections of the I/O threads and Python's count together, and a refused one not for long."""
    with running(tmp_path, models, transport, f"--max_connections={LIMIT}") as server:
        for _ in range(3):
            wait_until(lambda: room(server), PATIENCE_S, "the first connection")
            with contextlib.ExitStack() as stack:
                peers = [stack.enter_context(accepted(server, number)) for number in range(LIMIT)]
                for _ in range(2 * LIMIT):
                    assert not room(server)
                for peer in peers:
                    assert peer.answer(PREDICT).status == 200
                peers[0].socket.close()
                wait_until(lambda: room(server), PATIENCE_S, "room for one more")
                with accepted(server, 1):
                    assert not room(server)


def accepted(server: Server, number: int) -> RestPeer:
    """A connection that has room, every second one with Python; those that were closed before may still be counted."""
    found: list[RestPeer] = []

    def tried() -> bool:
        peer = RestPeer(server.rest_port)
        with contextlib.suppress(ConnectionError, AssertionError):
            if peer.answer(STATUS if number % 2 else PREDICT).status == 200:
                found.append(peer)
                return True
        peer.socket.close()
        return False

    wait_until(tried, PATIENCE_S, "room for a connection")
    return found[0]


def room(server: Server) -> bool:
    """Whether one more connection is served; else it must be refused in words."""
    with RestPeer(server.rest_port) as peer:
        with contextlib.suppress(ConnectionError):  # refused before it could ask
            peer.send(PREDICT)
        answer = peer.answer()
        if answer.status == 200:
            return True
        assert (answer.status, answer.last) == (503, True)
        assert f"All {LIMIT} connections are taken" in json.loads(answer.body)["error"]
        return False
