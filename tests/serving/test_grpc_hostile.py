"""Hostile peers against the native gRPC transport: bounded memory and CPU, and every other connection is served as before.

Each test plays one peer with raw sockets, then asks a well-behaved client. The limits are named constants in tfs/_fast/http2.pxi,
tick.pxi and native.pxi, or channel arguments, which tests shorten.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time

import grpc
import hpack
import pytest

_fastpath = pytest.importorskip("tfs._fastpath")
if not _fastpath.HAVE_NATIVE:
    pytest.skip("this build has no native transport (libnghttp2 was not found)", allow_module_level=True)

from native_support import (  # noqa: E402
    CONTINUATION,
    DATA,
    GOAWAY,
    HEADERS,
    PING,
    PREDICT,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Peer,
    echoes,
    frame,
    frames,
    message,
    native_server,
    request_headers,
    wait_for,
)

END_STREAM, END_HEADERS, ACK = 1, 4, 1
HELLO = PREFACE + frame(SETTINGS, 0, 0)
CANCEL, ENHANCE_YOUR_CALM = 8, 11


def block(**more: str) -> bytes:
    """A request's header block that leaves the table alone, so that it may be sent on any stream."""
    return hpack.Encoder().encode([(k, v, True) for k, v in request_headers(**more)], huffman=False)


BLOCK = block()


@pytest.fixture
def server():
    with native_server() as server:
        yield server


@pytest.fixture
def port(server):
    return server.ports[0]


@pytest.fixture
def raw(port):
    with Peer(port, greet=False) as peer:
        yield peer


def drain(peer: Peer, seconds: float = 20.0) -> bytes:
    """Everything until the server closes."""
    received = b""
    peer.socket.settimeout(seconds)
    with contextlib.suppress(ConnectionError):
        while data := peer.socket.recv(1 << 16):
            received += data
    return received


def goaway_code(received: bytes) -> int | None:
    codes = [
        int.from_bytes(payload[4:8], "big") for kind, _, _, payload in frames(received) if kind == GOAWAY
    ]
    return codes[-1] if codes else None


# -- floods


@pytest.mark.parametrize(
    "flood",
    [
        frame(PING, 0, 0, b"01234567"),
        frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65535)),
        frame(PRIORITY, 0, 1, b"\0\0\0\3\x10"),
        frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1"),
        frame(0xBB, 0, 0, b"extension" * 20),
    ],
    ids=["ping", "settings", "priority", "window_update", "unknown"],
)
def test_frames_that_carry_nothing(port, raw, flood):
    raw.raw(HELLO)
    received = b""
    raw.socket.setblocking(False)
    for _ in range(400):
        with contextlib.suppress(BlockingIOError, ConnectionError):
            received += raw.socket.recv(1 << 20)
        raw.socket.setblocking(True)
        if not raw.raw(flood * 200):
            break
        raw.socket.setblocking(False)
    received += drain(raw)
    # The GOAWAY may be lost with the connection when our own flood was still on its way.
    assert goaway_code(received) in (ENHANCE_YOUR_CALM, None)
    assert echoes(port)


def test_empty_data_frames(port, raw):
    raw.raw(HELLO + frame(HEADERS, END_HEADERS, 1, BLOCK))
    for _ in range(400):
        if not raw.raw(frame(DATA, 0, 1) * 200):
            break
    drain(raw)
    assert echoes(port)


def test_rapid_reset(server, port, raw):
    raw.raw(HELLO)
    sent = 0
    for start in range(1, 120_000, 400):
        ids = range(start, start + 400, 2)
        pieces = (
            frame(HEADERS, END_HEADERS, i, BLOCK)
            + frame(DATA, 0, i, b"\0")
            + frame(RST_STREAM, 0, i, b"\0\0\0\x08")
            for i in ids
        )
        if not raw.raw(b"".join(pieces)):
            break
        sent += len(ids)
    drain(raw)
    assert sent < 60_000, "the rate of resets is not limited"
    assert server.stats()["request_bytes"] == 0
    assert echoes(port)


def test_resets_of_calls_under_way(server, port):
    """Tickets outlive their streams; what they hold is counted until they are released."""
    with Peer(port) as peer:
        peer.read()
        streams = [peer.open(message(b"hold" + b"x" * 1000)) for _ in range(500)]
        wait_for(lambda: server.engine.held == 500)
        for stream in streams:
            peer.h2.reset_stream(stream, CANCEL)
        peer.flush()
        wait_for(lambda: server.stats()["resets"] == 500)
        assert server.engine.live == 500
        assert server.stats()["request_bytes"] >= 500 * 1004
        assert peer.call(b"next")[1] == message(b"next")
    server.engine.answer_held()
    assert server.stats()["request_bytes"] == 0


def test_continuation_flood(port, raw):
    raw.raw(HELLO + frame(HEADERS, 0, 1, BLOCK))
    for _ in range(2000):
        if not raw.raw(frame(CONTINUATION, 0, 1, b"\0\1a\1b" * 100)):
            break
    else:
        pytest.fail("CONTINUATION frames are read without end")
    drain(raw)
    assert echoes(port)


def test_header_bomb(server, port, raw):
    """A long value in the peer's table, referred to again and again: a small block that decodes to megabytes."""
    bomb = (
        hpack.Encoder().encode(request_headers()) + b"\x40\x01a\x7f\xff\x1d" + b"y" * 4000 + b"\xbe" * 12_000
    )
    raw.raw(HELLO + frame(HEADERS, 0, 1, bomb[:16384]) + frame(CONTINUATION, END_HEADERS, 1, bomb[16384:]))
    wait_for(lambda: server.stats()["streams"] == 1)
    assert echoes(port)


def test_streams_beyond_the_limit_are_refused():
    with (
        native_server(arguments={"grpc.max_concurrent_streams": 10}) as server,
        Peer(server.ports[0], greet=False) as raw,
    ):
        raw.raw(HELLO + b"".join(frame(HEADERS, END_HEADERS, i, BLOCK) for i in range(1, 2001, 2)))
        received = b""
        while sum(kind == RST_STREAM for kind, *_ in frames(received)) < 990:
            received += raw.socket.recv(1 << 16)
        assert server.stats()["streams"] == 10
        assert echoes(server.ports[0])


def test_header_flood(server, port, raw):
    """Streams that are opened and never ended, beyond any limit."""
    raw.raw(HELLO)
    for start in range(1, 200_000, 400):
        if not raw.raw(b"".join(frame(HEADERS, END_HEADERS, i, BLOCK) for i in range(start, start + 400, 2))):
            break
        raw.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while raw.socket.recv(1 << 20):
                pass
        raw.socket.setblocking(True)
    assert server.stats()["streams"] <= 1000
    assert echoes(port)


# -- windows


def test_window_overflow(port, raw):
    raw.raw(HELLO + frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"))
    assert goaway_code(drain(raw)) == 3
    assert echoes(port)


def test_window_increment_of_zero(port, raw):
    raw.raw(HELLO + frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\0"))
    assert goaway_code(drain(raw)) == 1
    assert echoes(port)


def test_more_data_than_the_window(port, raw):
    raw.raw(HELLO + frame(HEADERS, END_HEADERS, 1, BLOCK) + frame(DATA, 0, 1, message(bytes(65_000))[:16384]))
    raw.raw(frame(DATA, 0, 1, bytes(16384)) * 10)
    received = b""
    while not any(kind == RST_STREAM and stream == 1 for kind, _, stream, _ in frames(received)):
        received += raw.socket.recv(1 << 16)
    assert echoes(port)


def test_windows_that_turn_negative(server, port):
    """SETTINGS that shrink the window below what is in flight, then open it again."""
    with Peer(port, greet=False) as raw:
        raw.raw(
            HELLO + frame(HEADERS, END_HEADERS, 1, BLOCK) + frame(DATA, END_STREAM, 1, message(b"big:200000"))
        )
        received = raw.socket.recv(1 << 20)
        raw.raw(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)))
        raw.raw(
            frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 20)) + frame(WINDOW_UPDATE, 0, 0, b"\0\x10\0\0")
        )
        while not any(kind == HEADERS and flags & END_STREAM for kind, flags, _, _ in frames(received)):
            received += raw.socket.recv(1 << 20)
    assert sum(len(payload) for kind, _, _, payload in frames(received) if kind == DATA) == 200_005


def test_zero_windows_are_given_up():
    with (
        native_server(arguments={"tfs.write_stall_ms": 100}) as server,
        Peer(server.ports[0], window=0) as peer,
    ):
        streams = [peer.open(message(b"big:100000")) for _ in range(10)]
        peer.until(lambda: set(peer.resets) == set(streams))
        assert server.stats()["evicted"] == 10
        assert echoes(server.ports[0])


# -- slow and silent peers


def test_a_reader_that_does_not_read():
    with (
        native_server(arguments={"tfs.write_stall_ms": 200}) as server,
        Peer(server.ports[0], window=2**31 - 1, receive_buffer=4096) as peer,
    ):
        peer.h2.increment_flow_control_window(2**31 - 1 - 65535)
        for _ in range(20):
            peer.open(message(b"big:5000000"))
        wait_for(lambda: server.stats()["streams"] >= 1)
        assert echoes(server.ports[0])
        wait_for(lambda: server.stats()["connections"] == 0)


def test_answers_nobody_reads_are_limited():
    with native_server() as server, Peer(server.ports[0], window=0) as peer:
        for _ in range(6):
            peer.open(message(b"big:50000000"))
        wait_for(lambda: server.stats()["answered"] == 6)
        headers, _ = peer.call(b"one more")
        assert headers["grpc-status"] == "8"
        assert "wait to be read on this connection" in headers["grpc-message"]
        assert echoes(server.ports[0])


def test_a_writer_that_stalls():
    with native_server(arguments={"tfs.upload_stall_ms": 100}) as server, Peer(server.ports[0]) as peer:
        stream = peer.open(message(b"x" * 100)[:50], end=False)
        silent = peer.open(None, end=False)
        peer.until(lambda: {stream, silent} <= set(peer.headers))
        assert peer.headers[stream]["grpc-status"] == "1"
        assert peer.headers[stream]["grpc-message"] == "the request made no progress"
        assert peer.headers[silent]["grpc-status"] == "1"
        assert server.stats()["request_bytes"] == 0
        assert peer.call(b"next")[1] == message(b"next")


def test_a_writer_of_single_bytes():
    """A byte now and then is no progress."""
    with native_server(arguments={"tfs.upload_stall_ms": 300}) as server, Peer(server.ports[0]) as peer:
        stream = peer.open(message(b"x" * 100_000)[:6], end=False)
        until = time.monotonic() + 20
        while stream not in peer.headers:
            assert time.monotonic() < until
            peer.h2.send_data(stream, b"x")
            peer.flush()
            peer.read(0.02)
        assert peer.headers[stream]["grpc-status"] == "1"


@pytest.mark.parametrize(
    "start",
    [b"", PREFACE[:10], PREFACE, PREFACE + b"\0\0\x06\x04", HELLO + frame(HEADERS, 0, 1, BLOCK[:5])],
    ids=["silent", "half a preface", "preface alone", "half a frame", "half a header block"],
)
def test_half_open_connections(start):
    with native_server(arguments={"grpc.server_handshake_timeout_ms": 100}) as server:
        with Peer(server.ports[0], greet=False) as raw:
            raw.raw(start)
            drain(raw)
        wait_for(lambda: server.stats()["connections"] == 0)


def test_a_thousand_stalled_uploads():
    with native_server(byte_budget=32 << 20, arguments={"grpc.max_concurrent_streams": 100}) as server:
        body = os.urandom(1 << 20)
        peers = [Peer(server.ports[0]) for _ in range(10)]
        for peer in peers:
            peer.read()
            for _ in range(100):
                peer.h2.send_headers(stream := peer.h2.get_next_available_stream_id(), request_headers())
                peer.h2.send_data(stream, message(body)[:10_000])
            peer.flush()
        wait_for(lambda: server.stats()["streams"] == 1000)
        assert echoes(server.ports[0])
        assert server.stats()["request_bytes"] < 64 << 20
        with grpc.insecure_channel(f"127.0.0.1:{server.ports[0]}") as channel:
            assert channel.unary_unary(PREDICT)(body, timeout=30) == body
        assert server.stats()["request_bytes"] < 64 << 20
        for peer in peers:
            peer.socket.close()
        wait_for(lambda: server.stats()["request_bytes"] == 0)


def stall(peer: Peer, count: int) -> list[int]:
    """Opens uploads of 8 MiB that stand still after 10,000 bytes, within the window that everybody has."""
    return [peer.open(message(bytes(8 << 20))[:10_000], end=False) for _ in range(count)]


def test_stalled_uploads_make_room_when_the_rest_is_too_little():
    """The budget is not used up, but what is left is less than a window."""
    with native_server(byte_budget=1 << 20, io_threads=1) as server, Peer(server.ports[0]) as peer:
        first, *_ = stall(peer, 4)
        wait_for(lambda: server.stats()["request_bytes"] > 1 << 20)
        peer.h2.reset_stream(first)
        peer.flush()
        wait_for(lambda: (1 << 20) - (256 << 10) < server.stats()["request_bytes"] < 1 << 20)
        with grpc.insecure_channel(f"127.0.0.1:{server.ports[0]}") as channel:
            body = os.urandom(1 << 20)
            assert channel.unary_unary(PREDICT)(body, timeout=30) == body


def test_calls_that_had_to_wait_have_their_time():
    """Time in which they could not send is not held against them: their windows come when the stalled ones are ended, after a second."""
    body = message(os.urandom(300_000))
    with (
        native_server(byte_budget=1 << 20, io_threads=1) as server,
        Peer(server.ports[0]) as peer,
        Peer(server.ports[0]) as stalled,  # looked at first: the younger one
    ):
        streams = stall(stalled, 4)
        wait_for(lambda: server.stats()["request_bytes"] > 1 << 20)
        peer.read()  # its connection's window
        waiting = dict.fromkeys((peer.open(body[:65_535], end=False) for _ in range(5)), 65_535)
        stalled.until(lambda: set(streams) <= set(stalled.headers))
        assert {stalled.headers[stream]["grpc-status"] for stream in streams} == {"1"}
        while waiting:
            peer.until(lambda: any(map(peer.h2.local_flow_control_window, waiting)))
            for stream in list(waiting):
                at = waiting[stream]
                while room := min(peer.h2.local_flow_control_window(stream), 16_384, len(body) - at):
                    peer.h2.send_data(stream, body[at : at + room], end_stream=at + room == len(body))
                    peer.flush()
                    at += room
                waiting[stream] = at
                if at == len(body):
                    del waiting[stream]
        peer.until(lambda: len(peer.ended) == 5)
        assert {headers["grpc-status"] for headers in peer.headers.values()} == {"0"}
        assert set(peer.data.values()) == {body}


def test_a_message_larger_than_the_budget_comes_in():
    with native_server(byte_budget=4 << 20) as server:
        options = [("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(f"127.0.0.1:{server.ports[0]}", options=options) as channel:
            body = os.urandom(20 << 20)
            assert channel.unary_unary(PREDICT)(body, timeout=30) == body


def test_uploads_beyond_the_budget_take_turns():
    with native_server(byte_budget=8 << 20) as server:
        options = [("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(f"127.0.0.1:{server.ports[0]}", options=options) as channel:
            body = os.urandom(3 << 20)
            futures = [channel.unary_unary(PREDICT).future(body, timeout=60) for _ in range(12)]
            assert all(f.result() == body for f in futures)


# -- garbage


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        os.urandom(2000),
        PREFACE.replace(b"PRI", b"PRX"),
        HELLO[:24] + os.urandom(500),
        HELLO + frame(DATA, 0, 1, b"x"),
        HELLO + frame(HEADERS, END_HEADERS, 2, BLOCK),
        HELLO + frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff"),
        HELLO + frame(SETTINGS, ACK, 0, b"x"),
        HELLO + frame(CONTINUATION, END_HEADERS, 1, BLOCK),
        HELLO + frame(RST_STREAM, 0, 7, b"\0\0\0\0"),
        HELLO + b"\xff\xff\xff" + bytes(6),
        HELLO
        + frame(GOAWAY, 0, 0, bytes(8))
        + frame(HEADERS, END_HEADERS, 1, BLOCK)
        + frame(PING, 0, 1, bytes(8)),
    ],
)
def test_garbage(port, raw, garbage):
    raw.raw(garbage)
    with contextlib.suppress(OSError):
        raw.socket.shutdown(socket.SHUT_WR)
    drain(raw)
    assert echoes(port)


def test_garbage_in_the_middle_of_calls(server, port, raw):
    raw.raw(HELLO + frame(HEADERS, END_HEADERS, 1, BLOCK) + frame(DATA, END_STREAM, 1, message(b"hold")))
    wait_for(lambda: server.engine.held == 1)
    raw.raw(b"\xff" * 1000)
    drain(raw)
    server.engine.answer_held()
    assert echoes(port)
