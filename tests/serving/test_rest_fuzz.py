"""Invariant: whatever arrives, the answer is HTTP/1.1 (or the connection is closed), and the server goes on.

Predict bodies end at a scripted engine; the core's JSON codec has a fuzzer of its own.  TFS_FUZZ=1000000 runs that many
mutations; without it there are enough to notice a broken build.
"""

from __future__ import annotations

import gzip
import os
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from fake_core import FakeCore, FakeEngine, FakeServable, FakeStatus
from rest_support import RestRunning

from tfs import messages
from tfs.errors import TfsError
from tfs.service.example_json import decode
from tfs.transport import rest_routes
from tfs.transport.rest import RestSettings, declared, gunzip

ROUNDS = int(os.environ.get("TFS_FUZZ", "3000"))

TARGETS = [
    b"/v1/models/m:predict",
    b"/v1/models/m/versions/1:classify",
    b"/v1/models/m/labels/a:regress",
    b"/v1/models/m/metadata",
    b"/v1/models",
    b"/metrics?x=1#y",
    b"http://h/v1/models/m%20",
    b"/openapi.json",
]
BODIES = [
    b'{"instances": [1.0, 2, -3e5], "signature_name": "s"}',
    b'{"inputs": {"a": [[1, 2], [3, 4]], "b": {"b64": "aGk="}}}',
    b'{"examples": [{"x": [1, 2.5, "a", NaN, -Inf], "y": {"b64": "aGk"}}], "context": {"c": true}}',
    b"\xef\xbb\xbf[[[]]]",
]
PIECES = [
    b"\0",
    b"\r\n",
    b"%",
    b"%00",
    b":",
    b"/",
    b'"',
    b"\\",
    b"\\ud800",
    b"[" * 50,
    b"9" * 400,
    b"e",
    b"-",
    b"\xff",
    b"{",
    b"}",
    b"Inf",
]


def mutate(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(changed))
        match rng.randint(0, 4):
            case 0:
                changed[at:at] = rng.choice(PIECES)
            case 1:
                del changed[at : at + rng.randint(1, 6)]
            case 2 if at < len(changed):
                changed[at] = rng.randrange(256)
            case 3:
                changed[at:at] = changed[max(0, at - 8) : at]
            case _:
                del changed[at:]
    return bytes(changed)


@pytest.fixture
def running() -> Iterator[RestRunning]:
    signature = messages.SignatureDef()
    signature.inputs["inputs"].name = "x:0"
    servables = [FakeServable("m", 1, {"serving_default": bytes(signature.SerializeToString())})]
    started = RestRunning(
        FakeEngine(servables), FakeCore({"m": [FakeStatus(1, 30)]}), RestSettings(max_body_bytes=1 << 16)
    )
    yield started
    started.close()


def request(rng: random.Random) -> bytes:
    """A request, damaged in at least one place."""
    target, body = rng.choice(TARGETS), rng.choice(BODIES)
    method = rng.choice([b"GET", b"POST", b"OPTIONS", b"HEAD", b"PATCH", b"TRACE"])
    headers = b"Host: h\r\nConnection: close\r\n"
    if rng.random() < 0.2:
        body = mutate(rng, gzip.compress(body))
        headers += b"Content-Encoding: gzip\r\n"
    if rng.random() < 0.5:
        target = mutate(rng, target)
    if rng.random() < 0.7:
        body = mutate(rng, body)
    if rng.random() < 0.3:
        headers += b"Transfer-Encoding: chunked\r\n"
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    else:
        headers += b"Content-Length: %d\r\n" % len(body)
    whole = method + b" " + target + b" HTTP/1.1\r\n" + headers + b"\r\n" + body
    return mutate(rng, whole) if rng.random() < 0.3 else whole


def exchange(running: RestRunning, data: bytes) -> bytes:
    """Everything that comes back until the server closes."""
    with running.connect() as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while got := connection.recv(65536):
                answer += got
        except ConnectionResetError:
            pass
        return answer


def test_damaged_requests(running: RestRunning) -> None:
    rng = random.Random(20261120)
    for number in range(max(ROUNDS // 10, 200)):
        data = request(rng)
        answer = exchange(running, data)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 "), (number, data, answer)
        assert b"Internal" not in answer, (number, data, answer)
    assert running.get("/v1/models/m").status_code == 200
    assert len(running.server.server_state.tasks) == 0


def test_damaged_targets() -> None:
    rng = random.Random(1)
    for _ in range(ROUNDS):
        target = mutate(rng, rng.choice(TARGETS))
        split = rest_routes.split_target(target)
        if split is None:
            continue
        for method in ("GET", "POST", "PUT"):
            try:
                route = rest_routes.find(method, split[1])
            except TfsError:
                continue
            assert route.model or route.action == rest_routes.LIST
            assert not (route.version is not None and route.label is not None)


def test_damaged_example_bodies() -> None:
    rng = random.Random(2)
    for _ in range(ROUNDS):
        body = mutate(rng, BODIES[2])
        try:
            decoded: Any = decode(body)
        except TfsError:
            continue
        assert decoded.examples
        for one in decoded.examples:
            messages.Example.FromString(one)


def test_damaged_gzip() -> None:
    rng = random.Random(3)
    packed = gzip.compress(BODIES[1] * 20)
    for _ in range(ROUNDS):
        damaged = mutate(rng, packed)
        content = gunzip(damaged, declared(damaged, 0))
        assert content in (b"", BODIES[1] * 20) or len(content) < 1 << 20
