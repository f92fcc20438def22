"""The native gRPC transport over an engine that echoes: protocol, framing, errors, compression, windows, cold calls, leaving.

Real sockets and real clients (grpcio sync and aio, hyper-h2); others are in test_grpc_other_clients.py. No TensorFlow.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import struct
import threading
import zlib
from typing import Any

import grpc
import grpc.aio
import pytest

_fastpath = pytest.importorskip("tfs._fastpath")
if not _fastpath.HAVE_NATIVE:
    pytest.skip("this build has no native transport (libnghttp2 was not found)", allow_module_level=True)

from native_support import (  # noqa: E402
    COLD,
    DATA,
    GOAWAY,
    PATIENCE_S,
    PREDICT,
    Peer,
    frames,
    message,
    native_server,
    readable,
    refused,
    request_headers,
    wait_for,
)

from tfs.errors import TfsError  # noqa: E402

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@pytest.fixture
def server():
    with native_server() as server:
        yield server


@pytest.fixture
def peer(server):
    with Peer(server.ports[0]) as peer:
        yield peer


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.ports[0]}", options=UNLIMITED) as channel:
        yield channel


def status_of(call: Any, *arguments: Any, **keywords: Any) -> tuple[int, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **keywords)
    return caught.value.code().value[0], caught.value.details()


# -- calls


@pytest.mark.parametrize("size", [0, 1, 4091, 4092, 16384, 65530, 65531, 65536, 300_000, 5_000_000])
def test_bytes_come_back_whatever_their_number(channel, size):
    body = os.urandom(size)
    assert channel.unary_unary(PREDICT)(body) == body


def test_64_mib_both_ways(channel):
    body = os.urandom(1 << 20) * 64
    assert channel.unary_unary(PREDICT)(body, timeout=60) == body


def test_a_small_request_with_a_large_answer(channel):
    assert channel.unary_unary(PREDICT)(b"big:50000000", timeout=60) == b"big:50000000".ljust(
        50_000_000, b"x"
    )


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0", "unix:"])
def test_every_kind_of_address(address, tmp_path):
    if address == "unix:":
        address += str(tmp_path / "socket")
    with native_server(address) as server:
        target = address if address.startswith("unix:") else address[:-1] + str(server.ports[0])
        with grpc.insecure_channel(target) as channel:
            assert channel.unary_unary(PREDICT)(b"hello") == b"hello"
    assert not (tmp_path / "socket").exists()


def test_all_of_ipv6_beside_all_of_ipv4():
    with native_server("0.0.0.0:0") as first:
        port = first.ports[0]
        with native_server(f"[::]:{port}") as second, grpc.insecure_channel(f"[::1]:{port}") as channel:
            assert channel.unary_unary(PREDICT)(b"six") == b"six"
            assert second.stats()["answered"] == 1
    with native_server("[::]:0") as both, grpc.insecure_channel(f"127.0.0.1:{both.ports[0]}") as channel:
        assert channel.unary_unary(PREDICT)(b"four") == b"four"


def test_an_address_in_use_is_named(server):
    with (
        pytest.raises(TfsError, match=f"cannot listen on 127.0.0.1:{server.ports[0]}"),
        native_server(f"127.0.0.1:{server.ports[0]}"),
    ):
        pass


def test_many_threads_and_channels(server):
    def work(index: int) -> None:
        with grpc.insecure_channel(
            f"127.0.0.1:{server.ports[0]}", options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            call = channel.unary_unary(PREDICT)
            results[index] = all(call(b"%d-%d" % (index, i)) == b"%d-%d" % (index, i) for i in range(100))

    results: dict[int, bool] = {}
    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(8), True)
    assert server.stats()["accepted"] == 8


def test_grpcio_aio_with_many_streams(server):
    async def run() -> list[bytes]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.ports[0]}") as channel:
            call = channel.unary_unary(PREDICT)
            return await asyncio.gather(*(call(b"%d" % i) for i in range(500)))

    assert asyncio.run(run()) == [b"%d" % i for i in range(500)]


def test_answers_from_another_thread(server, channel):
    futures = [channel.unary_unary(PREDICT).future(b"hold%d" % i) for i in range(50)]
    wait_for(lambda: server.engine.held == 50)
    assert server.engine.answer_held() == 50
    assert [f.result(PATIENCE_S) for f in futures] == [b"hold%d" % i for i in range(50)]


# -- errors


@pytest.mark.parametrize(
    ("sent", "code", "text"),
    [
        (b"fail:3:plain", 3, "plain"),
        (b"fail:5:100% caf\xc3\xa9\n\ttab", 5, "100% café\n\ttab"),
        (b"fail:13:", 13, ""),
        (b"fail:8:" + b"a" * 1024, 8, "a" * 1024),
        (b"fail:8:" + b"a" * 1025, 8, "a" * 1024 + "...TRUNCATED"),
        (b"fail:99:beyond the codes", 2, "beyond the codes"),
    ],
)
def test_errors_carry_code_and_text(channel, sent, code, text):
    assert status_of(channel.unary_unary(PREDICT), sent) == (code, text)


def test_an_error_is_trailers_only(peer):
    headers, data = peer.call(b"fail:5:a b%")
    assert headers == {
        ":status": "200",
        "content-type": "application/grpc",
        "grpc-status": "5",
        "grpc-message": "a b%25",
    }
    assert data == b""


def test_unknown_method(channel):
    assert status_of(channel.unary_unary("/tensorflow.serving.PredictionService/Nope"), b"")[0] == 12


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"content_type": "application/json"}, "415"),
        ({"content_type": "application/grpc+json"}, "415"),
        ({"content_type": "application/grpcx"}, "415"),
        ({"content_type": ""}, "415"),
        ({"_method": "GET"}, "405"),
    ],
)
def test_what_is_not_grpc_gets_an_http_status(peer, changed, status):
    assert peer.call(b"x", request_headers(**changed)) == ({":status": status}, b"")


@pytest.mark.parametrize(
    "kind",
    ["application/grpc", "application/grpc+proto", "application/grpc;v=1", "application/grpc+proto;v=1"],
)
def test_content_types_of_grpc(peer, kind):
    assert peer.call(b"x", request_headers(content_type=kind))[1] == message(b"x")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0\0",
        message(b"abc")[:-1],
        message(b"abc") + b"x",
        message(b"a") * 2,
        b"\2\0\0\0\0",
        b"\1\0\0\0\0",
    ],
)
def test_misframed_messages_are_refused(peer, body):
    stream = peer.open(body)
    peer.until(lambda: stream in peer.ended)
    assert peer.headers[stream]["grpc-status"] == "13"
    assert peer.call(b"next")[1] == message(b"next")


@pytest.mark.parametrize("piece", [1, 2, 4, 5, 6])
def test_messages_split_anyhow(peer, piece):
    body = message(b"0123456789")
    stream = peer.open(None, end=False)
    for at in range(0, len(body), piece):
        peer.h2.send_data(stream, body[at : at + piece], pad_length=at)
        peer.flush()
    peer.h2.end_stream(stream)
    peer.flush()
    peer.until(lambda: stream in peer.ended)
    assert peer.data[stream] == body


def test_request_trailers_end_the_request(peer):
    stream = peer.open(message(b"x"), end=False)
    peer.h2.send_headers(stream, [("x-trailer", "1")], end_stream=True)
    peer.flush()
    peer.until(lambda: stream in peer.ended)
    assert peer.data[stream] == message(b"x")


def test_the_message_limit():
    with native_server(max_message_bytes=1000) as server, Peer(server.ports[0]) as peer:
        assert peer.call(b"x" * 1000)[1] == message(b"x" * 1000)
        headers, _ = peer.call(b"x" * 1001)
        assert headers["grpc-status"] == "8"
        assert headers["grpc-message"] == "SERVER: Received message larger than max (1001 vs. 1000)"


def test_a_refusal_before_the_end_of_the_request_stops_the_upload(peer):
    stream = peer.open(b"", request_headers("/no/such"), end=False)
    peer.until(lambda: stream in peer.resets)
    assert peer.headers[stream]["grpc-status"] == "12"
    assert peer.resets[stream] == 0


def test_the_metadata_limit():
    with native_server(arguments={"grpc.max_metadata_size": 1000}) as server, Peer(server.ports[0]) as peer:
        headers, _ = peer.call(b"x", request_headers(x_long="y" * 1000))
        assert headers["grpc-status"] == "8"
        assert headers["grpc-message"].startswith("received metadata size exceeds hard limit")
        assert peer.call(b"x")[1] == message(b"x")


# -- compression


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
@pytest.mark.parametrize("size", [0, 10, 100_000, 10_000_000])
def test_compressed_requests(peer, pack, size):
    body = (b"fail:0:" + b"abc" * size)[:size]
    encoding = "gzip" if pack is gzip.compress else "deflate"
    stream = peer.open(message(pack(body), 1), request_headers(grpc_encoding=encoding))
    peer.until(lambda: stream in peer.ended)
    assert peer.data[stream] == message(body)
    assert "grpc-encoding" not in peer.headers[stream]


def test_uncompressed_message_of_a_compressing_client(peer):
    assert peer.call(b"plain", request_headers(grpc_encoding="gzip"))[1] == message(b"plain")


def test_grpcio_compresses(channel):
    body = b"grpc" * 100_000
    assert channel.unary_unary(PREDICT)(body, compression=grpc.Compression.Gzip) == body


def test_unknown_compression(peer):
    headers, _ = peer.call(b"x", request_headers(grpc_encoding="snappy"))
    assert headers["grpc-status"] == "12"
    assert headers["grpc-accept-encoding"] == "identity,deflate,gzip"


def test_damaged_compression(peer):
    packed = gzip.compress(b"abc" * 1000)
    for body in (packed[:-9], b"garbage", b"", packed[:10] + b"\xff" * 50):
        stream = peer.open(message(body, 1), request_headers(grpc_encoding="gzip"))
        peer.until(lambda stream=stream: stream in peer.ended)
        assert peer.headers[stream]["grpc-status"] == "13", body


def test_a_bomb_is_cut_at_the_message_limit():
    bomb = gzip.compress(bytes(20_000_000))
    with native_server(max_message_bytes=1_000_000) as server, Peer(server.ports[0]) as peer:
        stream = peer.open(message(bomb, 1), request_headers(grpc_encoding="gzip"))
        peer.until(lambda: stream in peer.ended)
        assert peer.headers[stream]["grpc-status"] == "8"


# -- deadlines and cancellation


def test_a_client_deadline_cancels_the_call(server, channel):
    assert status_of(channel.unary_unary(PREDICT), b"hold", timeout=0.1)[0] == 4
    wait_for(lambda: server.stats()["resets"] == 1)
    assert server.engine.answer_held() == 1  # answers a stream that is gone
    wait_for(lambda: server.engine.live == 0)
    assert channel.unary_unary(PREDICT)(b"next") == b"next"


@pytest.mark.parametrize(
    ("text", "timeout_ns"),
    [
        ("10S", 10 * 10**9),
        ("2M", 120 * 10**9),
        ("1H", 3600 * 10**9),
        ("50000m", 50 * 10**9),
        ("99999999u", 99_999_999_000),
        ("99999999H", 2**61),
        ("99999999n", 99_999_999),
        ("100000000n", None),
        ("10", None),
        ("S", None),
        ("-1S", None),
        ("1s", None),
    ],
)
def test_grpc_timeout(server, peer, text, timeout_ns):
    stream = peer.open(message(b""), request_headers(COLD, grpc_timeout=text))
    assert readable(server)
    (call,) = server.take()
    if timeout_ns is None:
        assert call.timeout_ns is None
    else:
        assert timeout_ns - 10**9 < call.timeout_ns <= timeout_ns or text == "99999999H"
        assert call.timeout_ns > 0
    call.reply(b"")
    peer.until(lambda: stream in peer.ended)


def test_a_connection_that_dies_cancels_its_calls(server):
    with Peer(server.ports[0]) as peer:
        for _ in range(20):
            peer.open(message(b"hold"))
        wait_for(lambda: server.engine.held == 20)
    wait_for(lambda: server.stats()["connections"] == 0)
    assert server.engine.live == 20  # the tickets outlive their streams
    assert server.engine.answer_held() == 20
    assert server.engine.live == 0


# -- calls that Python answers


def test_cold_calls(server, channel):
    futures = [channel.unary_unary(COLD).future(b"%d" % i, timeout=PATIENCE_S) for i in range(3)]
    calls: list[Any] = []
    while len(calls) < 3:
        assert readable(server)
        calls += server.take()
    assert {call.path for call in calls} == {COLD}
    assert all(
        call.peer.startswith("ipv4:127.0.0.1:") and 0 < call.timeout_ns < (PATIENCE_S + 1) * 1e9
        for call in calls
    )
    calls.sort(key=lambda call: call.body)
    calls[0].reply(b"zero")
    calls[1].fail(5, "no é")
    assert futures[0].result() == b"zero"
    assert (futures[1].code().value[0], futures[1].details()) == (5, "no é")
    with pytest.raises(RuntimeError, match="answered already"):
        calls[1].reply(b"")
    del calls  # forgotten by the service
    assert (futures[2].code().value[0], futures[2].details()) == (13, "the service gave no answer")
    wait_for(lambda: server.stats()["cold_calls"] == 0)


def test_a_cancelled_cold_call_knows(server, peer):
    stream = peer.open(message(b""), request_headers(COLD))
    assert readable(server)
    (call,) = server.take()
    assert not call.cancelled
    peer.h2.reset_stream(stream)
    peer.flush()
    wait_for(lambda: call.cancelled)
    call.reply(b"too late")
    assert peer.call(b"next")[1] == message(b"next")


def test_cold_calls_may_be_answered_after_the_end():
    with native_server() as server, Peer(server.ports[0]) as peer:
        peer.open(message(b"kept"), request_headers(COLD))
        peer.open(message(b"never taken"), request_headers(COLD))
        assert readable(server)
        wait_for(lambda: server.stats()["cold_calls"] == 2)
        calls = server.take()
        server.close()
        assert calls[0].cancelled
        calls[0].reply(b"late")
        del calls


# -- leaving


def test_drain_finishes_what_is_under_way(server, channel):
    future = channel.unary_unary(PREDICT).future(b"hold", timeout=PATIENCE_S)
    wait_for(lambda: server.engine.held == 1)
    server.drain(PATIENCE_S)
    assert not server.wait_drained(0.05)
    assert refused(server.ports[0])
    server.engine.answer_held()
    assert future.result() == b"hold"
    assert server.wait_drained(PATIENCE_S)


def test_drain_says_goaway_twice(server, peer):
    stream = peer.open(message(b"hold"))
    wait_for(lambda: server.engine.held == 1)
    server.drain(PATIENCE_S)
    received = b""
    while sum(kind == GOAWAY for kind, _, _, _ in frames(received)) < 2:
        received += peer.socket.recv(65536)
    server.engine.answer_held()
    while data := peer.socket.recv(65536):
        received += data
    goaways = [payload for kind, _, _, payload in frames(received) if kind == GOAWAY]
    assert goaways == [struct.pack(">II", 2**31 - 1, 0), struct.pack(">II", stream, 0)]
    assert (DATA, 0, stream, message(b"hold")) in frames(received)
    assert server.wait_drained(PATIENCE_S)


def test_the_grace_ends(server, peer):
    peer.open(message(b"hold"))
    wait_for(lambda: server.engine.held == 1)
    server.drain(0.1)
    assert server.wait_drained(PATIENCE_S)
    peer.until_closed()


@pytest.mark.parametrize("argument", ["grpc.max_connection_age_ms", "grpc.max_connection_idle_ms"])
def test_connections_are_asked_to_leave(argument):
    with native_server(arguments={argument: "50"}) as server, Peer(server.ports[0]) as peer:
        assert peer.call(b"x")[1] == message(b"x")
        peer.until(lambda: peer.goaway)
        peer.until_closed()


def test_keepalive_pings_are_sent_and_missed():
    settings = {"grpc.keepalive_time_ms": 50, "grpc.keepalive_timeout_ms": 100}
    with (
        native_server(arguments=settings) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.ports[0]}") as channel,
    ):
        assert channel.unary_unary(PREDICT)(b"x") == b"x"
        with Peer(server.ports[0]) as silent:
            silent.until_closed()  # reads, but never answers
        assert channel.unary_unary(PREDICT)(b"x") == b"x"
        assert server.stats()["accepted"] == 2  # grpcio answered the pings and kept its connection


def test_client_pings_are_answered(peer):
    peer.h2.ping(b"12345678")
    peer.flush()
    peer.until(lambda: peer.acks == 1)
