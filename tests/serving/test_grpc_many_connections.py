"""Thousands of connections to the native gRPC transport: a server in a process of its own, so that its memory can be seen."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hpack
import pytest

_fastpath = pytest.importorskip("tfs._fastpath")
if not _fastpath.HAVE_NATIVE:
    pytest.skip("this build has no native transport (libnghttp2 was not found)", allow_module_level=True)

from native_support import (  # noqa: E402
    DATA,
    HEADERS,
    PREFACE,
    SETTINGS,
    Peer,
    echoes,
    frame,
    frames,
    message,
    request_headers,
    wait_for,
)

END_STREAM, END_HEADERS = 1, 4

CHILD = """
import sys
from tfs import _fastpath
server = _fastpath.NativeServer(_fastpath.EchoEngine(), addresses=["127.0.0.1:0"], io_threads=2, cold=[], max_message_bytes=1 << 30,
                                byte_budget=1 << 28, max_connections=5000, arguments={})
print(server.ports[0], flush=True)
sys.stdin.read()
server.close()
"""


@contextlib.contextmanager
def child() -> Iterator[tuple[int, int]]:
    """(pid, port) of a server process."""
    process = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.pid, int(process.stdout.readline())
        process.stdin.close()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


needs_plain_malloc = pytest.mark.skipif(
    os.environ.get("TFS_TEST_BUILD") in ("asan", "tsan"), reason="a sanitizer's allocator keeps what is freed"
)


def resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024


@needs_plain_malloc
def test_a_thousand_idle_connections_in_20_mb():
    with child() as (pid, port), contextlib.ExitStack() as open_ones:
        assert echoes(port)
        before = resident(pid)
        peers = [open_ones.enter_context(Peer(port)) for _ in range(1000)]
        assert all(p.call(b"x")[1] == message(b"x") for p in peers)
        assert resident(pid) - before <= 20_000_000


@needs_plain_malloc
def test_connections_come_and_go():
    block = hpack.Encoder().encode(request_headers())

    def visit(count: int) -> None:
        for _ in range(count):
            with Peer(port, greet=False) as raw:
                raw.raw(
                    PREFACE
                    + frame(SETTINGS, 0, 0)
                    + frame(HEADERS, END_HEADERS, 1, block)
                    + frame(DATA, END_STREAM, 1, message(b"x" * 500))
                )
                while not any(
                    kind == HEADERS and flags & END_STREAM
                    for kind, flags, _, _ in frames(raw.socket.recv(4096))
                ):
                    pass

    with child() as (pid, port):
        visit(500)
        before, files = resident(pid), len(os.listdir(f"/proc/{pid}/fd"))
        visit(3000)
        wait_for(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= files)
        assert resident(pid) <= before * 1.02
