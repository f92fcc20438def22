"""Cold calls of a scripted native server: each is answered once, whatever its handler does."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from tfs.errors import Code, NotFound
from tfs.transport.native_bridge import NativeBridge


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
